"""Where a rollback goes: the champion before, else the original model."""

from __future__ import annotations

from collections.abc import Sequence

from registry.chain import Entry, lineage
from registry.errors import ModelNotFound, NothingToRollBack
from registry.versions import Alias, Version, VersionStore


def earlier(store: VersionStore, history: Sequence[Entry], champion: str | None) -> tuple[Version, str]:
    """The version to go back to, and why that one.

    Args:
        store: the model's versions.
        history: the model's entries, oldest first.
        champion: whoever serves now.

    Raises:
        NothingToRollBack: no earlier champion is left, and no original model.
    """
    passed_over: list[str] = []
    for version in reversed(lineage(history)[:-1]):
        if version is None or version == champion:
            continue
        try:
            found = store.version(version)
        except ModelNotFound:
            passed_over.append(version)
            continue
        return found, f"Back to the champion before.{_deleted(passed_over)}"
    original = store.alias(Alias.ORIGINAL)
    if original is None or original == champion:
        msg = (
            f"{store.name}: {f'no champion before {named(champion)}' if champion else 'no champion'} is left to go back to, and no "
            "other version is the original model. Name a version ('sensorloop registry rollback --to VERSION'), or promote one."
        )
        raise NothingToRollBack(msg)
    return store.version(original), f"No champion before: the original model as it is.{_deleted(passed_over)}"


def named(version: str | None) -> str:
    """A version in words."""
    return "no version" if version is None else f"version {version}"


def _deleted(versions: Sequence[str]) -> str:
    return f" Passed over, because deleted: {', '.join(versions)}." if versions else ""
