"""Reads back what loggers wrote: TensorBoard's events, W&B's offline files, MLflow's database and CSV."""

import csv
import json
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@dataclass
class Logged:
    """What one logger holds.

    Attributes:
        curves: Steps and values by name, in the order they were logged in.
        images: Steps of the pictures by name.
        texts: Texts by name.
        settings: Settings by path.
    """

    curves: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    images: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    texts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def steps(self, name: str) -> list[int]:
        return [step for step, _ in self.curves[name]]


def tensorboard(folder: Path) -> Logged:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    tags, found = events.Tags(), Logged()
    for name in tags["scalars"]:
        found.curves[name] = [(event.step, event.value) for event in events.Scalars(name)]
    for name in tags["images"]:
        found.images[name] = [event.step for event in events.Images(name)]
        assert all(event.encoded_image_string.startswith(b"\x89PNG") for event in events.Images(name))
    for name in tags["tensors"]:
        if name.endswith("/text_summary"):
            found.texts[name.removesuffix("/text_summary")] = (
                events.Tensors(name)[-1].tensor_proto.string_val[0].decode()
            )
    if "_hparams_/session_start_info" in events.summary_metadata:
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        data = HParamsPluginData()
        data.ParseFromString(events.summary_metadata["_hparams_/session_start_info"].plugin_data.content)
        for name, value in data.session_start_info.hparams.items():
            found.settings[name] = getattr(value, value.WhichOneof("kind"))
    return found


def of_csv(folder: Path) -> Logged:
    found = Logged()
    with open(folder / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name != "step":
                    found.curves[name].append((int(row["step"]), float(value)))
    return found


def wandb(folder: Path) -> Logged:
    """What ``wandb sync`` would send of the offline runs in ``folder/wandb``, the oldest first."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = Logged()
    for run in sorted((folder / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_ctime_ns):
        (file,) = run.glob("*.wandb")
        for data in _records(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                _take(found, _nested(record.history.item), run)
            found.settings |= _nested(record.config.update)
    return found


def _nested(items: Any) -> dict[str, Any]:
    """Values by key, or by keys within each other."""
    found: dict[str, Any] = {}
    for item in items:
        name, *within = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        if within:
            found.setdefault(name, {})[within[0]] = value
        else:
            found[name] = value
    return found


def _take(found: Logged, items: dict[str, Any], run: Path) -> None:
    step = items.get("trainer/global_step", 0)
    for name, value in items.items():
        if isinstance(value, (int, float)) and not name.startswith(("_", "trainer/")):
            found.curves[name].append((step, value))
        elif isinstance(value, dict) and value["_type"] == "images/separated":
            found.images[name].append(step)
            assert all((run / "files" / path).read_bytes().startswith(b"\x89PNG") for path in value["filenames"])
        elif isinstance(value, dict) and value["_type"] == "table-file":
            found.texts[name] = json.loads((run / "files" / value["path"]).read_text())["data"][0][0]


def _records(data: bytes) -> list[bytes]:
    """Records of a file in LevelDB's log format, after a header of 7 bytes."""
    block, place, records, parts = 32768, 7, [], []
    while place + 7 <= len(data):
        if block - place % block < 7:  # no room for a record's head: the next block
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            records.append(b"".join(parts))
            parts = []
    return records


def mlflow(folder: Path) -> Logged:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.absolute() / 'mlflow.db'}")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    found = Logged(settings=dict(run.data.params))
    for name in run.data.metrics:
        points = sorted(client.get_metric_history(run.info.run_id, name), key=lambda m: (m.timestamp, m.step))
        found.curves[name] = [(point.step, point.value) for point in points]
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    for path in sorted(artifacts.glob("images/*.png"), key=lambda path: path.stat().st_ctime_ns):
        name, _, step, *_ = path.name.replace("%", "+").split("+")
        found.images[name.replace("~", "/").replace("#", "/")].append(int(step))
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in artifacts.glob("*.*"):
        found.texts[path.stem] = path.read_text()
    return found
