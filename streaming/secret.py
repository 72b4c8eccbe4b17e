"""Secrets: settings name where they are kept, and so cannot give them away."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from streaming.errors import SettingsError


def reveal(reference: str, *, setting: str, environ: Mapping[str, str] | None = None) -> str:
    """The secret that a setting names.

    Args:
        reference: ``env:NAME`` or ``file:PATH`` (its text, white space around it left out); empty for none.
        setting: the setting's name, for messages.
        environ: the environment; ``os.environ`` if None.

    Raises:
        SettingsError: it is not there, or the setting holds the secret itself. No message has the secret.
    """
    if not reference:
        return ""
    kind, _, name = reference.partition(":")
    if kind == "env" and name:
        found = (os.environ if environ is None else environ).get(name, "")
        if not found:
            msg = f"{setting} = 'env:{name}': the environment has no {name}"
            raise SettingsError(msg)
        return found
    if kind == "file" and name:
        try:
            found = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            msg = f"{setting} = 'file:{name}' cannot be read: {reason}"
            raise SettingsError(msg) from None
        if not found:
            msg = f"{setting} = 'file:{name}': the file is empty"
            raise SettingsError(msg)
        return found
    msg = f"{setting} must say where the secret is, 'env:NAME' or 'file:PATH', and not hold it"
    raise SettingsError(msg)
