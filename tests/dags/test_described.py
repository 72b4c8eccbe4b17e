from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from dags.described import Described, described, markdown, shown
from dags.settings import Set, load

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


KNOWN = {(each.section, each.key): each for each in described()}


def test_a_value_that_is_set_is_shown_with_whoever_set_it() -> None:
    each = KNOWN["kafka", "group_id"]
    first, second, *_ = shown(each, Set(value="mine", origin="/etc/my.toml")).splitlines()
    assert first == '[kafka] group_id = "mine"    SENSORLOOP_KAFKA__GROUP_ID'
    assert second == f"    (set by /etc/my.toml; the default is {each.default})"
    assert shown(each, None).startswith(f"[kafka] group_id = {each.default}    ")
    assert "set by" not in shown(each, Set(value=each.default.strip('"'), origin="/etc/my.toml"))


@pytest.mark.parametrize(
    ("section", "key", "value", "visible"),
    [
        ("kafka", "sasl_password", "env:KAFKA_PASSWORD", "env:KAFKA_PASSWORD"),
        ("kafka", "sasl_password", "hunter2", "(hidden)"),
        ("lake", "s3_secret_access_key", "hunter2", "(hidden)"),
        ("registry", "ledger_url", "postgresql://ana:hunter2@db/ledger", "postgresql://…@db/ledger"),
    ],
)
def test_no_secret_is_shown(section: str, key: str, value: str, visible: str) -> None:
    text = shown(KNOWN[section, key], Set(value=value, origin="/etc/my.toml"))
    assert visible in text
    assert "hunter2" not in text


@pytest.mark.parametrize("file", ["README.md", "docs/settings.md"])
def test_the_example_of_a_variable_works_as_it_stands(file: str) -> None:
    text = (Path(__file__).parents[2] / file).read_text(encoding="utf-8")
    name, value = re.search(r"`(SENSORLOOP_\w+)=(\w+)`", text).groups()  # type: ignore[union-attr]
    assert load({name: value, "SENSORLOOP_CONFIG": os.devnull}).windows.length.total_seconds() == float(value)
