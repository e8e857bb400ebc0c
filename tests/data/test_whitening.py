"""ZCA whitening: golden numbers, its fit, its space in data and distilled sets, and what is refused."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bacon_pl import cache_files
from bacon_pl.augment import NoAugmentation
from bacon_pl.data import DataModule, DatasetMeta, InMemoryData, LabeledImages, load_dataset, normalize, whitening
from bacon_pl.data.whitening import Whitening, check_whitening, fit_zca, fitted
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.learners import Learners, Recipe, TrainingSet
from bacon_pl.learners.fingerprint import described
from bacon_pl.selection import Start, canvases

META = DatasetMeta("toy", ("a", "b"), 3, (5, 5), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "cache"))
    forget(monkeypatch)


def forget(monkeypatch):
    """Do as a new process does: nothing is held but what the cache has."""
    monkeypatch.setattr(whitening, "_held", {})
    whitening._constants.cache_clear()


def noise(n, *shape, seed=0):
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def whitened_digits(**options):
    data = DataModule("digits", whitening="zca", **options)
    data.setup()
    return data


def test_golden(golden):
    g = golden("zca")
    for name, found in zip(("mean", "matrix", "inverse"), fit_zca(g["fit_pixels"], float(g["eps"])), strict=True):
        assert found.dtype == torch.float64
        assert (found - g[name]).abs().max() < 1e-13
    meta = dataclasses.replace(META, whitening=fitted(g["fit_pixels"], float(g["eps"])))
    for pixels, white in (("fit_pixels", "fit_white"), ("new_pixels", "new_white")):
        assert (meta.normalize(g[pixels], torch.float64) - g[white]).abs().max() < 1e-13
    assert (meta.pixels(g["new_white"]) - g["new_back"]).abs().max() < 1e-13


def test_the_fit_is_float64_and_the_same_for_any_order_and_default_type():
    images = noise(50, 3, 4, 4)
    first = fit_zca(images)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        again = fit_zca(images[torch.randperm(50, generator=torch.Generator().manual_seed(1))])
        space = fitted(images)
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, space.matrices().values(), strict=True))
    assert space == fitted(images.flip(0)) != fitted(images[1:])
    assert space.fingerprint != fitted(images, 0.2).fingerprint


@settings(max_examples=20)
@given(st.integers(2, 12), st.sampled_from([(1, 2, 3), (3, 3, 3)]), st.integers(0, 2**32), st.sampled_from([0.1, 1e-3]))
def test_whitened_training_images_are_uncorrelated_and_come_back(n, shape, seed, epsilon):
    images = noise(n, *shape, seed=seed)
    mean, matrix, inverse = fit_zca(images, epsilon)
    x = images.flatten(1).double() / 255 - mean
    covariance = (x @ matrix).T @ (x @ matrix) / (n - 1)
    s = torch.linalg.eigvalsh(torch.cov(x.T)).clamp(min=0)
    assert torch.allclose(torch.linalg.eigvalsh(covariance), s / (s + epsilon), atol=1e-9)
    assert torch.allclose(matrix @ inverse, torch.eye(len(mean), dtype=torch.float64), atol=1e-9)
    assert torch.allclose(matrix, matrix.T, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normalized_data_keep_their_bits(dtype):
    images = noise(4, 3, 5, 5)
    assert torch.equal(META.normalize(images, dtype), normalize(images, META.mean, META.std, dtype))


def test_autocast_and_half_precision_do_not_coarsen_it():
    meta = dataclasses.replace(META, whitening=fitted(noise(60, 3, 5, 5)))
    images = noise(4, 3, 5, 5, seed=1)
    exact = meta.normalize(images, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(meta.normalize(images, torch.float32), exact)
        assert torch.equal(meta.pixels(exact), meta.pixels(exact.clone()))
        assert meta.pixels(exact).dtype == torch.float32
    assert torch.equal(meta.normalize(images, torch.bfloat16), exact.bfloat16())


def test_test_batches_and_iterations_are_whitened_by_all_training_images():
    data = whitened_digits(val_fraction=0.2)
    everything = whitened_digits()
    assert data.meta.whitening == everything.meta.whitening == fitted(everything.train.images)
    held = whitening.Whitening.matrices(data.meta.whitening)
    images = data.test.images[:3]
    by_hand = (images.flatten(1).double() / 255 - held["mean"]) @ held["matrix"]
    x, _ = data.on_after_batch_transfer((images, data.test.labels[:3]), 0)
    assert x.dtype == torch.float32
    assert (x.flatten(1) - by_hand).abs().max() < 1e-5
    start = canvases(data.train, data.meta, 1, 1, Start(), 0)
    assert float((start - start.mean(0)).square().mean()) < 1  # a soft whitening shrinks every direction below 1


def test_a_second_start_reads_the_cache(monkeypatch):
    space = whitened_digits().meta.whitening
    matrices = space.matrices()
    forget(monkeypatch)
    monkeypatch.setattr(whitening, "fit_zca", None)
    assert whitened_digits().meta.whitening == space
    assert all(torch.equal(space.matrices()[name], found) for name, found in matrices.items())
    (entry,) = [entry for entry in cache_files.entries()[0] if entry.kind == "whitening"]
    assert entry.about == "ZCA of digits"
    assert entry in cache_files.clear()


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "file/below"))
    with pytest.warns(UserWarning, match="the next start has to fit the whitening again"):
        data = whitened_digits()
    assert data.normalize(data.test.images[:2]).isfinite().all()


def test_a_set_without_its_matrices_opens_and_says_what_its_pictures_need(tmp_path, monkeypatch):
    data = whitened_digits()
    made = DistilledSet(torch.randn(10, 1, 8, 8), torch.arange(10), data.meta)
    made.save(tmp_path / "set.safetensors")
    shown = made.pixels()
    forget(monkeypatch)
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "another"))
    opened = DistilledSet.load(tmp_path / "set.safetensors")
    assert opened == made and opened.meta.whitening == data.meta.whitening
    assert len(opened.expanded()[0]) == 10
    with pytest.raises(BaconError, match="matrices of this space are not in the cache: load the dataset"):
        opened.pixels()
    assert "not in the cache" in opened._repr_html_()
    whitened_digits()
    assert torch.equal(opened.pixels(), shown)


def test_pictures_of_tiles_are_of_pixels():
    images = noise(40, 3, 8, 8).float()
    images = torch.nn.functional.avg_pool2d(images, 5, 1, 2).to(torch.uint8)  # smooth, so that scaling loses little
    store = LabeledImages(images, torch.arange(40) % 2, ("a", "b"))
    plain = InMemoryData(store, mean=[0.5] * 3, std=[0.2] * 3)
    white = InMemoryData(store, whitening="zca")
    shown = []
    for data in (plain, white):
        data.setup()
        made = canvases(data.train, data.meta, 1, 2, Start(), 0)
        shown.append(DistilledSet(made, torch.arange(2), data.meta, factor=2))
    a, b = (made.pixels() for made in shown)
    assert a.shape == b.shape == (2, 1, 3, 8, 8)
    assert (a - b).abs().mean() < 0.05
    assert (white.meta.denormalize(shown[1].images) - a[:, 0]).abs().mean() > 2 * (a - b).abs().mean()
    assert torch.equal(shown[1].pixels(expanded=True)[0], white.meta.denormalize(shown[1].expanded()[0][::2]))


def test_augmentation_on_pixels_sees_pixels():
    class Seen(NoAugmentation):
        on_pixels = True

        def per_image(self, x, seed, *keys):
            seen.append(x)
            return x

    data, seen = whitened_digits(), []
    recipe = Recipe(epochs=1, num_networks=1, batch_size=5, augment=Seen(), acceleration="off")
    learners = Learners(TrainingSet.random(data.train, 1, 1, 0), recipe, data.meta)
    x, _ = learners.augmented_batch(0, 0)
    plain, _ = learners.batch(0, 0)
    assert seen[0].min() >= 0 and seen[0].max() <= 1
    assert (x - plain).abs().max() < 1e-4


def test_trained_networks_of_another_space_are_others():
    data, white = DataModule("digits"), whitened_digits()
    data.setup()
    plain = described(data.train, data.meta, Recipe(), 0)
    assert "whitening" not in plain
    assert described(white.train, white.meta, Recipe(), 0) == {
        **plain,
        "whitening": white.meta.whitening.to_json(),
    }


def test_sets_of_different_spaces_do_not_fit():
    plain, white = DataModule("digits"), whitened_digits()
    plain.setup()
    other = dataclasses.replace(white.meta, whitening=Whitening("zca", 0.1, "0" * 24))
    images, labels = torch.zeros(10, 1, 8, 8), torch.arange(10)
    for meta, data, message in (
        (white.meta, plain.meta, "give --data.whitening zca"),
        (plain.meta, white.meta, "leave --data.whitening out"),
        (other, white.meta, "another space: give the training images"),
    ):
        with pytest.raises(BaconError, match=message):
            DistilledSet(images, labels, meta).check_fits(data)
    DistilledSet(images, labels, white.meta).check_fits(whitened_digits(val_fraction=0.1).meta)


def test_a_finished_set_is_tested_on_images_in_memory_alone():
    data = whitened_digits()
    alone = InMemoryData(None, data.test, meta=data.meta)
    alone.setup()
    assert torch.equal(alone.normalize(data.test.images[:2]), data.normalize(data.test.images[:2]))
    with pytest.raises(BaconError, match="fitted to training images, and there are none"):
        InMemoryData(None, data.test, meta=dataclasses.replace(data.meta, whitening=None), whitening="zca").setup()


def test_what_cannot_be_whitened_is_refused_before_anything_is_allocated(monkeypatch):
    with pytest.raises(BaconError, match=r"--data.whitening must be zca or null, got 'pca'"):
        DataModule("digits", whitening="pca")
    with pytest.raises(BaconError, match=r"each matrix of --data.whitening zca would take 181 GB: scale them down"):
        DataModule("cifar10", image_size=224, whitening="zca")
    large = LabeledImages(
        torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(2, 3, 200, 200), torch.arange(2), ("a", "b")
    )
    with pytest.raises(BaconError, match="120,000 values"):
        InMemoryData(large, whitening="zca")
    check_whitening("zca", 3 * 32 * 32)
    monkeypatch.setattr(whitening, "memory_bytes", lambda: 1 << 20)
    with pytest.raises(BaconError, match="as memory allows"):
        check_whitening("zca", 3 * 32 * 32)


@pytest.mark.parametrize("whitened", [False, True])
def test_what_a_test_has_made_first_serves_gradients(whitened):
    """Constants are kept, and tensors that inference mode has made cannot be saved for a gradient."""
    images = load_dataset("digits", ".")[:2]
    data = InMemoryData(*images, mean=[0.123], std=[0.321], whitening="zca" if whitened else None)
    data.setup()
    with torch.inference_mode():
        data.meta.pixels(data.meta.normalize(images[1].images[:2], torch.float32))
        data.meta.limits(torch.float32, torch.device("cpu"))
    x = data.meta.normalize(images[1].images[:2], torch.float32).requires_grad_()
    low, high = data.meta.limits(torch.float32, torch.device("cpu"))
    pixels = data.meta.pixels(x if whitened else torch.minimum(torch.maximum(x, low), high))
    pixels.square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()
