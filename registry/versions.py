"""Versions of the registered model, their aliases and tags, as the rest of this package sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Alias(StrEnum):
    """Names that point to one version each."""

    CHAMPION = "champion"
    """What serves. Only :mod:`registry.promotion` moves it."""
    CHALLENGER = "challenger"
    """What was registered last and has not been judged yet."""
    ORIGINAL = "original"
    """Trained on source; recovery is measured from it."""


class Tag(StrEnum):
    """Tags of a version that others may search for."""

    STATUS = "validation_status"
    """One of :class:`Status`."""
    RECOVERY = "recovery_ratio"
    """Recovery ratio on the target holdout, three digits."""
    BOUND = "recovery_lower_bound"
    """Its lower 95 % bound, as the gate saw it."""
    HOLDOUT = "holdout"
    """Name of the frozen holdout that decided."""
    LATENCY = "latency_ms"
    """What one window takes, in milliseconds, where the model was registered."""
    SIZE = "size_mb"
    """10⁶ bytes of the model's files."""
    VERDICT = "verdict"
    """The gate's reasons, a sentence each."""
    COHORT = "cohort"
    """Phones, people or city that the model is for; ``all`` for everybody."""
    LAKE_VERSION = "lake_version"
    """Version of the lake's ``windows`` table that the training saw."""
    LABELS_VERSION = "labels_version"
    """Version of its ``labels`` table, what was said later; -1 if there was none."""
    POLICY = "policy"
    """How it was trained: the arm and its settings' name."""
    RUN_KEY = "run_key"
    """Lake version, policy and seed in one: what trained once."""
    LEDGER = "ledger_entry"
    """Sequence and hash of the newest ledger entry that made this version champion."""


class Status(StrEnum):
    """Values of the tag ``validation_status``."""

    PENDING = "pending"
    """Registered, not judged yet."""
    PASSED = "passed"
    """The gate let it through."""
    REFUSED = "refused"
    """The gate did not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A version of a registered model."""

    version: str
    """MLflow's number, as text."""
    run_id: str | None
    """The MLflow run that trained it."""
    created: datetime
    """When it was registered, in UTC."""
    description: str
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    """Aliases that point to it, sorted."""
    source: str = ""
    """URI of the model it is made of."""
    name: str
    """Of the registered model."""

    @property
    def identity(self) -> str:
        """Names this version among those of all registered models: each of these counts from 1, and so does one that was made anew."""
        parts = (self.name, self.version, self.source, self.created.isoformat())
        return f"{self.version}-{hashlib.blake2b(chr(0).join(parts).encode(), digest_size=8).hexdigest()}"

    @property
    def latency_s(self) -> float | None:
        """Seconds that one window takes; None if nobody measured."""
        milliseconds = self._number(Tag.LATENCY)
        return None if milliseconds is None else milliseconds / 1000

    @property
    def size_mb(self) -> float | None:
        """10⁶ bytes of the model's files; None if nobody measured."""
        return self._number(Tag.SIZE)

    def _number(self, tag: Tag) -> float | None:
        """A tag that is a number. People can write tags too: what is none is as if it were not there."""
        try:
            return float(self.tags[tag])
        except (KeyError, ValueError):
            return None


class VersionStore(Protocol):
    """The versions of one registered model: what a promotion needs of MLflow."""

    @property
    def name(self) -> str:
        """Name of the registered model."""

    def versions(self) -> tuple[Version, ...]:
        """Every version, oldest first; empty if the model has not been registered."""

    def version(self, version: str) -> Version:
        """One version.

        Raises:
            ModelNotFound: there is none, or it has been deleted.
        """

    def alias(self, alias: str) -> str | None:
        """The version an alias points to; None if it points nowhere."""

    def point(self, alias: str, version: str) -> None:
        """Let an alias point to a version.

        Raises:
            ModelNotFound: there is no such version.
        """

    def unpoint(self, alias: str) -> None:
        """Take an alias away; no error if it points nowhere."""

    def tag(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version, one after the other.

        Raises:
            ModelNotFound: there is no such version.
        """
