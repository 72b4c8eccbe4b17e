"""The command line as a process: answers on stdout, sentences on stderr, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streaming.ports import free_ports
from streaming.settings import LakeSettings
from tests.streaming.lakes import Writer
from training.arm import ARMS

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


def test_it_says_which_version_it_is(tmp_path: Path) -> None:
    done = run(tmp_path, "--version")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (done.returncode, done.stdout) == (0, f"sensorloop {project['version']}\n")


def test_help_names_every_command_and_imports_nothing_heavy(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    for command in (
        "simulate",
        "import",
        "replay",
        "ingest",
        "rescore",
        "finetune",
        "evaluate",
        "gate",
        "promote",
        "watch",
        "scratch",
        "track",
        "demo",
        "kafka",
        "lake",
        "label",
        "deadletter",
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


@pytest.mark.slow
def test_labels_that_do_not_allow_a_retraining_are_a_sentence_that_says_what_is_missing(tmp_path: Path) -> None:
    from tests.training.lakes import SETTINGS, publish_what_cannot_be_learned_from  # noqa: PLC0415  (torch takes seconds)

    (tmp_path / "sensorloop.toml").write_text(SETTINGS, encoding="utf-8")
    for cohort, missing in publish_what_cannot_be_learned_from(tmp_path / "var").items():
        done = run(tmp_path, "rescore", "--cohort", cohort)
        assert done.returncode == 3, done.stderr
        assert re.fullmatch(f"error: {missing}.*", done.stderr.splitlines()[-1])
        assert "Traceback" not in done.stderr
        assert not done.stdout.strip(), "there is no answer"
    assert not (tmp_path / "var" / "runs").exists()
    assert not (tmp_path / "var" / "lake" / "quality").exists()


def refusals(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("refused: ")]


@pytest.mark.broker
def test_a_bad_recording_is_named_with_its_row_and_the_rest_is_replayed(tmp_path: Path, bootstrap_servers: str) -> None:
    answer(run(tmp_path, "simulate", "fleet", "--fleet", "source", "--size", "0.02"))
    bad, *rest = sorted((tmp_path / "fleet").rglob("*.parquet"))
    table = pq.read_table(bad)
    times = table["time_ns"].to_pylist()
    times[5] = times[0] - 1
    pq.write_table(table.set_column(0, table.schema.field(0), pa.array(times)), bad)
    topic = {"SENSORLOOP_KAFKA__BATCHES_TOPIC": "refused.b", "SENSORLOOP_KAFKA__DEADLETTER_TOPIC": "refused.x"}
    done = run(tmp_path, "replay", "fleet", KAFKA_BOOTSTRAP_SERVERS=bootstrap_servers, **topic)
    found = answer(done)
    assert (found["refused"], found["sessions"]) == (1, len(rest))
    (line,) = refusals(done)
    assert (
        line
        == f"refused: {bad.relative_to(tmp_path)}, row 5: time_ns is before the row above; sort the file by time_ns"
    )


def test_a_bad_row_of_a_published_file_is_named_and_the_rest_is_imported(tmp_path: Path) -> None:
    axes = [f"{group}.{axis}" for group in ("gravity", "rotationRate", "userAcceleration") for axis in "xyz"]
    header = ",".join(["", *axes])
    row = "0,0,0,-1,1,2,3,0,0,0"
    folder = tmp_path / "A_DeviceMotion_data" / "wlk_7"
    folder.mkdir(parents=True)
    for subject in (1, 2):
        lines = [header, *[row] * 20]
        if subject == 1:
            lines[7] = row.replace("-1", "nan")
        (folder / f"sub_{subject}.csv").write_text("\n".join(lines) + "\n", encoding="ascii")
    (folder / "sub_3.csv").write_text("time,colour\n1,red\n", encoding="ascii")
    done = run(tmp_path, "import", "motionsense", "A_DeviceMotion_data", "recordings", "--cohort", "source")
    assert answer(done) == {
        "recordings": 2, "subjects": 2, "notes": {}, "minutes": {"Walk": pytest.approx(39 / 50 / 60, rel=0.1)}, "refused": 2,
    }  # fmt: skip
    assert [line.split(": ")[1] for line in sorted(refusals(done))] == ["wlk_7/sub_1.csv:8", "wlk_7/sub_3.csv"]
    assert len(list((tmp_path / "recordings").rglob("*.parquet"))) == 2


def test_no_broker_may_work_later(tmp_path: Path) -> None:
    answer(run(tmp_path, "simulate", "fleet", "--fleet", "source", "--size", "0.02"))
    done = run(
        tmp_path, "replay", "fleet", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", SENSORLOOP_KAFKA__BOOTSTRAP_TIMEOUT="1"
    )
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "127.0.0.1:1" in done.stderr


@pytest.mark.parametrize("command", [("ingest", "--until-caught-up"), ("kafka", "start"), ("kafka", "status")])
def test_a_kafka_that_was_named_and_is_not_there(tmp_path: Path, command: tuple[str, ...]) -> None:
    """No broker of ours is started in its stead."""
    done = run(tmp_path, *command, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert done.returncode == 4
    assert "Kafka at 127.0.0.1:1 cannot be reached (Connection refused)" in done.stderr
    assert "KAFKA_BOOTSTRAP_SERVERS" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "var" / "kafka").exists()


def test_a_lake_s_care(tmp_path: Path) -> None:
    """Proven, merged, vacuumed, and proven again; then a fault that is found."""
    writer = Writer(LakeSettings(uri=str(tmp_path / "var" / "lake")))
    for name in ("s1", "s2"):
        writer.publish(name)
    assert answer(run(tmp_path, "lake", "verify"))["rows"] == 8
    assert answer(run(tmp_path, "lake", "compact"))["files_after"] == 1
    assert answer(run(tmp_path, "lake", "vacuum"))["deleted"] == 0
    gone = {"SENSORLOOP_LAKE__VACUUM_RETENTION": "0"}
    assert answer(run(tmp_path, "lake", "vacuum", "--dry-run", **gone))["deleted"] == 2
    assert answer(run(tmp_path, "lake", "vacuum", **gone))["deleted"] == 2
    (file,) = (tmp_path / "var" / "lake").glob("windows/event_date=*/*.parquet")
    assert answer(run(tmp_path, "lake", "verify"))["problems"] == []
    file.unlink()
    done = run(tmp_path, "lake", "verify")
    assert done.returncode == 3
    assert f"error: windows: {file.parent.name}/{file.name}: is missing; 8 rows are lost" in done.stderr.splitlines()
    assert len(json.loads(done.stdout)["problems"]) == 2


WHEN = ("--from", "2026-01-31T08:00:00Z", "--to", "2026-01-31T09:00:00Z")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("send", "--device", "d", *WHEN), 2, "Give a --scene, or --withdraw what was said."),
        (("send", "--device", "d", *WHEN, "--scene", "Bus", "--withdraw"), 2, "Give a --scene, or --withdraw"),
        (("send", "--device", "d", "--from", "2026-01-31T08:00", "--to", "1", "--scene", "Bus"), 3, "has no time zone"),
        (("send", "--device", "", *WHEN, "--scene", "Bus"), 3, "device_id is empty"),
        (
            ("send", "--device", "d", *WHEN, "--scene", "Bus", "--said", "2190-01-01T00:00:00Z"),
            3,
            "[windows] max_ahead",
        ),
        (("import", "labels.csv"), 3, "1 of 2 rows of labels.csv are no labels; none was sent."),
    ],
)
def test_a_label_that_is_none_is_a_sentence_and_none_is_sent(
    tmp_path: Path, arguments: tuple[str, ...], exit_code: int, message: str
) -> None:
    (tmp_path / "labels.csv").write_text("device_id,start,end,scene\nd,1,2,Bus\nd,2,1,Bus\n", encoding="utf-8")
    done = run(tmp_path, "label", *arguments, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert done.returncode == exit_code, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr
    assert not done.stdout


def test_no_labels_are_none_and_not_an_error(tmp_path: Path) -> None:
    assert answer(run(tmp_path, "label", "list")) == {"total": 0, "labels_version": -1, "labels": []}


@pytest.mark.broker
@pytest.mark.slow
def test_the_local_kafka_s_day(tmp_path: Path) -> None:
    """Asked for, started, started again, in somebody's way, stopped, stopped again."""
    port, controller_port = free_ports(2)
    ours = {"SENSORLOOP_BROKER__PORT": str(port), "SENSORLOOP_BROKER__CONTROLLER_PORT": str(controller_port)}
    address = f"127.0.0.1:{port}"
    assert answer(run(tmp_path, "kafka", "status", **ours)) == {"running": False}
    try:
        first = answer(run(tmp_path, "kafka", "start", **ours))
        assert (first["started"], first["bootstrap_servers"]) == (True, address)
        again = answer(run(tmp_path, "kafka", "start", **ours))
        assert (again["started"], again["pid"]) == (False, first["pid"])
        status = answer(run(tmp_path, "kafka", "status", **ours))
        assert (status["running"], status["answers"], status["pid"]) == (True, True, first["pid"])
        named = answer(run(tmp_path, "kafka", "start", KAFKA_BOOTSTRAP_SERVERS=address))
        assert named == {"bootstrap_servers": address, "started": False}
        elsewhere = run(tmp_path, "kafka", "start", **ours, SENSORLOOP_HOME=str(tmp_path / "elsewhere"))
        assert elsewhere.returncode == 3
        assert f"cannot listen on {address}" in elsewhere.stderr
        assert "Traceback" not in elsewhere.stderr
    finally:
        stopped = answer(run(tmp_path, "kafka", "stop", **ours))
    assert stopped == {"stopped": True}
    assert answer(run(tmp_path, "kafka", "stop", **ours)) == {"stopped": False}


def test_an_import_says_what_it_refused_and_left_out(tmp_path: Path) -> None:
    lines = [f"{at * 50},android.sensor.accelerometer,0.1,0.2,9.8" for at in range(200)]
    for bad in range(10, 60, 2):
        lines[bad] = f"{bad * 50},android.sensor.accelerometer,NaN,0.2,9.8"
    lines += ["10000,sound,3.0", "10050,sound,3.0"]
    source = tmp_path / "tmd" / "sensorfile_U1_Walking_1480530298390.csv"
    source.parent.mkdir()
    source.write_text("\n".join(lines) + "\n", encoding="ascii")
    done = run(tmp_path, "import", "tmd", "tmd", "recordings", "--cohort", "target")
    found = answer(done)
    assert found["refused"] == 25
    assert found["notes"] == {"rows of 'sound' left out": 2}
    refused = [line for line in done.stderr.splitlines() if line.startswith("refused: ")]
    assert len(refused) == 20
    assert refused[0].startswith("refused: sensorfile_U1_Walking_1480530298390.csv:11: ")
    assert "… and 5 more." in done.stderr
    assert "note: rows of 'sound' left out: 2" in done.stderr


def test_replay_says_what_a_silence_is_cut_to(tmp_path: Path) -> None:
    assert "--longest-pause" in run(tmp_path, "replay", "--help").stdout


def test_finetune_says_which_arms_there_are(tmp_path: Path) -> None:
    assert ", ".join(ARMS) in " ".join(run(tmp_path, "finetune", "--help", COLUMNS="200").stdout.split())


def test_the_demo_wants_both_fleets_or_none(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", "--source", ".")
    assert done.returncode == 2
    assert "both --source and --target" in done.stderr


HEAVY = """
import sys, sensorloop
sys.argv = ["sensorloop", *sys.argv[1:]]
try:
    sensorloop.main()
finally:
    print([name for name in ("torch", "mlflow", "sklearn") if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("rescore", "--cohorte", "x"), 2, "No such option"),
        (("rescore",), 3, "There is no model in"),
        (
            ("finetune", "--run-key", "k", "--arms", "plain,filterlos"),
            3,
            "There is no arm 'filterlos'. Did you mean 'filterloss'? There are original, plain, oversampling, undersampling, filterloss.",
        ),
        (("finetune", "--run-key", "k"), 3, "There is no run k"),
        (("train", "original"), 3, "There is no table windows in the lake"),
        (
            ("experiment", "--source", "nowhere", "--target", "."),
            3,
            "nowhere is neither a lake nor a folder of recordings",
        ),
    ],
)
def test_what_is_easily_seen_to_be_wrong_is_said_before_torch_is_loaded(
    tmp_path: Path, arguments: tuple[str, ...], exit_code: int, message: str
) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SENSORLOOP_HOME": str(tmp_path / "var"), "SENSORLOOP_CONFIG": ""}
    command = [sys.executable, "-c", HEAVY, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, message in done.stderr) == (exit_code, True), done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_lake_without_the_version_is_said_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "var" / "original").mkdir(parents=True)
    (tmp_path / "var" / "original" / "model.json").write_text("{}", encoding="utf-8")
    Writer(LakeSettings(uri=str(tmp_path / "var" / "lake"))).publish("s1")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SENSORLOOP_HOME": str(tmp_path / "var"), "SENSORLOOP_CONFIG": ""}
    command = [sys.executable, "-c", HEAVY, "rescore", "--lake-version", "77"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert "77" in done.stderr.splitlines()[-1]
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("place", ["/proc/fleet", "file", "file/below"])
def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    done = run(tmp_path, "simulate", place, "--fleet", "source", "--size", "0.02")
    assert done.returncode == 3
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {place}: recordings cannot be written there: ")
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text(encoding="utf-8") == "in the way"


def test_a_settings_file_that_is_named_and_missing_is_a_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, "lake", "pin", SENSORLOOP_CONFIG="missing.toml")
    assert done.returncode == 3
    assert done.stderr.startswith("error: SENSORLOOP_CONFIG = missing.toml: there is no such file.")


def test_settings_say_what_is_in_force_and_an_unknown_key_after_all_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "sensorloop.toml").write_text("[windows]\nlength = 10\n", encoding="utf-8")
    done = run(tmp_path, "settings", SENSORLOOP_KAFKA__SASL_PASSWORD="hunter2", KAFKA_BOOTSTRAP_SERVERS="a:1")
    assert done.returncode == 0, done.stderr
    assert (
        "[windows] length = 10    SENSORLOOP_WINDOWS__LENGTH\n    (set by sensorloop.toml; the default is 5)"
        in done.stdout
    )
    assert '[kafka] bootstrap_servers = "a:1"' in done.stdout
    assert "(set by SENSORLOOP_KAFKA__SASL_PASSWORD;" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    (tmp_path / "sensorloop.toml").write_text("[windows]\nlenght = 4\n", encoding="utf-8")
    done = run(tmp_path, "settings")
    assert done.returncode == 3
    assert "[windows] length = 5" in done.stdout
    assert "Did you mean 'length'" in done.stderr


def test_an_account_names_the_files_that_are_no_recordings(tmp_path: Path) -> None:
    answer(run(tmp_path, "simulate", "fleet", "--fleet", "source", "--size", "0.02"))
    Writer(LakeSettings(uri=str(tmp_path / "var" / "lake"))).publish("s1")
    bad = min((tmp_path / "fleet").rglob("*.parquet"))
    bad.write_bytes(b"no Parquet")
    done = run(tmp_path, "lake", "account", "fleet")
    assert done.returncode == 3, "nothing of it is in the lake"
    (line,) = refusals(done)
    assert line.startswith(f"refused: {bad.relative_to(tmp_path)}: not a readable Parquet file: ")
    assert "1 file was refused: replay does not send it" in done.stderr
    assert json.loads(done.stdout)["refused"] == 1
    for file in (tmp_path / "fleet").rglob("*.parquet"):
        file.write_bytes(b"no Parquet")
    last = run(tmp_path, "lake", "account", "fleet").stderr.splitlines()[-1]
    assert last.startswith(
        f"error: fleet: no usable recording: {bad.relative_to(tmp_path)}: not a readable Parquet file"
    )
