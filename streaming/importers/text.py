"""Finding a data set's folder, and reading its text tables at once, with the line of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streaming.errors import ImporterError
from streaming.importers.dataset import Findings

_DEPTH = 2
_NAMED = 12
LARGEST = 1e9
"""Nothing that is measured, counted or timed here comes near it, and it fits float32 and int64 in any unit."""


def find_root(source: Path, patterns: Sequence[str], data_set: str) -> Path:
    """The folder that directly holds a data set: ``source``, or one a level or two below it.

    Args:
        source: what the user named.
        patterns: globs relative to that folder; one that matches will do.
        data_set: name for messages.

    Raises:
        ImporterError: there is no such folder; nothing below it looks like the data set; or several folders do.
    """
    if not source.is_dir():
        msg = f"{source}: there is no such folder; unpack the {data_set} archive and name the folder that it gives"
        raise ImporterError(msg)
    level = [source]
    for _ in range(_DEPTH + 1):
        found = [folder for folder in level if any(next(folder.glob(pattern), None) for pattern in patterns)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(str(folder.relative_to(source)) for folder in found[:_NAMED])
            msg = f"{source}: several folders look like {data_set}: {names}; name one of them"
            raise ImporterError(msg)
        level = sorted(child for folder in level for child in _children(folder) if child.is_dir())
    msg = (
        f"{source}: looked for {' or '.join(patterns)} here and up to {_DEPTH} folders below, found {_listing(source)}"
    )
    raise ImporterError(msg)


def _children(folder: Path) -> list[Path]:
    """What is in a folder; nothing if it may not be looked into, as may be the neighbour of the one that is meant."""
    try:
        return list(folder.iterdir())
    except PermissionError:
        return []


def _listing(folder: Path) -> str:
    names = sorted(child.name + ("/" if child.is_dir() else "") for child in _children(folder))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}" if names else "an empty folder"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Table:
    """The rows of a text file, as text."""

    file: str
    """Path for messages."""
    columns: Mapping[str, pl.Series]
    """Name → (n,) text; null where the row is too short."""
    lines: NDArray[np.int64]
    """(n,) line in the file, from 1."""

    def numbers(self, names: Sequence[str]) -> NDArray[np.float64]:
        """These columns as (n, columns) numbers; NaN for what is none."""
        series = [self.columns[name].cast(pl.Float64, strict=False).fill_null(np.nan) for name in names]
        return np.stack([one.to_numpy() for one in series], axis=1)

    def complete(self, values: NDArray[np.float64], findings: Findings) -> NDArray[np.bool_]:
        """Which rows (n,) of these numbers (n, columns) are all sensible numbers; the others are refused."""
        sensible: NDArray[np.bool_] = np.logical_and.reduce(np.abs(values) <= LARGEST, axis=1)
        findings.refuse_lines(self.file, self.lines[~sensible], "a value is missing or is no finite number")
        return sensible

    def where(self, kept: NDArray[np.bool_]) -> Table:
        """The rows (n,) that are kept."""
        columns = {name: column.filter(pl.Series(kept)) for name, column in self.columns.items()}
        return Table(file=self.file, columns=columns, lines=self.lines[kept])


def read_table(
    path: Path,
    root: Path,
    *,
    columns: Sequence[str] | None,
    separator: str | None,
    findings: Findings,
    ragged: bool = False,
) -> Table:
    """Read a text table; a row with too many fields, or none, is refused, a short one has nulls.

    Args:
        path: the file; UTF-8 or ASCII, with or without quotes around its fields.
        root: the folder that messages name files from.
        columns: names of its columns if it has no header; None if its first line names them.
        separator: between fields; None for any white space.
        findings: takes the refusals.
        ragged: rows may have more fields than columns; the rest of such a row is not looked at.

    Raises:
        ImporterError: the file cannot be read.
    """
    file = path.relative_to(root).as_posix()
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        msg = f"{path}: cannot be read: {error}"
        raise ImporterError(msg) from error
    rows = text.split("\n")
    while rows and not rows[-1].strip():
        rows.pop()
    series = pl.Series("line", rows, dtype=pl.String).str.strip_chars()
    if '"' in text:
        series = series.str.replace_all('"', "", literal=True)
    if separator is None:
        separator = " "
        series = series.str.replace_all(r"\s+", " ")
    first_line = 1
    if columns is None:
        columns = series[0].split(separator) if len(series) else []
        series, first_line = series[1:], 2
    lines = np.arange(first_line, first_line + len(series), dtype=np.int64)
    fields = series.str.splitn(separator, len(columns) + 1).struct.unnest()
    empty = (series == "").to_numpy()
    too_long = fields.to_series(len(columns)).is_not_null().to_numpy()
    findings.refuse_lines(file, lines[empty], "the line is empty")
    kept = ~empty
    if not ragged:
        findings.refuse_lines(file, lines[too_long], f"more than {len(columns)} fields")
        kept &= ~too_long
    by_name = {name: fields.to_series(index) for index, name in enumerate(columns)}
    return Table(file=file, columns=by_name, lines=lines).where(kept)


def require_columns(path: Path, table: Table, names: Sequence[str]) -> None:
    """Check a header.

    Raises:
        ImporterError: one of these columns is not there.
    """
    missing = [name for name in names if name not in table.columns]
    if missing:
        found = ", ".join(list(table.columns)[:_NAMED]) or "an empty file"
        msg = f"{path}: looked for column '{missing[0]}', found {found}"
        raise ImporterError(msg)
