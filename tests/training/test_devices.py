from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from training.devices import Held, device, reproducible, seeded, threads
from training.errors import SettingsError
from training.settings import ComputeSettings


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> bool:
    """A machine with a GPU, or without, whichever this one is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize("cuda", [True, False], indirect=True)
def test_auto_is_a_gpu_where_there_is_one(cuda: bool) -> None:
    assert device("auto").type == ("cuda" if cuda else "cpu")
    assert device("cpu").type == "cpu"


@pytest.mark.parametrize("cuda", [False], indirect=True)
@pytest.mark.usefixtures("cuda")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(SettingsError, match="no CUDA device on this machine: set it to auto or cpu"):
        device("cuda")


def test_an_unknown_device_is_an_error() -> None:
    with pytest.raises(SettingsError, match="'tpu' is none of auto, cpu, cuda"):
        device("tpu")


def test_threads_are_given_back_also_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  (any would do)
        fail()
    assert torch.get_num_threads() == before
    with threads(0):
        assert torch.get_num_threads() == before


def test_a_seed_holds_inside_the_block_only() -> None:
    torch.manual_seed(1)
    untouched = torch.rand(3)
    torch.manual_seed(1)
    with seeded(7):
        one = torch.rand(3)
    torch.testing.assert_close(torch.rand(3), untouched)
    with seeded(7):
        torch.testing.assert_close(torch.rand(3), one)


def test_the_same_bits_are_asked_for_inside_the_block_only() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with reproducible(wanted=True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with reproducible(wanted=False):
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("given", "found"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_cublas_is_told_before_anything_can_have_called_it(given: str | None, found: str) -> None:
    """It reads it once, at its first call; who has said something else keeps it."""
    environ = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    told = environ if given is None else {**environ, "CUBLAS_WORKSPACE_CONFIG": given}
    code = "import os, training.devices; print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    done = subprocess.run((sys.executable, "-c", code), env=told, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_data_that_do_not_fit_go_over_a_part_at_a_time() -> None:
    data, where = torch.randn(10, 3, 4, 4), torch.device("cuda")
    held = Held(data, where, replace(ComputeSettings(), resident=0.0))
    assert held.lies.type == "cpu"
    rows = torch.tensor([7, 2, 2])
    assert held.rows(rows).is_cuda
    torch.testing.assert_close(held.rows(rows).cpu(), data[rows])
    torch.testing.assert_close(torch.cat(list(held.batches(4))).cpu(), data)
    torch.cuda.set_sync_debug_mode("error")
    try:
        held.rows(rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_same_bits_can_be_asked_for_after_cublas_has_been_called() -> None:
    code = """
import torch
from training.devices import reproducible
one = torch.ones(8, 8, device="cuda")
one @ one
with reproducible(wanted=True):
    print(float((one @ one).sum()))
"""
    environ = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run((sys.executable, "-c", code), env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "512.0"
