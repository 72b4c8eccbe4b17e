"""The commands ``sensorloop deadletter …``."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Annotated

import typer

from dags.settings import load as load_settings
from dags.terminal import listed, progress, result, say

app = typer.Typer(help="Batches that could not be decoded.", no_args_is_help=True)

_Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Only this reason; may be given several times.")]


@app.command("list")
def list_(
    *,
    reason: _Reasons = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, lowest offsets first.")] = 100,
) -> None:
    """Say which batches could not be decoded: where each was, why, and how large it is."""
    from streaming.deadletters import letters

    found = letters(load_settings().kafka, reasons=reason or ())
    for letter in found[:limit]:
        say(
            f"{letter.coordinates}  {letter.at:%Y-%m-%d %H:%M:%S}  {letter.bytes:,} bytes  {letter.reason}: {letter.detail}"
            f"{'  (replayed)' if letter.replayed else ''}"
        )
    reasons = Counter(letter.reason for letter in found)
    counts = ", ".join(f"{count} {name}" for name, count in reasons.most_common())
    say(
        f"{len(found)} dead letters{f': {counts}' if found else ''}{f'; the first {limit} shown' if len(found) > limit else ''}."
    )
    listed(
        total=len(found),
        reasons=dict(reasons),
        letters=[dataclasses.asdict(letter) for letter in found[:limit]],
    )


@app.command("replay")
def replay(
    *,
    reason: _Reasons = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, oldest first.")] = None,
    again: Annotated[bool, typer.Option(help="Also those that were replayed before.")] = False,
) -> None:
    """Send the batches of dead letters to the batches topic again, each once unless --again: after an upgrade that can read them."""
    from streaming.deadletters import letters, send_again

    kafka = load_settings().kafka
    found = letters(kafka, reasons=reason or ())
    chosen = [letter for letter in found if again or not letter.replayed][:limit]
    with progress("Replaying dead letters") as show:
        sent = send_again(kafka, chosen, progress=show)
    known = sum(letter.replayed for letter in found)
    say(f"{sent} of {len(found)} dead letters sent to {kafka.batches_topic}; {known} were replayed before.")
    result(total=len(found), sent=sent, replayed_before=known)
