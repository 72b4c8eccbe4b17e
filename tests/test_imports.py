"""The house's one rule: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("streaming", "training", "registry", "dags", "sensorloop")
MAY = {
    "streaming": {"streaming"},
    "training": {"training", "streaming.lake", "streaming.tables"},
    "registry": {"registry"},
    "dags": {"dags", "streaming", "training", "registry"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def modules() -> list[Path]:
    return sorted(path for package in MAY for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_go_one_way(path: Path) -> None:
    allowed = MAY[path.relative_to(ROOT).parts[0]]
    for name in imports(path):
        if name.split(".")[0] in OURS:
            assert any(name == rule or name.startswith(f"{rule}.") for rule in allowed), f"{path.name} imports {name}"


@pytest.mark.parametrize(
    ("library", "room"),
    [
        ("deltalake", "streaming/delta.py"),
        ("mlflow", "registry/"),
        ("airflow", "dags/"),
        ("pydantic", "streaming/config.py"),
    ],
)
def test_each_framework_is_touched_in_one_place(library: str, room: str) -> None:
    users = [p.relative_to(ROOT).as_posix() for p in modules() if any(n.split(".")[0] == library for n in imports(p))]
    assert users
    assert all(user.startswith(room) for user in users), users


def test_modules_are_short() -> None:
    files = [*modules(), ROOT / "sensorloop.py"]
    long = {p.name: n for p in files if "_pb2" not in p.name and (n := len(p.read_text("utf-8").splitlines())) > 400}
    assert not long
