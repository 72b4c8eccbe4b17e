"""``sensorloop.toml`` and the environment into frozen dataclasses.

A section of the file is a dataclass, a key one of its fields. ``SENSORLOOP_<SECTION>__<KEY>`` in the environment overrides
the file; the file overrides the defaults. What is not known is refused with the nearest name that is.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from streaming.errors import SettingsError

PREFIX = "SENSORLOOP_"
_SECRET = re.compile("secret|token|password")
_NOT_SECTIONS = frozenset(
    {
        "SENSORLOOP_HOME",
        "SENSORLOOP_CONFIG",
        "SENSORLOOP_COMMIT",
        "SENSORLOOP_REQUIRE_BROWSER",
        "SENSORLOOP_TEST_LEDGER_URL",
    }
)


def load(
    sections: Mapping[str, type], *, path: Path | None, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Read every section.

    Args:
        sections: section name → frozen dataclass.
        path: the TOML file; None or a missing file means defaults.
        environ: the environment; ``os.environ`` if None.

    Returns:
        Section name → an instance of its dataclass.

    Raises:
        SettingsError: unknown section or key (with the nearest known one), or a value of the wrong kind.
    """
    values = _from_file(path) if path is not None and path.exists() else {}
    where = str(path)
    _refuse_unknown(values, sections, f"section in {where}")
    for section, keys in values.items():
        if not isinstance(keys, dict):
            msg = f"{where}: '{section}' must be a section: write [{section}] and its keys below"
            raise SettingsError(msg)
        _refuse_unknown(keys, _fields(sections[section]), f"setting in [{section}] of {where}")
    overrides = _from_environment(sections, os.environ if environ is None else environ)
    return {
        name: _build(name, kind, {**values.get(name, {}), **overrides.get(name, {})}) for name, kind in sections.items()
    }


def origins(
    sections: Mapping[str, type], *, path: Path | None, environ: Mapping[str, str] | None = None
) -> dict[tuple[str, str], str]:
    """(Section, key) → where it is set: the file, or a variable of the environment. What is set nowhere is left out.

    Raises:
        SettingsError: as :func:`load`.
    """
    values = _from_file(path) if path is not None and path.exists() else {}
    found = {(section, key): str(path) for section, keys in values.items() for key in keys}
    for section, keys in _from_environment(sections, os.environ if environ is None else environ).items():
        found |= {(section, key): f"{PREFIX}{section}__{key}".upper() for key in keys}
    return found


def is_secret(key: str) -> bool:
    """Whether a key's value may be a secret, put where only its name belongs."""
    return _SECRET.search(key) is not None


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise SettingsError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path} is not valid TOML: {error}"
        raise SettingsError(msg) from error


def _from_environment(sections: Mapping[str, type], environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in _NOT_SECTIONS:
            continue
        section, _, key = variable.removeprefix(PREFIX).lower().partition("__")
        _refuse_unknown([section], sections, f"section in the environment variable {variable}")
        kind = sections[section]
        _refuse_unknown([key], _fields(kind), f"setting in the environment variable {variable}")
        found.setdefault(section, {})[key] = _parsed(value)
    return found


def _parsed(value: str) -> Any:
    """An environment variable is read as a TOML value where it is one (a list, a number), else as the text it is."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _refuse_unknown(names: Any, known: Any, what: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
            msg = f"Unknown {what}: '{name}'. Did you mean '{near[0]}'? Known: {', '.join(sorted(known))}."
            raise SettingsError(msg)


def _build(section: str, kind: type, values: dict[str, Any]) -> Any:
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"[{section}] {key}" if key else f"[{section}]"
        # A section as a whole is not repeated, nor what may be a secret in the wrong place.
        shown = f" = {first['input']!r}" if key and not is_secret(key) else ""
        why = first["msg"]
        if first["type"] == "tuple_type":
            why = """Input should be a list, as ["a", "b"], in the environment '["a", "b"]'"""
        msg = f"{where}{shown}: {why}. Change it in sensorloop.toml or in the environment."
        raise SettingsError(msg) from error
