"""What people read."""

from __future__ import annotations

import pytest

from dags.terminal import counters, result, say_some, verdict_line


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


@pytest.mark.parametrize(
    ("passed", "champion", "line"),
    [
        (True, "2", "Version 2 is champion."),
        (True, "1", "Version 2 has passed, but champion is version 1 since: 'sensorloop registry history' says why."),
        (True, None, "Version 2 has passed, but there is no champion since: 'sensorloop registry history' says why."),
        (False, "1", "Version 2 is refused; champion is version 1."),
        (False, None, "Version 2 is refused; there is no champion."),
        (
            False,
            "2",
            "Version 2 is refused, but has been made champion since: 'sensorloop registry history' says by whom.",
        ),
    ],
)
def test_a_promotion_says_who_serves(passed: bool, champion: str | None, line: str) -> None:
    assert verdict_line({"version": "2", "passed": passed, "champion": champion}) == line
