"""A table's log as it lies in the storage, read without delta-rs: what commits said, not what a library makes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from streaming.errors import LakeError
from streaming.offsets import Account, TopicPartition, parse_account
from streaming.publish import ACCOUNTS
from streaming.storage import Storage, StoredFile

LOG_FOLDER = "_delta_log/"
_COMMIT = re.compile(r"_delta_log/(\d{20})\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """What one version changed."""

    version: int
    added: tuple[str, ...]
    """Paths of its files, relative to the table."""
    rows: int
    """Rows of the added files that are new data, by the log's own count."""
    removed: Mapping[str, datetime]
    """Path → when."""
    accounts: Mapping[TopicPartition, Account]
    data_change: bool
    """Whether any of its actions changes the set of rows."""


def read_log(storage: Storage, listing: list[StoredFile]) -> list[Commit]:
    """Every commit whose file is still there, by version. Old ones are deleted once a checkpoint holds what they led to.

    Args:
        storage: of the table.
        listing: its files.

    Raises:
        LakeError: a commit's file cannot be read.
    """
    commits = []
    for file in listing:
        match = _COMMIT.fullmatch(file.path)
        if match:
            try:
                lines = storage.read(file.path).decode().splitlines()
                commits.append(_commit(int(match[1]), [json.loads(line) for line in lines if line.strip()]))
            except FileNotFoundError:
                continue  # deleted by the retention of the log since it was listed
            except (OSError, ValueError, KeyError, TypeError) as error:
                msg = f"{storage.uri}/{file.path} is no commit of a Delta table: {error}"
                raise LakeError(msg) from error
    return commits


def _commit(version: int, actions: list[dict[str, Any]]) -> Commit:
    adds = [action["add"] for action in actions if "add" in action]
    removes = [action["remove"] for action in actions if "remove" in action]
    records: list[Any] = next(
        (action["commitInfo"].get(ACCOUNTS, []) for action in actions if "commitInfo" in action), []
    )
    return Commit(
        version=version,
        added=tuple(unquote(add["path"]) for add in adds),
        rows=sum(int(json.loads(add.get("stats") or "{}").get("numRecords", 0)) for add in adds if add["dataChange"]),
        removed={unquote(remove["path"]): _time(remove.get("deletionTimestamp") or 0) for remove in removes},
        accounts=dict(parse_account(record) for record in records),
        data_change=any(action["dataChange"] for action in adds + removes),
    )


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
