"""Python on the pages runs: a page's blocks one after the other, as a reader would paste them, made small.

Blocks that begin with the name of a file are files of the reader's; ``test_families`` and ``test_commands`` use them.
"""

import re

import pytest
import yaml

from bacon_pl.commands.settings import settings_of
from bacon_pl.interop import dataset_meta
from bacon_pl.networks import ConvNet
from tests.distilled_set.making import make
from tests.docs.pages import PAGES, blocks, example_files, name
from tests.real_formats import write_dataset

# What makes an example small, and nothing else.
TINY = """
data: {batch_real: 4, pool_batch: 8}
model: {network: &network {class_path: ConvNet, init_args: {width: 4}}, pool: {initial: 1, train_steps: 1}}
evaluation: {network: *network, num_networks: 1, epochs: 1, coreset_steps: 1}
trainer: {max_steps: 2}
"""
SMALLER = {
    'budget="small"': 'budget="tiny.yaml"',
    r"max_steps=[\d_]+": "max_steps=2",
    r"iteration=\d+\.ckpt": "iteration=2.ckpt",
    r"epochs=[12]00": "epochs=1",
    r"num_networks=[23]": "num_networks=1",
    r"DataModule\(": "DataModule(batch_real=4, pool_batch=8, ",
    r"(DistributionMatching|Recipe)\(": r"\1(network=__import__('functools').partial(SmallConvNet, width=4), ",
    r"(\"convnet\": )ConvNet": r"\1SmallConvNet",
}


def runnable(page):
    return [b.text for b in blocks(page) if b.language == "python" and not b.file and not b.not_run]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name)
def test_python_runs(page, tmp_path, monkeypatch):
    for dataset in ("mnist", "cifar10"):
        write_dataset(dataset, tmp_path / "DIR", monkeypatch, train_per_class=12)
    (tmp_path / "tiny.yaml").write_text(TINY)
    for run in ("mnist-ipc10", "folder-ipc10"):  # the page's commands have made them
        make(dataset_meta("mnist"), ipc=10).save(tmp_path / "runs" / run)
    monkeypatch.chdir(tmp_path)
    scope = {"SmallConvNet": ConvNet, "__name__": "pasted"}
    for text in runnable(page):
        for pattern, small in SMALLER.items():
            text = re.sub(pattern, small, text)
        exec(compile(text, name(page), "exec"), scope)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_yaml_is_yaml(page):
    for block in blocks(page):
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", [file for file in example_files() if file.endswith(".yaml")])
def test_configurations_are_accepted(file, standing_there):
    dataset = [] if file == "pets.yaml" else ["--config", "mnist/ipc10"]
    assert settings_of("fit", [*dataset, "--config", file])["model"]["ipc"] in (5, 10)
