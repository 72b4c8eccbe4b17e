from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dags.described import Described, described, markdown
from dags.settings import load

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_docs_have_every_setting_as_it_is() -> None:
    assert DOCS.read_text(encoding="utf-8") == markdown(), (
        "write it again: sensorloop settings --markdown > docs/settings.md"
    )


@pytest.mark.parametrize("each", described(), ids=lambda each: f"{each.section}.{each.key}")
def test_every_setting_says_something_and_its_default_can_be_written_down(each: Described) -> None:
    assert len(each.text) > 10
    assert tomllib.loads(f"{each.key} = {each.default}").keys() == {each.key}


def test_all_defaults_written_into_a_file_are_the_defaults(tmp_path: Path) -> None:
    lines: dict[str, list[str]] = {}
    for each in described():
        lines.setdefault(each.section, []).append(f"{each.key} = {each.default}")
    file = tmp_path / "sensorloop.toml"
    file.write_text("\n".join(f"[{section}]\n" + "\n".join(keys) for section, keys in lines.items()), encoding="utf-8")
    home = {"SENSORLOOP_HOME": str(tmp_path)}
    assert load({**home, "SENSORLOOP_CONFIG": str(file)}) == load({**home, "SENSORLOOP_CONFIG": "/dev/null"})
