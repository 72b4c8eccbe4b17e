"""What people read."""

from __future__ import annotations

import pytest

from dags.terminal import counters, result, say_some


@pytest.mark.parametrize(("count", "lines", "last"), [(0, 0, None), (20, 20, "19"), (21, 21, "… and 1 more.")])
def test_the_first_sentences_and_how_many_others(
    capsys: pytest.CaptureFixture[str], count: int, lines: int, last: str | None
) -> None:
    say_some([str(number) for number in range(count)])
    written = capsys.readouterr().err.splitlines()
    assert len(written) == lines
    assert not last or written[-1] == last


def test_counters_end_their_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Where stdout and stderr go into one log, the result has a line of its own."""
    with counters() as show:
        show({"late_samples": 3})
    result(late_samples=3)
    captured = capsys.readouterr()
    assert captured.err.endswith("\n")
    assert "late samples  3" in captured.err
