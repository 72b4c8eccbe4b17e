"""The command line as a process: answers on stdout, sentences on stderr, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("SENSORLOOP", "KAFKA"))},
        "SENSORLOOP_HOME": str(folder / "var"),
        "PYTHONPATH": str(ROOT),
        **environ,
    }
    command = [sys.executable, "-m", "sensorloop", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_help_names_every_command_and_imports_nothing_heavy(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    for command in (
        "simulate",
        "import",
        "replay",
        "ingest",
        "rescore",
        "finetune",
        "promote",
        "demo",
        "kafka",
        "registry",
    ):
        assert command in done.stdout
    heavy = "import sys, sensorloop; print([m for m in ('torch', 'mlflow', 'airflow', 'polars') if m in sys.modules])"
    listed = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == "[]"


def test_simulate_writes_recordings_and_says_so(tmp_path: Path) -> None:
    found = answer(run(tmp_path, "simulate", "fleet", "--fleet", "target", "--size", "0.05"))
    assert found["recordings"] == len(list((tmp_path / "fleet").rglob("*.parquet")))
    assert found["careful"]


@pytest.mark.parametrize(
    ("arguments", "toml", "message"),
    [
        (("lake", "pin"), "", "error: There is no table windows in the lake"),
        (("lake", "pin"), "[windows]\nlenght = 4\n", "'lenght'. Did you mean 'length'"),
        (("finetune", "--run-key", "nokey"), "", "There is no run nokey"),
        (("rescore", "--lake-version", "0"), "", "There is no model in"),
        (("simulate", "sensorloop-folder", "--fleet", "source"), "", "holds files that are no simulated fleet"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_exit_code_3(
    tmp_path: Path, arguments: tuple[str, ...], toml: str, message: str
) -> None:
    (tmp_path / "sensorloop.toml").write_text(toml, encoding="utf-8")
    (tmp_path / "sensorloop-folder").mkdir()
    (tmp_path / "sensorloop-folder" / "mine.txt").write_text("mine", encoding="utf-8")
    done = run(tmp_path, *arguments)
    assert done.returncode == 3
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_broker_may_work_later(tmp_path: Path) -> None:
    answer(run(tmp_path, "simulate", "fleet", "--fleet", "source", "--size", "0.02"))
    done = run(
        tmp_path, "replay", "fleet", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", SENSORLOOP_KAFKA__BOOTSTRAP_TIMEOUT="1"
    )
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "127.0.0.1:1" in done.stderr


def test_the_demo_wants_both_fleets_or_none(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", "--source", ".")
    assert done.returncode == 2
    assert "both --source and --target" in done.stderr
