"""``sensorloop label``: what is sent, beside no Kafka."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dags.local import label

if TYPE_CHECKING:
    from streaming.label_wire import SceneLabel


def test_in_a_container_whose_user_has_no_name_a_number_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[SceneLabel] = []

    def nobody() -> str:
        raise OSError

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.setattr(label, "_send", lambda _settings, labels: sent.extend(labels))
    since, until = "2026-01-01T08:00:00Z", "2026-01-01T09:00:00Z"
    label.send(device="d1", from_=since, to=until, scene="Walk")
    file = tmp_path / "labels.csv"
    file.write_text(f"device_id,start,end,scene\nd2,{since},{until},Bus\n", encoding="utf-8")
    label.import_(file)
    assert [(each.device_id, each.said_by) for each in sent] == [
        ("d1", f"uid {os.getuid()}"),
        ("d2", f"uid {os.getuid()}"),
    ]
