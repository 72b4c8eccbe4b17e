from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch

from training.checkpoint import Checkpoint

NOW = timedelta(0)


def test_what_was_saved_comes_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "arm" / "checkpoint.pt"
    Checkpoint(file, "a", every=NOW).save(lambda: {"epoch": 3, "parameters": [torch.arange(3.0)]})
    state = Checkpoint(file, "a", every=NOW).load()
    assert state["epoch"] == 3
    assert torch.equal(state["parameters"][0], torch.arange(3.0))
    assert list(file.parent.iterdir()) == [file]


def test_another_trainings_and_a_damaged_one_are_not_taken_up(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    assert Checkpoint(file, "a", every=NOW).load() == {}
    Checkpoint(file, "a", every=NOW).save(lambda: {"epoch": 3})
    assert Checkpoint(file, "b", every=NOW).load() == {}
    whole = file.read_bytes()
    for broken in (b"", b"no archive", whole[: len(whole) // 2], whole + b"x", bytes(len(whole))):
        file.write_bytes(broken)
        assert Checkpoint(file, "a", every=NOW).load() == {}


def test_a_single_bit_that_flipped_is_seen(tmp_path: Path) -> None:
    """torch.load takes a tensor with other numbers for a tensor."""
    file = tmp_path / "checkpoint.pt"
    Checkpoint(file, "a", every=NOW).save(lambda: {"parameters": torch.arange(64.0)})
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert Checkpoint(file, "a", every=NOW).load() == {}


def test_it_is_saved_when_it_is_time_to(tmp_path: Path) -> None:
    file, now, asked = tmp_path / "checkpoint.pt", [0.0], []
    kept = Checkpoint(file, "a", every=timedelta(seconds=60), clock=lambda: now[0])

    def state() -> dict[str, int]:
        asked.append(now[0])
        return {"epoch": len(asked)}

    for second in (0, 59, 60, 61, 119, 120, 500):
        now[0] = float(second)
        kept.save(state)
    assert asked == [60, 120, 500]
    assert kept.load()["epoch"] == 3


def test_without_a_file_nothing_is_kept() -> None:
    kept = Checkpoint(None, "a", every=NOW)
    kept.save(lambda: {"epoch": 1})
    assert kept.load() == {}


@pytest.mark.parametrize("stop", [SystemExit, KeyboardInterrupt])
def test_what_is_held_is_saved_when_the_process_is_told_to_stop(tmp_path: Path, stop: type[BaseException]) -> None:
    file, moving = tmp_path / "checkpoint.pt", torch.zeros(3)
    kept = Checkpoint(file, "a", every=timedelta(hours=1))
    assert not kept.save(lambda: {"epoch": 1, "parameters": moving})
    kept.hold(lambda: {"epoch": 1, "parameters": moving})
    moving += 1  # half of the next epoch
    with pytest.raises(stop), kept.saved_when_stopped():
        raise stop
    assert kept.load()["epoch"] == 1
    assert torch.equal(kept.load()["parameters"], torch.zeros(3)), "as it was when it was held"


def test_other_ends_leave_the_checkpoint_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    kept = Checkpoint(file, "a", every=timedelta(hours=1))
    kept.hold(lambda: {"epoch": 1})
    with pytest.raises(ZeroDivisionError), kept.saved_when_stopped():
        _ = 1 / 0
    with kept.saved_when_stopped():
        pass
    assert not file.exists()
