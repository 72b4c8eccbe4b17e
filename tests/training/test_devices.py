from __future__ import annotations

import pytest
import torch

from training.devices import device, seeded, threads
from training.errors import SettingsError


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
