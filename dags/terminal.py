"""What commands write: sentences and progress for people on stderr, the result for programs on stdout."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from registry.chain import Entry, Problem
    from registry.versions import Version
    from streaming.importers import ImportReport

_SAY_EVERY_S = 30.0
"""Between two lines of progress, where there is no bar."""
EXIT_FINAL, EXIT_RETRIABLE, EXIT_NOTHING = 3, 4, 99
"""Exit codes: trying again is useless; may work later; nothing to do."""


def say(text: str) -> None:
    """A sentence for a person."""
    print(text, file=sys.stderr, flush=True)


def say_some(sentences: Sequence[str], most: int = 20) -> None:
    """As many sentences as a person may read, and how many others there are."""
    for sentence in sentences[:most]:
        say(sentence)
    if len(sentences) > most:
        say(f"… and {len(sentences) - most} more.")


def say_disagreement(problem: Problem | None) -> None:
    """That alias and ledger differ, which reading them does not change, and what does."""
    if problem is not None:
        say(
            f"note: {problem.text} 'sensorloop registry reconcile' enters it, and so does the next promotion or rollback."
        )


def say_arms(results: str) -> None:
    """What each arm of a run key came to, those that an earlier call has trained too; ``results`` is the path of its ``results.json``."""
    from rich.console import Console

    from dags.local.summary import arms_table

    arms = json.loads(Path(results).read_text(encoding="utf-8"))["arms"]
    Console(stderr=True).print(arms_table(arms))


def say_import(report: ImportReport) -> None:
    """What an import could not use, and what it left out or changed on purpose."""
    refused = []
    for refusal in report.refused:
        where = f"{refusal.file}:{refusal.row}" if refusal.row else refusal.file
        lines = f" ({refusal.rows} lines)" if refusal.rows > 1 else ""
        refused.append(f"refused: {where}: {refusal.reason}{lines}")
    say_some(refused)
    for what, count in report.notes.items():
        say(f"note: {what}: {count:,}")


def say_refused(reasons: Sequence[str], what_of_it: str) -> None:
    """Files that were refused, each with its reason, and what that means for them."""
    say_some([f"refused: {reason}" for reason in reasons])
    if reasons:
        files = "1 file was refused" if len(reasons) == 1 else f"{len(reasons)} files were refused"
        say(f"{files}: {what_of_it}")


def result(**values: Any) -> None:
    """The result, as one line of JSON."""
    sys.stdout.write(json.dumps(values, default=str, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def listed(**values: Any) -> None:
    """The result of a command that has said all of it in sentences: for programs, so nothing on a terminal."""
    if not sys.stdout.isatty():
        result(**values)


def fail(text: str, code: int) -> NoReturn:
    """End with a message and an exit code."""
    say(f"error: {text}")
    sys.exit(code)


def megabytes(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 1e6:,.1f} MB"


def number(text: str, option: str) -> float:
    """An option that is a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        fail(f"{option} is a number above 0, or 'max', not '{text}'.", 2)
    return value


class _Stderr(logging.Handler):
    """To stderr as it is at the moment: a live table puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def log_to_stderr(logger: logging.Logger) -> None:
    """What it says from INFO on goes to stderr, with the time."""
    if not logger.handlers:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


@contextmanager
def progress(title: str, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr: called with done, total and, if there is one, what is being done.

    Where stderr is no terminal, a task's log for one, it is a line every half minute: a bar there would only be seen at its end, and a
    command that says nothing is taken for hung (``[retrain] silence``).

    Args:
        title: of the bar.
        clock: seconds.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console) as bar:
        task, said = bar.add_task(title, total=None), clock()

        def show(done: int, total: int, text: str = "") -> None:
            nonlocal said
            description = f"{title}: {text}" if text else title
            bar.update(task, completed=done, total=total, description=description)
            if not console.is_terminal and clock() - said >= _SAY_EVERY_S:
                said = clock()
                say(f"{description}, {done} of {total}")

        yield show


@contextmanager
def counters() -> Iterator[Callable[[Mapping[str, int]], None]]:
    """The counters, live on a terminal and once at the end."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    def table(counters: Mapping[str, int]) -> Table:
        shown = Table("ingested", "count", box=None)
        for name, count in sorted(counters.items()):
            shown.add_row(name.replace("_", " "), f"{count:,}")
        return shown

    console = Console(stderr=True)
    with Live(console=console, refresh_per_second=2) as live:
        yield lambda counters: live.update(table(counters))
    if not console.is_terminal:  # rich ends its last line on a terminal only
        console.line()


def verdict_line(promoted: Mapping[str, Any]) -> str:
    """What a promotion came to: the gate's verdict, and who serves, which a rollback may have changed since."""
    version, champion, passed = promoted["version"], promoted["champion"], promoted["passed"]
    if passed and champion == version:
        return f"Version {version} is champion."
    found = f"Version {version} {'has passed' if passed else 'is refused'}"
    if champion == version:
        return f"{found}, but has been made champion since: 'sensorloop registry history' says by whom."
    if not passed:
        return f"{found}; {f'champion is version {champion}' if champion else 'there is no champion'}."
    now = f"champion is version {champion}" if champion else "there is no champion"
    return f"{found}, but {now} since: 'sensorloop registry history' says why."


def version_line(version: Version) -> str:
    """A version in a line."""
    tags = version.tags
    aliases = f" [{', '.join(version.aliases)}]" if version.aliases else ""
    status, recovery = tags.get("validation_status", "?"), tags.get("recovery_ratio", "–")
    policy = tags.get("policy", "?")
    return f"{version.version:>3}  {policy:<14} {status:<9} recovery {recovery:<6} {version.created:%Y-%m-%d %H:%M}{aliases}"


def proven_line(entries: Sequence[Entry]) -> str:
    """What a ledger without a problem has been proven to be."""
    if not entries:
        return "The ledger is empty, and no version in MLflow says that it was entered: nothing is missing."
    last = entries[-1]
    return (
        "The ledger is proven: no entry was changed, removed or inserted, each version that MLflow says was entered is, and both name "
        f"the same champion. Entries of this model: {len(entries)}, the newest {last.sequence}, of {last.at[:16].replace('T', ' ')}."
    )


def entry_line(entry: Entry) -> str:
    """An entry of the ledger in a line."""
    moved = f"version {entry.version or '–'} (champion before: {entry.previous_version or 'none'})"
    return (
        f"{entry.sequence:>3}  {entry.at[:16].replace('T', ' ')}  {entry.action:<9} {moved} by {entry.who}: {entry.why}"
    )
