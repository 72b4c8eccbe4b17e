"""The hash chain of the ledger: entries, how each is sealed to the one before it, and how a break shows. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum

FIRST_HASH = "0" * 64
"""What the first entry names as the hash before it."""


class Action(StrEnum):
    """What an entry records."""

    PROMOTE = "promote"
    """A version passed the gate and became champion."""
    ROLLBACK = "rollback"
    """An earlier champion was put back."""
    MANUAL = "manual"
    """The alias was found where the ledger had not put it: somebody moved it in MLflow."""
    REFUSED = "refused"
    """A version did not pass the gate; the champion stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What is to be entered."""

    at: datetime
    """When, with time zone."""
    who: str
    """Person or process that did it."""
    action: Action
    model_name: str
    """Registered model; one ledger serves several."""
    version: str | None
    """Version that is champion from now on (or was refused); None if the alias was taken away."""
    previous_version: str | None
    """Champion before; None if there was none."""
    why: str
    """A sentence for a person."""
    operation: str
    """What makes this entry one: entering the same operation twice gives one entry."""
    verdict: str | None = None
    """The gate's verdict as JSON, if it was asked."""
    lake_version: str | None = None
    """Version of the lake that the training saw."""
    run_key: str | None = None
    """Lake version, policy and seed in one: what trained once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An entry of the ledger; the fields are those of :class:`Draft`, sealed by two hashes."""

    sequence: int
    """Counts from 1 without gaps."""
    at: str
    """ISO 8601 in UTC, with microseconds."""
    who: str
    action: str
    """One of :class:`Action`; a plain word, so that an entry somebody tampered with can still be read and reported."""
    model_name: str
    version: str | None
    previous_version: str | None
    why: str
    verdict: str | None
    lake_version: str | None
    run_key: str | None
    operation: str
    previous_hash: str
    hash: str

    @property
    def seal(self) -> str:
        """Sequence and hash in one word, as it is noted in MLflow."""
        return f"{self.sequence}:{self.hash}"

    @property
    def moves_champion(self) -> bool:
        """Whether the entry says who is champion."""
        return self.action != Action.REFUSED

    def computed_hash(self) -> str:
        """SHA-256 over the canonical JSON of everything but the hash itself."""
        content = {name: value for name, value in asdict(self).items() if name != "hash"}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Where the ledger is not what was once written."""

    sequence: int
    """The entry."""
    kind: str
    """``changed``, ``removed``, ``inserted``, or of the comparison with MLflow ``missing``."""
    text: str
    """One sentence for a person."""


def sealed(draft: Draft, *, sequence: int, previous_hash: str) -> Entry:
    """The draft as the entry with this number, after the entry with that hash.

    Raises:
        ValueError: the draft's time has no time zone.
    """
    if draft.at.tzinfo is None:
        msg = f"the time {draft.at} of '{draft.operation}' has no time zone"
        raise ValueError(msg)
    content = {field.name: getattr(draft, field.name) for field in fields(draft) if field.name not in {"at", "action"}}
    at = draft.at.astimezone(UTC).isoformat(timespec="microseconds")
    entry = Entry(sequence=sequence, at=at, action=draft.action.value, previous_hash=previous_hash, hash="", **content)
    return replace(entry, hash=entry.computed_hash())


def check(entries: Sequence[Entry]) -> Iterator[Problem]:
    """Walk a chain.

    Args:
        entries: all entries of a ledger, by sequence.

    Yields:
        A problem for each entry that does not match its hash (changed), each gap in the numbers (removed), and each entry
        whose predecessor is not the one it was written after (replaced: it or its predecessor was inserted or changed).
    """
    expected, previous_hash = 1, FIRST_HASH
    for entry in entries:
        if entry.sequence < 1:
            text = f"Entry {entry.sequence} was inserted: numbers count from 1."
            yield Problem(sequence=entry.sequence, kind="inserted", text=text)
            continue
        if entry.sequence != expected:
            missing = (
                f"Entry {expected} is"
                if entry.sequence == expected + 1
                else f"Entries {expected} to {entry.sequence - 1} are"
            )
            text = f"{missing} missing: entry {entry.sequence} follows {expected - 1}."
            yield Problem(sequence=expected, kind="removed", text=text)
        elif entry.previous_hash != previous_hash:
            text = (
                f"Entry {entry.sequence} ({entry.action}, {entry.at}) was written after another entry than the present "
                f"{expected - 1}: one of the two was replaced or inserted."
            )
            yield Problem(sequence=entry.sequence, kind="inserted", text=text)
        if entry.computed_hash() != entry.hash:
            text = f"Entry {entry.sequence} ({entry.action}, {entry.at}) was changed: its hash is of other content."
            yield Problem(sequence=entry.sequence, kind="changed", text=text)
        expected, previous_hash = entry.sequence + 1, entry.hash


def lineage(entries: Sequence[Entry]) -> tuple[str | None, ...]:
    """The champions of one model that one can still go back through, the present one last.

    A promotion, and a move by hand to another version, lengthen the line. Going back to a champion in the line, by a rollback or
    by hand, takes away what came after it; going forward again to one that was taken away brings the line back up to it. A
    rollback to any other version puts it in the present one's place. So the line never leads back to a version that somebody
    went away from.

    Args:
        entries: the model's entries, oldest first; refusals are passed over.

    Returns:
        Versions; None for a time without a champion. Empty before the first.
    """
    line: list[str | None] = []
    taken: list[str | None] = []  # off the end of the line, the last one taken last
    for entry in entries:
        version = entry.version
        if not entry.moves_champion or (line and line[-1] == version):
            continue
        if entry.action == Action.PROMOTE or version is None:
            line.append(version)
            taken.clear()
        elif version in line:
            while line[-1] != version:
                taken.append(line.pop())
        elif version in taken:
            while line[-1:] != [version]:
                line.append(taken.pop())
        else:
            line[-1:] = [version] if entry.action == Action.ROLLBACK else [*line[-1:], version]
            taken.clear()
    return tuple(line)
