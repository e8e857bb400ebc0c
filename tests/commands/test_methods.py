"""Every method on every dataset by the real command: two iterations and a short evaluation, on small files in the
formats that the datasets are published in."""

import json

import pytest
import torch

from bacon_pl.cli import main
from bacon_pl.distilled_set import DistilledSet
from tests.paths import CONFIGS, evaluation_in
from tests.real_formats import FACTS, write_dataset
from tests.thinned import thinned

FACTOR = {"bacon": 2, "dm+bacon": 1, "idm": 2, "idm+bacon": 2, "dm": 1}  # docs/methods/index.md


@pytest.fixture(scope="module", params=FACTS)
def dataset(request, tmp_path_factory):
    """A dataset's name and its folder, until the next one."""
    root = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        write_dataset(request.param, root, patch)
        yield request.param, root


@pytest.mark.parametrize("method", thinned(FACTOR, every=2))
def test_every_method_on_every_dataset(dataset, method, tmp_path):
    name, root = dataset
    facts, factor = FACTS[name], FACTOR[method]
    shared = [
        *("--config", str(CONFIGS / name / "ipc1.yaml"), "--config", str(CONFIGS / "methods" / f"{method}.yaml")),
        *("--data.root", str(root), "--data.batch_real", "2", "--data.pool_batch", "8"),
        *("--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu", "--trainer.logger", "false"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    ]
    main(["fit", *shared, "--model.network.width", "4", "--model.pool.train_steps", "2", "--trainer.max_steps", "2"])
    distilled = DistilledSet.load(tmp_path)
    assert distilled.images.shape == (facts.classes, facts.channels, facts.size, facts.size)
    assert torch.isfinite(distilled.images).all()
    assert (distilled.meta.mean, distilled.meta.std) == (facts.mean, facts.std)

    main(["eval", *shared, "--distilled", str(tmp_path), "--evaluation.network.width", "4",
          "--evaluation.num_networks", "1", "--evaluation.epochs", "1"])  # fmt: skip
    numbers = json.loads((evaluation_in(tmp_path) / "results.json").read_text())
    assert (numbers["dataset"], numbers["method"], numbers["ipc"], numbers["factor"]) == (name, method, 1, factor)
    assert numbers["train_images"] == facts.classes * factor**2
    assert sum(map(sum, numbers["confusion"])) == facts.classes  # one test image of each
