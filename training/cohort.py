"""Whom a model is for: a fleet of phones, or the part of it that is one phone model or one person.

Written ``target`` (a fleet: a city, a customer, a trial), ``target/phone_model=Pixel 8``, ``target/subject_id=ana``. The fleet is the
column ``cohort`` of the ``windows`` table, the part one of its other columns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from training.errors import SettingsError

if TYPE_CHECKING:
    import polars as pl

PERSON, PHONE = "subject_id", "phone_model"
PARTS = (PHONE, PERSON)
"""Columns that a fleet may be divided by."""
EVERY = "*"
"""Stands for every value of a column: a cohort each."""
_FORM = re.compile(rf"(?P<fleet>.+)/(?P<column>{'|'.join(PARTS)})=(?P<value>.+)", re.DOTALL)
_MISTAKEN = re.compile(r".*/(?P<column>\w+)=")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cohort:
    """A fleet, or a part of one."""

    fleet: str
    column: str = ""
    """What divides it; empty: nothing, it is the whole fleet."""
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Cohort:
        """What :func:`str` makes of a cohort, as a cohort again. Whatever has not the form of a part is a fleet's name.

        Raises:
            SettingsError: it is empty, or names a column that fleets are not divided by.
        """
        if not text:
            msg = "A cohort needs a name: that of a fleet, or FLEET/phone_model=NAME or FLEET/subject_id=NAME for a part of it"
            raise SettingsError(msg)
        if found := _FORM.fullmatch(text):
            return cls(**found.groupdict())
        if mistaken := _MISTAKEN.match(text):
            msg = f"Cohort {text!r}: fleets are divided by {' or '.join(PARTS)}, not by {mistaken['column']!r}"
            raise SettingsError(msg)
        return cls(fleet=text)

    def __str__(self) -> str:
        return f"{self.fleet}/{self.column}={self.value}" if self.column else self.fleet

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for many: every phone model, every person."""
        return self.value == EVERY

    def each(self, values: Sequence[str]) -> tuple[Cohort, ...]:
        """The cohorts that a pattern stands for, given the values that there are."""
        return tuple(replace(self, value=value) for value in sorted(set(values)))

    def where(self) -> pl.Expr:
        """Which rows of the ``windows`` table are its."""
        import polars as pl  # noqa: PLC0415  (the lake's library: not on every machine that trains)

        fleet = pl.col("cohort") == self.fleet
        return fleet & (pl.col(self.column) == self.value) if self.column and not self.is_pattern else fleet

    def subject(self) -> pl.Expr:
        """Who is held out whole: a person; of a cohort that is one person, a session."""
        import polars as pl  # noqa: PLC0415

        if self.column != PERSON:
            return pl.col("subject_id")
        return pl.concat_str("subject_id", "device_id", "session_id", separator="/")
