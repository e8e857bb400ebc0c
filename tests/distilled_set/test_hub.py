"""A set as a dataset of Hugging Face, and there and back through a server that stands in for the Hub."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.interop import open_set
from tests.distilled_set.making import META, make
from tests.distilled_set.stand_in_hub import StandInHub
from tests.paths import ROOT

datasets = pytest.importorskip("datasets", reason="the extra huggingface is not installed")
hub_client = pytest.importorskip("huggingface_hub", reason="the extra huggingface is not installed")


@pytest.fixture(autouse=True)
def _private_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True, raising=False)  # the stand-in speaks LFS
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # before each of its retries
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does, which is read when the package is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for module in ("constants", "file_download"):  # older versions read it there
        monkeypatch.setattr(f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    with StandInHub() as server:
        point_to(server.url, monkeypatch)
        yield server


def with_labels() -> DistilledSet:
    """A set of 2, 3 and 1 canvases with soft labels of every tile."""
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    soft = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(4))
    return DistilledSet(make().images, labels, META, factor=2, soft_labels=soft, label_kind="logits", step_size=0.02)


def rows_of(distilled: DistilledSet) -> tuple[np.ndarray, list[int]]:
    """Expanded images, (N, H, W, ch), in bytes, class by class, and their labels."""
    pixels = (255 * torch.cat(distilled.pixels_by_class(expanded=True))).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy(), sorted(distilled.targets.tolist())


def check(dataset: Any, distilled: DistilledSet) -> None:
    assert isinstance(dataset.features["image"], datasets.Image)
    assert dataset.features["label"] == datasets.ClassLabel(names=list(distilled.classes))
    images, labels = rows_of(distilled)
    assert np.array_equal(np.stack([np.asarray(row["image"].convert("RGB")) for row in dataset]), images)
    assert dataset["label"][:] == labels
    soft = distilled.expanded_soft_labels()
    assert ("soft_label" in dataset.features) == (soft is not None)
    if soft is not None:
        order = distilled.targets.argsort(stable=True)
        assert dataset["soft_label"][:] == soft[order].float().tolist()


def test_to_huggingface() -> None:
    check(make().to_huggingface(), make())
    check(with_labels().to_huggingface(), with_labels())
    gray = make(replace(META, channels=1, mean=(0.5,), std=(0.2,))).to_huggingface()
    assert gray[0]["image"].mode == "L"


def test_parquet_is_read_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    distilled = make()
    path = distilled.to_parquet(tmp_path / "new" / "set.parquet")
    assert capfd.readouterr() == ("", "")
    assert path == tmp_path / "new" / "set.parquet"
    check(datasets.load_dataset("parquet", data_files=str(path), split="train"), distilled)
    (tmp_path / "folder").mkdir()
    assert distilled.to_parquet(tmp_path / "folder").parent == tmp_path / "folder"
    check(datasets.load_dataset(str(tmp_path / "folder"), split="train"), distilled)
    soft = with_labels().to_parquet(tmp_path / "soft.parquet")
    check(datasets.load_dataset("parquet", data_files=str(soft), split="train"), with_labels())
    again = distilled.to_parquet(tmp_path / "again.parquet")
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(BaconError, match=r"cannot write .*again.parquet/set"):
        distilled.to_parquet(again / "set")


def test_class_names_that_no_label_may_have(tmp_path: Path) -> None:
    names = ("same", "same", "line\nbreak\ud800")
    path = make(replace(META, class_names=names)).to_parquet(tmp_path / "a.parquet")
    read = datasets.load_dataset("parquet", data_files=str(path), split="train").features["label"].names
    assert read == ["0 same", "1 same", "2 line\nbreak?"]


def test_there_and_back(hub: StandInHub, tmp_path: Path) -> None:
    distilled = make(step_size=0.02)
    place = distilled.push_to_hub("me/toy", token="hf_secret", private=True)
    assert place == "hf://me/toy"
    assert hub.private == {"me/toy": True}
    assert hub.summaries == [f"Distilled set {distilled.checksum}"]
    files = hub.files("me/toy")
    assert sorted(files) == ["README.md", "data/train-00000-of-00001.parquet", "distilled.safetensors"]
    for address in (
        place,
        "hf://datasets/me/toy",
        "hf://me/toy@main",
        "hf://me/toy/distilled.safetensors",
        Path(place),
    ):
        assert DistilledSet.load(address) == distilled
    assert open_set(place) == distilled
    # What lies there is a dataset, too.
    for name, data in files.items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(data)
    check(datasets.load_dataset(str(tmp_path / "copy"), split="train"), distilled)
    # Pushed again it replaces what was there.
    make(seed=8).push_to_hub("me/toy", token="hf_secret", commit_message="Another seed")
    assert sorted(hub.files("me/toy")) == sorted(files)
    assert hub.summaries[-1] == "Another seed"


def test_revisions_and_folders(hub: StandInHub) -> None:
    first, second = make(), make(seed=8)
    first.push_to_hub("me/toy", token="hf_secret")
    assert second.push_to_hub("me/toy", token="hf_secret", revision="seed/8") == "hf://me/toy@seed%2F8"
    hub.files("me/toy")["ipc2/distilled.safetensors"] = hub.branches["me/toy"]["seed/8"]["distilled.safetensors"]
    hub.branches["me/toy"]["v1"] = hub.files("me/toy")
    assert DistilledSet.load("hf://me/toy@v1") == first
    assert DistilledSet.load("hf://me/toy@v1/ipc2") == second


def test_the_environment_names_the_hub(hub: StandInHub, tmp_path: Path) -> None:
    distilled = make()
    distilled.push_to_hub("me/toy", token="hf_secret")
    code = "from bacon_pl import DistilledSet; print(DistilledSet.load('hf://me/toy').checksum)"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == distilled.checksum


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("hf://toy", "'hf://toy' is not the address of a set on the Hub: write hf://user/name"),
        ("hf://", "is not the address"),
        ("hf://me/toy@/x", "is not the address"),
        ("hf://me/to y", "cannot read 'hf://me/to y'"),
        ("hf://me/nothing", "there is no dataset 'me/nothing' on http://.*, or it is private"),
        ("hf://me/toy@v9", "'me/toy' on http://.* has no revision 'v9'"),
        ("hf://me/toy/ipc9", "'me/toy' on http://.* holds no 'ipc9/distilled.safetensors'"),
        ("hf://me/gated", "only for those whom its owner lets in"),
        ("hf://me/broken", "cannot be read as a safetensors file"),
    ],
)
def test_what_is_not_there_is_one_sentence(hub: StandInHub, address: str, sentence: str) -> None:
    make().push_to_hub("me/toy", token="hf_secret")
    hub.branches["me/gated"] = {"main": {}}
    hub.gated.add("me/gated")
    hub.branches["me/broken"] = {"main": {"distilled.safetensors": b"nothing"}}
    with pytest.raises(BaconError, match=sentence) as error:
        DistilledSet.load(address)
    assert "\n" not in str(error.value)


def test_without_a_hub(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    make().push_to_hub("me/toy", token="hf_secret")
    DistilledSet.load("hf://me/toy")
    point_to("http://127.0.0.1:9", monkeypatch)
    assert DistilledSet.load("hf://me/toy") == make()  # from the cache
    with pytest.raises(BaconError, match="cannot reach the dataset 'me/other' on http://127.0.0.1:9"):
        DistilledSet.load("hf://me/other")
    with pytest.raises(BaconError, match="cannot upload the set to 'me/toy' on http://127.0.0.1:9 .* `hf auth login`"):
        make().push_to_hub("me/toy", token="hf_secret")


def test_who_may_not_write_is_told(hub: StandInHub) -> None:
    with pytest.raises(BaconError, match="cannot upload the set to 'me/toy' on .*401.* log in with `hf auth login`"):
        make().push_to_hub("me/toy", token="hf_wrong")
    assert hub.branches == {}


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("datasets", lambda s: s.to_huggingface()),
        ("datasets", lambda s: s.to_parquet("a.parquet")),
        ("huggingface_hub", lambda s: s.push_to_hub("me/toy")),
        ("huggingface_hub", lambda s: DistilledSet.load("hf://me/toy")),
    ],
)
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, package: str, call: Any) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        BaconError, match=rf"package {package} is needed to .*: pip install \"bacon_pl\[huggingface\]\""
    ):
        call(make())


def test_the_card_says_what_the_set_knows(hub: StandInHub) -> None:
    config = {"model": {"ipc": 2, "note": "```\n# not a heading"}, "seed": 7}
    distilled = make(replace(META, class_names=("ant", "b|ee", "c`at")), config=config, step_size=0.02)
    distilled.push_to_hub("me/toy", token="hf_secret")
    text = hub.files("me/toy")["README.md"].decode()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    assert front["size_categories"] == ["n<1K"]
    assert "dataset-distillation" in front["tags"]
    for line in (
        "# toy, distilled to 2 per class",
        'distilled = DistilledSet.load("hf://me/toy")',
        'pictures = load_dataset("me/toy", split="train")',
        "| dataset | toy, 3 classes, images of 3×8×12 |",
        "| method | bacon |",
        "| images per class (ipc) | 2 canvases stored, 8 to train on |",
        "| partition factor | 2 |",
        "| storage | 6,912 bytes of images as 32-bit floating-point numbers; 1,728 bytes at one byte per value, as the "
        "field counts, 1.73 % of the training images |",
        "| storage in all | 1,738 bytes: 1,728 of pixels, 6 of labels, 4 of the step size |",
        "| learned step size | 0.02 |",
        "| seed | 7 |",
        "| version of bacon_pl | 1.2.3 |",
        "| commit | abc |",
        f"| checksum of the set | {distilled.checksum} |",
        "Classes in label order: `ant`, `b_ee`, `c_at`.",
    ):
        assert f"\n{line}\n" in text, line
    block = re.search(r"\n````yaml\n(.*)\n````\n", text, re.DOTALL)
    assert block and yaml.safe_load(block[1]) == config
    assert re.search(r"rounded to 8 bits, and the [\d.]+ % of values that lie beyond black and white are clipped", text)


def test_the_card_of_a_set_with_soft_labels_and_unequal_numbers(hub: StandInHub) -> None:
    distilled = with_labels()
    distilled.push_to_hub("me/toy", token="hf_secret")
    assert DistilledSet.load("hf://me/toy") == distilled
    text = hub.files("me/toy")["README.md"].decode()
    for line in (
        "# toy, distilled to 1 to 3 per class",
        "| images per class (ipc) | 1 to 3 canvases stored, 4 to 12 to train on |",
        "| storage in all | 1,882 bytes: 1,728 of pixels, 150 of labels, 4 of the step size |",
        "| soft labels | logits, 3 for each tile |",
        "soft_labels = distilled.expanded_soft_labels()",
    ):
        assert f"\n{line}\n" in text, line
    assert "column `soft_label` holds the set's soft labels, logits" in text


def test_the_cards_code_runs(hub: StandInHub) -> None:
    distilled = make()
    distilled.push_to_hub("me/toy", token="hf_secret", revision="v1")
    text = hub.files("me/toy", "v1")["README.md"].decode()
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code[0], names)
    assert names["distilled"] == distilled and len(names["images"]) == len(distilled)
    assert 'load_dataset("me/toy", split="train", revision="v1")' in code[1]
