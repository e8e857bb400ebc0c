"""The networks beside the default ConvNet: their shapes, sizes and names."""

import pytest
import torch

from bacon_pl import rng
from bacon_pl.errors import BaconError
from bacon_pl.networks import (
    MLP,
    SHORT_NAMES,
    VGG11,
    AlexNet,
    ConvNet,
    LeNet,
    ModifiedResNet18,
    ResNet18,
    TorchvisionModel,
    by_name,
    fused,
)
from bacon_pl.networks.torchvision_model import torchvision_names
from tests.networks.zoo import FIELD, VARIANTS


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("mlp", (128, 128, 128)),
        ("lenet", (84, 84, 84)),
        ("alexnet", (192 * 16, 192 * 16, 192 * 64)),
        ("vgg11", (512, 512, 512 * 4)),
        ("resnet18", (512, 512, 512 * 4)),
        ("resnet18_modified", (512, 512, 512)),
        ("convnet", (2048, 2048, 8192)),
        ("mobilenet_v3_small", (1024, 1024, 1024)),
    ],
)
def test_embedding_is_the_classifiers_input(name, features):
    for (channels, side), d in zip(((1, 28), (3, 32), (3, 64)), features, strict=True):
        network = by_name(name)(channels, (side, side), 7).eval()
        seen = []
        network.classifier.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        x = torch.randn(2, channels, side, side)
        z, logits = network(x)
        assert z.shape == (2, d)
        assert logits.shape == (2, 7)
        assert len(seen) == 1
        assert torch.equal(z, seen[0])
        assert torch.equal(logits, network.classifier(network.embed(x)))
        assert logits[0].ne(logits[1]).any()


@pytest.mark.parametrize(
    ("name", "channels", "side", "count"),
    [
        ("mlp", 3, 32, (3072 * 128 + 128) + (128 * 128 + 128) + 1290),
        ("mlp", 1, 28, (784 * 128 + 128) + (128 * 128 + 128) + 1290),
        ("lenet", 1, 28, 61_706),  # LeNet-5 with full connections, as it is known for MNIST
        ("lenet", 3, 32, 62_006),
        (
            "alexnet", 3, 32,
            (3 * 25 + 1) * 128 + (128 * 25 + 1) * 192 + (192 * 9 + 1) * 256 + (256 * 9 + 1) * 192 + (192 * 9 + 1) * 192
            + 3072 * 10 + 10,
        ),
        ("vgg11", 3, 32, 9_231_114),  # both as known from CIFAR-10 with batch norm, which has as many
        ("resnet18", 3, 32, 11_173_962),
        ("resnet18_modified", 3, 32, 11_173_962),
        ("resnet18_modified", 3, 64, 11_173_962),
        ("resnet18_modified", 3, 96, 11_181_642),  # torchvision's 11,689,512 but for the classifier
        ("convnet", 3, 32, (27 + 3) * 128 + 2 * (128 * 9 + 3) * 128 + 20_490),
    ],
)  # fmt: skip
def test_parameter_counts(name, channels, side, count):
    network = by_name(name)(channels, (side, side), 10)
    assert sum(p.numel() for p in network.parameters()) == count


def test_a_torchvision_model_is_torchvisions_own():
    ours = TorchvisionModel(3, (64, 64), 10, name="resnet18")
    assert sum(p.numel() for p in ours.parameters()) == 11_181_642  # torchvision's 11,689,512 but for the classifier
    gray = TorchvisionModel(1, (64, 64), 10, name="resnet18").eval()
    gray.load_state_dict(ours.state_dict())
    x = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(gray(x)[1], ours.eval()(x.repeat(1, 3, 1, 1))[1])


def test_the_modified_resnet_differs_from_torchvisions_in_its_stem_alone():
    for size, stem in (((224, 224), None), ((32, 32), "large")):
        ours, theirs = ModifiedResNet18(3, size, 10, stem), TorchvisionModel(3, size, 10, name="resnet18")
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(1, 3, *size)
        assert torch.equal(ours.eval()(x)[1], theirs.eval()(x)[1])
    small = ModifiedResNet18(3, (64, 64), 10).eval()
    traced = small.trace(torch.randn(1, 3, 64, 64))
    assert [tuple(map_.shape[1:]) for map_ in traced.hidden] == [
        (64, 64, 64),
        (128, 32, 32),
        (256, 16, 16),
        (512, 8, 8),
    ]


def test_weights_follow_the_generator_alone():
    for name in ("resnet18", "mnasnet0_5"):
        networks = []
        for _ in range(2):
            with rng.seeded(3, "network"):
                networks.append(by_name(name)(3, (32, 32), 5).state_dict())
        assert all(torch.equal(a, b) for a, b in zip(*(n.values() for n in networks), strict=True))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LeNet(1, (11, 12), 10), "too small for LeNet, which needs 12×12"),
        (lambda: LeNet(3, (15, 16), 10), "needs 16×16"),
        (lambda: AlexNet(3, (7, 7), 10), "too small for AlexNet"),
        (lambda: VGG11(3, (32, 31), 10), "images of 32×31 pixels are too small for VGG11, which needs 32×32"),
        (lambda: ResNet18(1, (20, 20), 10), "needs 21×21"),
        (lambda: MLP(1, (8, 8), 10, width=0), "width must be at least 1"),
        (lambda: ConvNet(1, (8, 8), 10, norm="insance"), "Did you mean 'instance'"),
        (lambda: ConvNet(1, (8, 8), 10, activation="swish"), "unknown activation"),
        (lambda: ConvNet(1, (8, 8), 10, pooling="mean"), "unknown pooling"),
        (lambda: ConvNet(1, (8, 8), 10, width=6, norm="group"), "4 groups, so 6"),
        (lambda: VGG11(3, (32, 32), 10, norm="layer"), "unknown norm of VGG11"),
        (lambda: ResNet18(3, (32, 32), 10, norm="layer"), "unknown norm of ResNet18"),
        (lambda: ModifiedResNet18(3, (32, 32), 10, stem="tiny"), "unknown stem of ModifiedResNet18"),
        (lambda: TorchvisionModel(3, (32, 32), 10, name="resnet19"), "Did you mean 'resnet1"),
        (lambda: TorchvisionModel(3, (32, 32), 10, name="alexnet"), "32×32 pixels .*too small.*e.g. 64×64"),
        (lambda: TorchvisionModel(3, (28, 28), 10, name="vit_b_32"), "e.g. 32×32"),
        (lambda: TorchvisionModel(3, (32, 64), 10, name="vit_b_32"), "not square"),
        (lambda: TorchvisionModel(4, (32, 32), 10), "1 or 3 channels"),
        (lambda: by_name("conv_net"), "Did you mean 'convnet'"),
        (lambda: by_name("mobilenetv2"), "Did you mean 'mobilenet_v2'"),
        (lambda: by_name("torchvision.lenet"), "unknown network"),
        (lambda: by_name("squeezenet1_0"), "unknown network"),
    ],
)
def test_what_cannot_be_is_told(build, message):
    with pytest.raises(BaconError, match=message):
        build()


def test_smallest_images_that_are_allowed_work():
    for network, channels, side in ((LeNet, 1, 12), (AlexNet, 3, 8), (VGG11, 1, 28), (ResNet18, 1, 21)):
        z, _ = network(channels, (side, side), 3)(torch.randn(2, channels, side, side))
        assert z.shape[1] in (84, 192, 512)
        assert not torch.equal(z[0], z[1])


def test_names():
    assert {name: by_name(name.upper()) for name in SHORT_NAMES} == {**FIELD, "convnet": ConvNet}
    assert isinstance(by_name("resnet18")(3, (32, 32), 2), ResNet18)
    assert isinstance(by_name("torchvision.resnet18")(3, (32, 32), 2), TorchvisionModel)
    assert {"resnet18", "vit_b_16", "efficientnet_b0"} <= set(torchvision_names())


@pytest.mark.parametrize(("options", "expected"), [({}, True), *((options, False) for options in VARIANTS.values())])
def test_only_the_default_convnet_takes_the_fused_kernels(monkeypatch, options, expected):
    taken = []
    monkeypatch.setattr(fused, "usable", lambda x: True)
    monkeypatch.setattr(ConvNet, "_embed_fused", lambda self, x: taken.append(self) or self.features(x))
    ConvNet(1, (8, 8), 2, width=4, depth=1, **options)(torch.randn(2, 1, 8, 8))
    assert bool(taken) is expected
