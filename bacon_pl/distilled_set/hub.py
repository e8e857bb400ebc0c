"""Distilled sets as Hugging Face datasets: in memory, as a parquet file, and on the Hub.

The packages ``datasets`` and ``huggingface_hub`` are an optional extra and are imported only when they are needed.
"""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from bacon_pl.distilled_set.card import dataset_card
from bacon_pl.distilled_set.file import FILE_NAME
from bacon_pl.distilled_set.pictures import png, to_bytes
from bacon_pl.errors import BaconError, one_line
from bacon_pl.runtime import replacing

if TYPE_CHECKING:
    import datasets

    from bacon_pl.distilled_set.artifact import DistilledSet

PARQUET_NAME = "train-00000-of-00001.parquet"
"""The Hub's name for the only file of a split, from which ``load_dataset`` infers the split."""

_SCHEME = "hf://"
# Paths lose a slash: str(Path("hf://a/b")) is "hf:/a/b".
_PLACE = re.compile(
    r"hf://?(?:datasets/(?=[^/]+/[^/]+))?(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<file>.+))?"
)
_ROWS_IN_A_GROUP = 100  # the number of rows that the Hub's viewer reads at once


def fetch(place: str | os.PathLike[str]) -> Path:
    """Download a set's file from the Hub, unless it is already in Hugging Face's cache.

    Args:
        place: Address ``hf://user/name`` or ``hf://user/name@revision``, optionally followed by the ``/path`` of a file
            or folder in the repository.

    Returns:
        The path of the file in the cache.

    Raises:
        BaconError: The address is malformed, there is no set at it, or the Hub cannot be reached.
    """
    given = os.fspath(place)
    found = _PLACE.fullmatch(given.rstrip("/"))
    if found is None:
        raise BaconError(
            f"'{one_line(given)}' is not the address of a set on the Hub: write {_SCHEME}user/name, "
            f"{_SCHEME}user/name@revision or {_SCHEME}user/name/path."
        )
    repo, revision, name = found["repo"], found["revision"] and unquote(found["revision"]), found["file"] or ""
    if not name.endswith(".safetensors"):
        name = f"{name}/{FILE_NAME}".lstrip("/")
    hub = _imported("huggingface_hub", f"to read '{given}'")
    errors = importlib.import_module("huggingface_hub.errors")
    where = f"'{repo}' on {_endpoint()}"
    try:
        return Path(
            hub.hf_hub_download(
                repo,
                name,
                repo_type="dataset",
                revision=revision,
                library_name="bacon_pl",
            )
        )
    except errors.GatedRepoError as error:
        raise BaconError(
            f"the dataset {where} is only for those whom its owner lets in: ask there for access, then log in with "
            "`hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BaconError(
            f"there is no dataset {where}, or it is private: check the name, or log in with `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BaconError(f"the dataset {where} has no revision '{revision}': give a branch, tag or commit.") from error
    except errors.LocalEntryNotFoundError as error:
        raise BaconError(
            f"cannot reach the dataset {where}, and '{name}' is not in the cache: check the network, HF_ENDPOINT and "
            "HF_HUB_OFFLINE."
        ) from error
    except errors.EntryNotFoundError as error:
        raise BaconError(
            f"the dataset {where} holds no '{name}': give the set's place in it, as {_SCHEME}{repo}/path."
        ) from error
    except Exception as error:  # clients and servers of different versions raise different errors
        raise BaconError(f"cannot read '{given}' ({_reason(error)}); try again later, or fetch the file.") from error


def to_huggingface(distilled: DistilledSet) -> datasets.Dataset:
    """Convert a set's expanded images, rounded to bytes, to a Hugging Face dataset.

    Args:
        distilled: The set.

    Returns:
        A :class:`datasets.Dataset` with features ``image`` (PNG), ``label`` (class names) and, if the set has soft
        labels, ``soft_label`` (C float32 numbers), class by class.

    Raises:
        BaconError: The package ``datasets`` is not installed.
    """
    package = _imported("datasets", "to make a dataset of Hugging Face")
    pixels = [image for images in distilled.pixels_by_class(expanded=True) for image in to_bytes(images)]
    order = distilled.targets.argsort(stable=True)
    features = {"image": package.Image(), "label": package.ClassLabel(names=_label_names(distilled.classes))}
    columns: dict[str, Any] = {
        "image": [{"bytes": png(image), "path": None} for image in pixels],
        "label": distilled.targets[order].tolist(),
    }
    if (soft_labels := distilled.expanded_soft_labels()) is not None:
        # In float32, which holds the same numbers, since few readers of parquet know float16.
        features["soft_label"] = package.Sequence(package.Value("float32"), length=distilled.meta.num_classes)
        columns["soft_label"] = soft_labels[order].float().numpy()
    made: datasets.Dataset = package.Dataset.from_dict(columns, features=package.Features(features))
    return made


def write_parquet(distilled: DistilledSet, target: Path) -> None:
    """Write the dataset of :func:`to_huggingface` to a parquet file atomically.

    Args:
        distilled: The set.
        target: The file; missing parent folders are created.

    Raises:
        BaconError: The package ``datasets`` is not installed, or the file cannot be written.
    """
    dataset = to_huggingface(distilled)
    parquet = importlib.import_module("pyarrow.parquet")  # comes with datasets
    # The schema records which column holds images, and the names of the labels. dataset.to_parquet is not used because
    # it shows a progress bar.
    table = dataset.with_format("arrow")[:].cast(dataset.features.arrow_schema)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            parquet.write_table(table, file, row_group_size=_ROWS_IN_A_GROUP)
    except OSError as error:
        raise BaconError(f"cannot write '{target}' ({error.strerror}); choose a place you can write to.") from error


def push(
    distilled: DistilledSet,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload a set; see :meth:`DistilledSet.push_to_hub`."""
    hub = _imported("huggingface_hub", "to upload a set")
    with tempfile.TemporaryDirectory() as folder:
        files = {FILE_NAME: Path(folder, FILE_NAME), f"data/{PARQUET_NAME}": Path(folder, PARQUET_NAME)}
        distilled.save(files[FILE_NAME])
        write_parquet(distilled, files[f"data/{PARQUET_NAME}"])
        try:
            api = hub.HfApi(token=token, library_name="bacon_pl")
            repo = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(repo, branch=revision, repo_type="dataset", exist_ok=True)
            place = f"{_SCHEME}{repo}" + (f"@{quote(revision, safe='')}" if revision else "")
            card = dataset_card(distilled, repo, place).encode(errors="replace")
            contents: dict[str, Path | bytes] = {**files, "README.md": card}
            api.create_commit(
                repo,
                [hub.CommitOperationAdd(name, content) for name, content in contents.items()],
                repo_type="dataset",
                revision=revision,
                commit_message=commit_message or f"Distilled set {distilled.checksum}",
            )
        except Exception as error:  # clients and servers of different versions raise different errors
            raise BaconError(
                f"cannot upload the set to '{one_line(repo_id)}' on {_endpoint()} ({_reason(error)}); check the "
                "name and the network, and log in with `hf auth login` as someone who may write there."
            ) from error
    return place


def _imported(name: str, purpose: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BaconError(
            f"the package {name} is needed {purpose} and cannot be imported ({one_line(error)}): "
            'pip install "bacon_pl[huggingface]".'
        ) from error


def _endpoint() -> str:
    return str(importlib.import_module("huggingface_hub.constants").ENDPOINT)


def _reason(error: Exception) -> str:
    return one_line(str(error).strip() or type(error).__name__)


def _label_names(classes: tuple[str, ...]) -> list[str]:
    """Convert class names to a form that ClassLabel accepts: distinct names that can be encoded."""
    clean = [name.encode(errors="replace").decode() for name in classes]
    if len(set(clean)) == len(clean):
        return clean
    digits = len(str(len(clean) - 1))
    return [f"{label:0{digits}d} {name}" for label, name in enumerate(clean)]
