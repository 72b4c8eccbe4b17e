"""On what a benchmark ran."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


def machine() -> dict[str, Any]:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    return {
        "cpu": model, "cores": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(), "python": platform.python_version(),
    }  # fmt: skip


def versions(*libraries: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in libraries}


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Whole or not at all: whoever reads it while the benchmark runs, or after it was interrupted, finds JSON."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
