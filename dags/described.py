"""Every setting with its default and what stands under it in the source: one place for the table in the docs and the command."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from datetime import timedelta
from typing import Any, get_type_hints

from dags.settings import Set, Settings
from streaming.config import is_secret

_LOGIN = re.compile(r"://[^/@\s]*@")

_HEAD = """\
# Settings

One file, `sensorloop.toml` (or the one that `SENSORLOOP_CONFIG` names), a section a concept; a variable of the environment
overrides a key: `SENSORLOOP_WINDOWS__LENGTH=10` is `[windows] length`. Durations are seconds or ISO 8601 (`PT5S`),
lists are JSON (`'["a"]'`). An unknown key is an error that names the nearest known one. Everything that is written goes
below `SENSORLOOP_HOME` (default `var`).

Written by `sensorloop settings --markdown`; a test holds it in step with the source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """One setting."""

    section: str
    key: str
    default: str
    """As one would write it in ``sensorloop.toml``."""
    text: str
    """Unit, default and reason."""

    @property
    def variable(self) -> str:
        """The variable of the environment that overrides it."""
        return f"SENSORLOOP_{self.section.upper()}__{self.key.upper()}"


def described() -> list[Described]:
    """Every setting, in the order of the sections and of the source."""
    hints = get_type_hints(Settings)
    found = []
    for section in fields(Settings):
        kind = hints[section.name]
        if section.name == "home":
            continue
        texts = _texts(kind)
        found += [
            Described(section=section.name, key=field.name, default=_toml(_default(field)), text=texts[field.name])
            for field in fields(kind)
        ]
    return found


def shown(each: Described, given: Set | None) -> str:
    """A setting for a person: its value in force, and who has set it if that is not the default.

    A secret is not shown, only where it is kept; nor is who logs in to an address, and with what.
    """
    head = f"[{each.section}] {each.key} = {each.default}    {each.variable}"
    if given is None or _toml(given.value) == each.default:
        return f"{head}\n    {each.text}"
    value = _LOGIN.sub("://…@", _toml(given.value))
    if is_secret(each.key) and not str(given.value).startswith(("env:", "file:")):
        value = "(hidden)"
    return (
        f"[{each.section}] {each.key} = {value}    {each.variable}\n"
        f"    (set by {given.origin}; the default is {each.default})\n    {each.text}"
    )


def markdown() -> str:
    """The table of ``docs/settings.md``."""
    lines = [_HEAD]
    section = ""
    for each in described():
        if each.section != section:
            section = each.section
            lines += ["", f"## [{section}]", "", "| key | default | |", "|---|---|---|"]
        lines.append(f"| `{each.key}` | `{each.default}` | {each.text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _texts(kind: type[Any]) -> dict[str, str]:
    """Field → the string that stands under it."""
    body = ast.parse(inspect.getsource(kind).lstrip()).body[0]
    if not isinstance(body, ast.ClassDef):  # pragma: no cover - a dataclass is a class
        raise TypeError(kind)
    texts, name = {}, ""
    for statement in body.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and name:
            texts[name] = " ".join(str(statement.value.value).split())
    return texts


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case timedelta():
            return f"{value.total_seconds():g}"
        case tuple():
            return "[" + ", ".join(_toml(each) for each in value) + "]"
        case Mapping():
            return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
        case _:
            return str(value)
