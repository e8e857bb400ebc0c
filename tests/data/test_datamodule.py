"""The datamodule, and what an iteration draws from the real images."""

import inspect
import warnings
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bacon_pl.data import DataModule, InOrder, IterationBatch, LabeledImages, denormalize, normalize
from bacon_pl.errors import BaconError


def numbered(sizes: list[int]) -> LabeledImages:
    """Images whose four pixels spell their position, classes interleaved by a fixed shuffle."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    position = torch.arange(len(labels))
    images = torch.stack([position // 256, position % 256, labels, labels], 1).to(torch.uint8).view(-1, 1, 2, 2)
    return LabeledImages(images, labels, tuple(map(str, range(len(sizes)))))


def positions(images: torch.Tensor) -> torch.Tensor:
    return images[..., 0, 0, 0].long() * 256 + images[..., 0, 0, 1].long()


def batch(store: LabeledImages, iteration: int = 0, seed: int = 0, real: int = 4, pool: int = 4) -> IterationBatch:
    return IterationBatch(store, iteration, seed, real, pool)


class_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=5)
seeds = st.integers(0, 2**63)
quick = settings(max_examples=50, deadline=None)


@quick
@given(class_sizes, st.integers(1, 15), seeds, st.integers(0, 20_000))
def test_matching_draws_each_class_without_repeats(sizes: list[int], real: int, seed: int, iteration: int) -> None:
    store = numbered(sizes)
    images, mask = batch(store, iteration, seed, real).matching()
    n = min(real, max(sizes))
    assert images.dtype == torch.uint8 and images.shape == (len(sizes), n, 1, 2, 2)
    assert (mask is None) == (min(sizes) >= n)
    for label, size in enumerate(sizes):
        row = positions(images[label])
        if mask is not None:
            assert mask[label].tolist() == [k < size for k in range(n)]
            row = row[mask[label]]
        drawn = row.tolist()
        assert len(drawn) == len(set(drawn)) == min(n, size)
        assert set(store.labels[row].tolist()) == {label}
    again, _ = batch(store, iteration, seed, real).matching()
    assert torch.equal(images, again)


@quick
@given(class_sizes, st.integers(1, 15), st.data())
def test_a_class_gets_the_same_images_in_any_company(sizes: list[int], real: int, data: st.DataObject) -> None:
    draw = batch(numbered(sizes), 3, 1, real)
    classes = torch.tensor(data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=4)))
    images, mask = draw.matching()
    some, some_mask = draw.matching(classes)
    assert torch.equal(some, images[classes])
    assert (some_mask is None) == (mask is None)
    if mask is not None and some_mask is not None:
        assert torch.equal(some_mask, mask[classes])


def test_matching_depends_on_iteration_seed_and_class() -> None:
    store = numbered([200, 200])
    draws = [positions(batch(store, t, s, 20).matching()[0]) for t, s in ((0, 0), (1, 0), (0, 1))]
    sets = [set(d[0].tolist()) for d in draws]
    assert sets[0] != sets[1] and sets[0] != sets[2] and sets[1] != sets[2]
    # Ranks within the class: two classes do not share one permutation.
    index, _ = store.class_table
    ranks = [torch.searchsorted(index[c], draws[0][c]).tolist() for c in (0, 1)]
    assert ranks[0] != ranks[1]


def test_matching_is_uniform_over_the_class() -> None:
    store = numbered([10])
    counts = torch.zeros(10)
    for iteration in range(1000):
        counts[positions(batch(store, iteration, 0, 3).matching()[0])[0]] += 1
    # Each is drawn with probability 0.3: 300 of 1000, standard deviation 14.5.
    assert torch.all((counts - 300).abs() < 75)


@quick
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 7), seeds)
def test_plain_batches_have_no_repeats_and_cover_a_pass(n: int, pool: int, steps: int, seed: int) -> None:
    store = numbered([n])
    images, labels = batch(store, 2, seed, pool=pool).random_batches(5, steps)
    size = min(n, pool)
    assert images.shape == (steps, size, 1, 2, 2) and labels.shape == (steps, size)
    drawn = positions(images)
    assert all(len(set(row.tolist())) == size for row in drawn)
    one_pass = drawn[: n // size].flatten().tolist()
    assert len(set(one_pass)) == len(one_pass)
    fewer, _ = batch(store, 2, seed, pool=pool).random_batches(5, 1)
    assert torch.equal(fewer, images[:1])


def test_plain_labels_belong_to_the_images_and_every_coordinate_counts() -> None:
    store = numbered([30, 50, 20])
    images, labels = batch(store, pool=16).random_batches(0, 3)
    assert torch.equal(images[..., 0, 1, 0].long(), labels)
    reference = positions(images).tolist()
    others = [
        batch(store, pool=16).random_batches(1, 3),
        batch(store, iteration=1, pool=16).random_batches(0, 3),
        batch(store, seed=1, pool=16).random_batches(0, 3),
    ]
    assert all(positions(other).tolist() != reference for other, _ in others)
    assert reference[0] != reference[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalize(dtype: torch.dtype) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(2, 1, 8, 16).expand(2, 3, 8, 16)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    m, s = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (mean, std))
    result = normalize(images, mean, std, dtype)
    assert result.dtype == dtype
    tolerance = 2e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(result.double(), (images.double() / 255 - m) / s, rtol=tolerance, atol=tolerance)
    assert images[1, 0, 7, 15] == 255  # the input is left alone


def digits(**options) -> DataModule:
    module = DataModule("digits", **options)
    module.setup()
    return module


def test_validation_images_are_held_out_of_training() -> None:
    whole, parted = digits(), digits(val_fraction=0.25)
    assert whole.val is None and parted.val is not None
    assert parted.val.counts.tolist() == (whole.train.counts * 0.25).round().int().tolist()
    assert torch.equal(parted.val.counts + parted.train.counts, whole.train.counts)
    rows = {
        data: sorted(map(bytes, x.images.flatten(1).numpy()))
        for data, x in (("whole", whole.train), ("train", parted.train), ("val", parted.val))
    }
    assert sorted(rows["train"] + rows["val"]) == rows["whole"]
    assert torch.equal(whole.test.images, parted.test.images)
    assert parted.meta.train_bytes == whole.train.images.numel() and parted.meta == whole.meta
    assert torch.equal(parted.val.images, digits(val_fraction=0.25).val.images)
    other = digits(val_fraction=0.25, split_seed=1)
    assert not torch.equal(parted.val.images, other.val.images)
    assert not torch.equal(whole.test.images, other.test.images)  # digits have no test images of their own


def test_setup_loads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = digits()
    train = module.train
    monkeypatch.setattr("bacon_pl.data.datamodule.load_dataset", lambda *a, **k: pytest.fail("loaded again"))
    module.setup("test")
    module.prepare_data()
    assert module.train is train


def test_only_prepare_data_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*args, download: bool, **kwargs):
        asked.append(download)
        return numbered([2]), numbered([1]), None

    monkeypatch.setattr("bacon_pl.data.datamodule.load_dataset", load)
    for download in (False, True):
        module = DataModule("digits", download=download)
        module.prepare_data()
        module.setup()
    assert asked == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagnet"}, "unknown dataset"),
        ({"batch_real": 0}, "batch_real must be at least 1"),
        ({"pool_batch": -1}, "pool_batch must be at least 1"),
        ({"eval_batch": 0}, "eval_batch must be at least 1"),
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and below 1"),
        ({"test_fraction": 0.0}, "test_fraction must be between"),
        ({"image_size": -3}, "image_size must be at least 1"),
        ({"std": [0.2, 0.0, 0.2]}, "std"),
    ],
)
def test_constructor_checks_its_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(BaconError, match=message):
        DataModule(**arguments)


def test_every_argument_is_documented() -> None:
    documentation = inspect.getdoc(DataModule)
    for name in inspect.signature(DataModule).parameters:
        assert f"\n    {name}: " in documentation, name


def test_in_order_batches() -> None:
    data = numbered([3, 4])
    batches = list(InOrder(data, 3))
    assert len(InOrder(data, 3)) == len(batches) == 3
    assert torch.equal(torch.cat([x for x, _ in batches]), data.images)
    assert torch.equal(torch.cat([y for _, y in batches]), data.labels)


class Probe(pl.LightningModule):
    """Records what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.automatic_optimization = False
        self.iterations: list[int] = []
        self.draws: list[torch.Tensor] = []
        self.stores: set[int] = set()
        self.tested: list[tuple[torch.Tensor, torch.Tensor]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def training_step(self, tick: int) -> None:
        assert isinstance(tick, int)
        batch = self.trainer.datamodule.iteration_batch(self.trainer.global_step, 0, self.device)
        assert isinstance(batch, IterationBatch)
        self.iterations.append(batch.iteration)
        self.draws.append(batch.matching()[0])
        self.stores.add(id(batch.store))
        self.weight.grad = torch.ones_like(self.weight)
        self.optimizers().step()

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.tested.append(batch)


def trainer(tmp_path: Path, **options) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(default_root_dir=tmp_path, enable_checkpointing=False, **quiet, **options)


def test_fit_counts_iterations_and_resumes_in_step(tmp_path: Path) -> None:
    whole = Probe()
    trainer(tmp_path, max_steps=5).fit(whole, datamodule=DataModule("digits", batch_real=7))
    assert whole.iterations == [0, 1, 2, 3, 4] and len(whole.stores) == 1

    first, second = Probe(), Probe()
    start = trainer(tmp_path, max_steps=2)
    start.fit(first, datamodule=DataModule("digits", batch_real=7))
    start.save_checkpoint(tmp_path / "at2.ckpt")
    end = trainer(tmp_path, max_steps=5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not resumable.*")
        end.fit(second, datamodule=DataModule("digits", batch_real=7), ckpt_path=tmp_path / "at2.ckpt")
    assert first.iterations + second.iterations == whole.iterations
    assert all(torch.equal(a, b) for a, b in zip(first.draws + second.draws, whole.draws, strict=True))


def test_fit_without_steps_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BaconError, match="--trainer.max_steps"):
        trainer(tmp_path, max_epochs=1).fit(Probe(), datamodule=DataModule("digits"))


def test_test_batches_are_normalized_and_in_order(tmp_path: Path) -> None:
    probe, module = Probe(), DataModule("digits", eval_batch=100)
    trainer(tmp_path).test(probe, datamodule=module, verbose=False)
    images = torch.cat([x for x, _ in probe.tested])
    labels = torch.cat([y for _, y in probe.tested])
    assert [len(y) for _, y in probe.tested] == [100, 100, 100, 60]
    assert images.dtype == torch.float32 and torch.equal(images, module.normalize(module.test.images))
    assert torch.equal(labels, module.test.labels)


def test_splits_do_not_follow_the_runs_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else a set distilled with one seed would be tested on images it was made from with another.
    one = digits(val_fraction=0.25)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    other = digits(val_fraction=0.25)
    assert torch.equal(one.test.images, other.test.images)
    assert torch.equal(one.val.images, other.val.images)


@pytest.mark.parametrize("name", ["train", "val", "test", "meta"])
def test_images_asked_for_too_early_are_one_sentence(name):
    module = DataModule(name="digits")
    assert not hasattr(module, name)
    with pytest.raises(BaconError, match=f"there is no '{name}' yet: call setup"):
        getattr(module, name)
    for use in (module.test_dataloader, lambda: module.iteration_batch(0, 0), lambda: module.normalize(None)):
        with pytest.raises(BaconError, match="the data are not loaded"):
            use()
    with pytest.raises(AttributeError, match="no attribute 'tset'"):
        module.tset  # noqa: B018


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"name": 3}, "--data.name must be text, got 3"),
        ({"root": None}, "--data.root must be text, got None"),
        ({"image_size": "8"}, "--data.image_size must be a whole number, got '8'"),
        ({"batch_real": 2.5}, "--data.batch_real must be a whole number, got 2.5"),
        ({"eval_batch": None}, "--data.eval_batch must be a whole number, got None"),
        ({"pool_batch": True}, "--data.pool_batch must be a whole number, got True"),
        ({"val_fraction": "0.1"}, "--data.val_fraction must be at least 0 and below 1"),
        ({"test_fraction": None}, "--data.test_fraction must be between 0 and 1"),
        ({"mean": 0.5}, "--data.mean must be a list of numbers, one per channel, got 0.5"),
        ({"std": "abc"}, "--data.std must be a list of numbers"),
        ({"mean": ["a"]}, r"--data.mean is of pixels in \[0, 1\]"),
    ],
)
def test_settings_of_another_type_are_one_sentence(chosen, said):
    with pytest.raises(BaconError, match=said):
        DataModule(**{"name": "digits", **chosen})
    DataModule(name="digits", batch_real=np.int64(3), val_fraction=np.float32(0.1), mean=(0.5,))


def test_constants_that_a_test_has_made_serve_gradients():
    """Trainer.test runs in inference mode, whose tensors cannot be saved for a backward pass."""
    numbers = ((0.123,), (0.456,))
    with torch.inference_mode():
        denormalize(torch.zeros(1, 1, 2, 2), *numbers)
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    denormalize(x, *numbers).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 0.456))
