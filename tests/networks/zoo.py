"""The networks that the tests of this folder go through, and their variants."""

from functools import partial

from bacon_pl.networks import MLP, VGG11, AlexNet, ConvNet, LeNet, ModifiedResNet18, ResNet18, TorchvisionModel

FIELD = {"mlp": MLP, "lenet": LeNet, "alexnet": AlexNet, "vgg11": VGG11, "resnet18": ResNet18,
         "resnet18_modified": ModifiedResNet18}  # fmt: skip
VARIANTS = {
    "sigmoid": {"activation": "sigmoid"},
    "leakyrelu": {"activation": "leakyrelu"},
    "batch": {"norm": "batch"},
    "layer": {"norm": "layer"},
    "group": {"norm": "group"},
    "no norm": {"norm": "none"},
    "max": {"pooling": "max"},
    "no pooling": {"pooling": "none"},
}
SMALL = {
    **FIELD,
    **{name: partial(ConvNet, width=8, depth=2, **options) for name, options in VARIANTS.items()},
    "torchvision": partial(TorchvisionModel, name="resnet18"),
    "vgg11": partial(VGG11, norm="batch"),  # its blocks with instance norm are the ConvNet's
}


def state_of(network):
    return {name: t.detach().clone() for name, t in network.state_dict().items()}
