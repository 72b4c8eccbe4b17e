"""The description beside a saved model: what can be said of it without loading torch, which takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.errors import ModelError

CONFIG = "model.json"
"""Its name in a model's folder."""


def read_config(folder: Path) -> dict[str, Any]:
    """``model.json`` of a saved model.

    Raises:
        ModelError: it is not there, or is no JSON.
    """
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        what = f"no {CONFIG}" if isinstance(error, FileNotFoundError) else error
        msg = f"There is no model in {folder}: {what}. 'sensorloop train original' makes the original one."
        raise ModelError(msg) from error
    return config
