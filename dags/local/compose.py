"""``docker/compose.yaml`` as a program reads it: the services, and of each what it takes to start it somewhere else.

Only what the file uses is understood; https://docs.docker.com/reference/compose-file/ has the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dags.errors import DagError

FILE = Path(__file__).parents[2] / "docker" / "compose.yaml"
"""The cluster's."""
SECRETS = "/run/secrets"
"""Where a container finds its secrets."""

_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<kind>:?[-?])(?P<rest>[^}]*))?\})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One service of the file."""

    name: str
    image: str
    built: bool
    """Whether the image is ours."""
    user: str
    """``uid:gid``; empty if the file says nothing."""
    command: tuple[str, ...]
    """Empty: the image's own."""
    environment: Mapping[str, str]
    health: tuple[str, ...]
    """Command of its health check; empty if there is none."""
    secrets: tuple[str, ...]
    """Their names, which are files below :data:`SECRETS`."""
    volumes: Mapping[str, str]
    """Path in the container → name of the volume."""
    files: Mapping[str, Path]
    """Path in the container → file or folder of this repository."""
    ports: tuple[int, ...]
    """Those that it listens to."""
    published: Mapping[int, int]
    """The host's port → one of ``ports``."""
    after: Mapping[str, str]
    """Services that it waits for → ``service_healthy`` or ``service_completed_successfully``."""
    replicas: int
    once: bool
    """Whether it ends by itself when its work is done."""


def read(path: Path = FILE, variables: Mapping[str, str] | None = None) -> dict[str, Service]:
    """Every service, by name, in the file's order.

    Args:
        path: the file.
        variables: what ``${…}`` in it stand for.

    Raises:
        DagError: it needs a variable that is not there.
    """
    content = _resolved(yaml.safe_load(path.read_text(encoding="utf-8")), variables or {})
    return {name: _service(name, values, path.parent) for name, values in content["services"].items()}


def _service(name: str, values: Mapping[str, Any], folder: Path) -> Service:
    mounts = [_mount(text) for text in values.get("volumes", ())]
    ports = [text.split(":") for text in values.get("ports", ())]
    after = values.get("depends_on", {})
    return Service(
        name=name,
        image=values["image"],
        built="build" in values,
        user=str(values.get("user", "")),
        command=tuple(values.get("command", ())),
        environment={key: str(value) for key, value in values.get("environment", {}).items()},
        health=_health(values.get("healthcheck", {}).get("test", ())),
        secrets=tuple(values.get("secrets", ())),
        volumes={target: source for source, target in mounts if not source.startswith(".")},
        files={target: (folder / source).resolve() for source, target in mounts if source.startswith(".")},
        ports=tuple(int(port) for port in values.get("expose", ())),
        published={int(each[-2]): int(each[-1]) for each in ports},
        after={other: condition["condition"] for other, condition in after.items()},
        replicas=int(values.get("deploy", {}).get("replicas", 1)),
        once=values.get("restart") == "no",
    )


def _mount(text: str) -> tuple[str, str]:
    source, target, *_ = text.split(":")
    return source, target


def _health(test: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    if not test:
        return ()
    kind, *rest = test
    return ("sh", "-c", *rest) if kind == "CMD-SHELL" else tuple(rest)


def _resolved(value: Any, variables: Mapping[str, str]) -> Any:
    """The same with ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}`` replaced, and ``$$`` become ``$``."""
    if isinstance(value, dict):
        return {key: _resolved(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each, variables) for each in value]
    return _VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    if found["escaped"]:
        return "$"
    name, kind, rest = found["name"], found["kind"] or "?", found["rest"] or "it must be set"
    given = variables.get(name)
    if given or (given is not None and not kind.startswith(":")):
        return given
    if kind.endswith("-"):
        return found["rest"] or ""
    msg = f"docker/compose.yaml needs the variable {name}: {rest}"
    raise DagError(msg)
