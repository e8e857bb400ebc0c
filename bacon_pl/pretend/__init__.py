"""A pretend GPU, to find on a CPU what would make a GPU wait."""

from bacon_pl.pretend.gpu import PretendGPU, Wait, check_iterations
from bacon_pl.pretend.tensor import DEVICE, PretendTensor

__all__ = ["DEVICE", "PretendGPU", "PretendTensor", "Wait", "check_iterations"]
