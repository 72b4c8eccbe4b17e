"""What a run says of where it took place."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from registry.environment import environment, user


def test_the_environment_names_the_commit(tmp_path: Path) -> None:
    tags = environment(tmp_path)
    assert {"python", "machine", "package.torch", "package.mlflow"} <= set(tags)
    assert "mlflow.source.git.commit" not in tags
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first"]):
        (tmp_path / "file").write_text("1", encoding="utf-8")
        subprocess.run([*git, *command], check=True)
    clean = environment(tmp_path)
    assert len(clean["mlflow.source.git.commit"]) == 40
    assert "git.uncommitted_changes" not in clean
    (tmp_path / "file").write_text("2", encoding="utf-8")
    assert environment(tmp_path)["git.uncommitted_changes"] == "true"
    inside = tmp_path / "venv"  # an installed package in somebody's repository: that commit is not ours
    inside.mkdir()
    assert "mlflow.source.git.commit" not in environment(inside)


def test_the_environment_names_person_and_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/bin/sensorloop", "finetune"])
    tags = environment()
    assert tags["mlflow.source.name"] == "sensorloop"
    assert tags["mlflow.user"]
    monkeypatch.setattr("getpass.getuser", _nobody)
    assert environment()["mlflow.user"] == user() == f"uid {os.getuid()}", "a container's user may have no name"


def _nobody() -> str:
    raise KeyError(1000)


def test_an_image_says_which_commit_it_was_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORLOOP_COMMIT", "a" * 40)
    tags = environment(tmp_path)
    assert tags["mlflow.source.git.commit"] == "a" * 40
    assert "git.uncommitted_changes" not in tags
    monkeypatch.setenv("SENSORLOOP_COMMIT", f"{'a' * 40}-dirty")
    tags = environment(tmp_path)
    assert (tags["mlflow.source.git.commit"], tags["git.uncommitted_changes"]) == ("a" * 40, "true")
    monkeypatch.setenv("SENSORLOOP_COMMIT", "")  # an image that nobody told
    assert "mlflow.source.git.commit" not in environment(tmp_path)
