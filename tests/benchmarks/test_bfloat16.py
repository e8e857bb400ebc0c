"""A bench as on a processor without bfloat16: every process that times anything is told, and so is who reads it."""

import logging
import warnings

import pytest
import torch

from bacon_pl.networks.acceleration import has_bfloat16
from benchmarks.run import parse, settings_of
from benchmarks.workload import prepare


@pytest.mark.parametrize(("words", "has"), [([], True), (["--no-bfloat16"], False)])
def test_the_library_is_told_in_every_process(monkeypatch, words, has):
    for name in ("lightning.pytorch", "lightning.fabric"):  # which prepare makes quiet
        monkeypatch.setattr(logging.getLogger(name), "level", logging.getLogger(name).level)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    s = settings_of(parse([*words, "--no-keep-memory"]))
    assert s.bfloat16 is has  # settings are what children are given
    with warnings.catch_warnings():
        prepare(s)
    assert has_bfloat16(torch.device("cpu")) is has
