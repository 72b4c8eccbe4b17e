"""A :class:`registry.versions.VersionStore` in memory, and a way to kill whoever uses it between any two steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from registry.errors import ModelNotFound
from registry.versions import Version


class MemoryVersions:
    """The versions of one registered model, as MLflow keeps them: numbers are never used twice, and deleting a version takes
    its aliases away."""

    def __init__(self, name: str = "scene-recogniser") -> None:
        self._name = name
        self._versions: dict[str, Version] = {}
        self._aliases: dict[str, str] = {}
        self._registered = 0

    @property
    def name(self) -> str:
        return self._name

    def register(self, **tags: str) -> str:
        self._registered += 1
        number = str(self._registered)
        self._versions[number] = Version(
            name=self._name,
            version=number,
            run_id=f"run{number}",
            created=datetime(2026, 3, 1, 12, self._registered, tzinfo=UTC),
            description=f"Model {number}.",
            tags={"run_key": f"key{number}", "lake_version": "17", **tags},
        )
        return number

    def delete(self, version: str) -> None:
        del self._versions[version]
        self._aliases = {alias: other for alias, other in self._aliases.items() if other != version}

    def versions(self) -> tuple[Version, ...]:
        return tuple(self.version(number) for number in self._versions)

    def version(self, version: str) -> Version:
        if version not in self._versions:
            msg = f"{self._name} has no version {version}, or it has been deleted"
            raise ModelNotFound(msg)
        aliases = tuple(sorted(alias for alias, other in self._aliases.items() if other == version))
        return replace(self._versions[version], aliases=aliases)

    def alias(self, alias: str) -> str | None:
        return self._aliases.get(alias)

    def point(self, alias: str, version: str) -> None:
        self.version(version)
        self._aliases[alias] = version

    def unpoint(self, alias: str) -> None:
        self._aliases.pop(alias, None)

    def tag(self, version: str, tags: Mapping[str, str]) -> None:
        found = self.version(version)
        self._versions[version] = replace(found, tags={**found.tags, **{str(k): v for k, v in tags.items()}})


class Killed(BaseException):
    """The process has been killed here: no ``except Exception`` may see it."""


class Fuse:
    """Kills after so many writes; ``None`` never."""

    def __init__(self, writes: int | None) -> None:
        self.left = writes

    def burn(self) -> None:
        if self.left == 0:
            raise Killed
        if self.left is not None:
            self.left -= 1


class Fused:
    """Stands before a store or a ledger and burns a fuse before each of its writes."""

    def __init__(self, inner: Any, fuse: Fuse, writes: tuple[str, ...]) -> None:
        self._inner = inner
        self._fuse = fuse
        self._writes = writes

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._writes:
            return found
        return self._fused(found)

    def _fused(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def burnt(*arguments: Any, **options: Any) -> Any:
            self._fuse.burn()
            return write(*arguments, **options)

        return burnt
