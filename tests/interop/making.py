"""Sets as other projects' files hold them, and what such a file may hold beside them."""

import io

import numpy as np
import torch
from hypothesis import HealthCheck, settings

from bacon_pl.data.images import DatasetMeta
from bacon_pl.interop import dataset_meta

META = DatasetMeta("toy", ("ant", "bee"), 3, (4, 6), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), 1000)
GRAY = DatasetMeta("gray", ("b", "a", "c"), 1, (4, 4), (0.5,), (0.25,), 1000)
CIFAR = dataset_meta("cifar10")


def pair(meta=META, ipc=2, seed=0):
    shape = (meta.num_classes * ipc, meta.channels, *meta.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return images, torch.arange(meta.num_classes).repeat_interleave(ipc)


def quick(function):
    """Property tests that write files."""
    return settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))(function)


ACCURACIES = {
    "ConvNet": [np.float64(0.5), 0.25, np.float32(0.125), np.array([1.0, 2.0])],
    "MLP": np.arange(6).reshape(2, 3).T,
    "AlexNet": [],
}


class Calls:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def nested_save(content):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()
