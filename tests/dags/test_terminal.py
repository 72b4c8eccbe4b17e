"""What people read."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from dags.terminal import (
    counters,
    listed,
    progress,
    proven_line,
    result,
    say_arms,
    say_refused,
    say_some,
    verdict_line,
)
from registry.chain import Entry


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


@pytest.mark.parametrize("terminal", [False, True])
def test_what_has_been_said_is_not_said_again_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    listed(versions=["1", "2"])
    written = capsys.readouterr().out
    assert written == "" if terminal else json.loads(written) == {"versions": ["1", "2"]}


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with progress("Fine-tuning", clock=lambda: now) as show:
        for epoch in range(1, 9):
            now += 10
            show(epoch, 8, "epochs")
    lines = [line for line in capsys.readouterr().err.splitlines() if " of " in line]
    assert lines == ["Fine-tuning: epochs, 3 of 8", "Fine-tuning: epochs, 6 of 8"]


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


def test_a_ledger_that_was_proven_says_what_was() -> None:
    entry = Entry(**{field.name: None for field in fields(Entry)} | {"sequence": 7, "at": "2026-01-31T08:00:00+00:00"})
    line = proven_line([entry])
    assert line.startswith("The ledger is proven: no entry was changed, removed or inserted")
    assert line.endswith("Entries of this model: 1, the newest 7, of 2026-01-31 08:00.")
    assert "empty" in proven_line([])


def test_the_arms_are_a_table_best_first_after_the_original(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"original": 0.6, "plain": 0.5, "filterloss": 0.9}
    arms = {name: {"accuracy": n, "macro_f1": n - 0.1, "recovery_ratio": n / 0.9} for name, n in numbers.items()}
    (tmp_path / "results.json").write_text(json.dumps({"arms": arms}), encoding="utf-8")
    say_arms(str(tmp_path / "results.json"))
    captured = capsys.readouterr()
    assert captured.out == "", "that is for the result"
    head, *rows = (line.split() for line in captured.err.splitlines())
    assert head == ["arm", "accuracy", "macro-F1", "recovery", "ratio"]
    assert [row[-3:] for row in rows] == [
        ["0.600", "0.500", "0.667"], ["0.900", "0.800", "1.000"], ["0.500", "0.400", "0.556"],
    ]  # fmt: skip
    assert [row[0] for row in rows] == ["original,", "filterloss", "plain"]


def test_what_was_refused_is_named_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    say_refused([], "not sent.")
    assert capsys.readouterr().err == ""
    say_refused(["a: x", "b: y"], "not sent.")
    assert capsys.readouterr().err.splitlines() == [
        "refused: a: x",
        "refused: b: y",
        "2 files were refused: not sent.",
    ]
