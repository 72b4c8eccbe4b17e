"""docker/Dockerfile beside compose.yaml and the requirements."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from dags.local import here
from dags.local.here import REPOSITORY
from dags.settings import load
from tests.docker.cluster import DOCKER, IMAGE, services

TEXT = (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
STAGES = TEXT.split("\nFROM ")[1:]
OURS = [each for each in services().values() if each.built]


def test_bases_are_pinned_and_of_the_python_that_is_tested() -> None:
    bases = re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)
    assert len(bases) == 2
    for base in bases:
        assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base), base
    assert len(set(bases)) == 1, "what is compiled in one runs in the other"


def test_everything_comes_from_the_hashed_requirements() -> None:
    installs = re.findall(r"(?:pip|uv pip) install ([^&\n]*)", STAGES[0])
    assert len(installs) == 3
    for options in installs:
        assert "--require-hashes" in options or "--no-deps" in options, options
    for name in re.findall(r"--requirement (\S+)", TEXT):
        lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if re.match(r"\S", line) and not re.search(r"==\S+ \\$", line)], (
            f"{name}: a package without a hash"
        )
        assert not [line for line in lines if "://" in line], f"{name}: an address"


def test_what_is_copied_is_there_and_nothing_of_the_code_is_missing() -> None:
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", TEXT, re.MULTILINE) for word in line.split()[:-1]]
    let_in = {
        line.removeprefix("!")
        for line in (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    for name in copied:
        assert (REPOSITORY / name).exists(), name
        assert name.split("/")[0] in let_in, f".dockerignore keeps {name} out"
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages | {"sensorloop.py", "docker"} <= set(copied)


def test_secrets_stay_out_of_the_image() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    assert ignored.index("docker/secrets") > ignored.index("!docker")
    assert ignored.index("docker/.env") > ignored.index("!docker")


def test_it_runs_as_the_user_that_the_services_say_and_that_user_owns_what_it_writes() -> None:
    last = STAGES[-1]
    user = re.findall(r"^USER (\S+)", last, re.MULTILINE)[-1]
    assert {each.user for each in OURS} == {user}
    made = re.search(r"install --directory --owner (\d+) --group (\d+) ([^\n]*)", last)
    assert made
    assert f"{made[1]}:{made[2]}" == user
    folders = made[3].split()
    assert {target for each in OURS for target in each.volumes} <= set(folders)
    assert {
        each.environment[name]
        for each in OURS
        for name in ("AIRFLOW_HOME", "SENSORLOOP_HOME")
        if name in each.environment
    } <= set(folders)
    assert set(folders) == set(here._OWN), "the rehearsal gives each process the same folders"


def test_the_services_find_the_code_where_the_image_has_it() -> None:
    assert re.search(rf"^WORKDIR {IMAGE}$", STAGES[-1], re.MULTILINE)
    assert f"COPY --from=build {IMAGE} {IMAGE}" in STAGES[-1]
    assert {each.image for each in OURS} == {f"sensorloop:{_version()}"}


def _version() -> str:
    return re.search(r'^version = "(.*)"$', Path(REPOSITORY / "pyproject.toml").read_text("utf-8"), re.MULTILINE)[1]  # type: ignore[index]


def test_the_commit_of_a_build_reaches_the_code() -> None:
    """From ``make image`` through compose.yaml's argument to the variable that MLflow's runs are tagged by."""
    assert re.search(r"^ARG (\w+)=\"\"\nENV \1=\$\1$", STAGES[-1], re.MULTILINE)
    assert "\nENV SENSORLOOP_COMMIT=" in STAGES[-1]
    assert 'args: {SENSORLOOP_COMMIT: "${SENSORLOOP_COMMIT:-}"}' in (DOCKER / "compose.yaml").read_text(
        encoding="utf-8"
    )
    recipe = (REPOSITORY / "Makefile").read_text(encoding="utf-8").split("\nimage:", 1)[1].split("\n\n", 1)[0]
    command = re.search(r'SENSORLOOP_COMMIT="\$\$\((.*?)\)" docker compose build', recipe)
    assert command
    said = subprocess.run(
        shlex.split(command[1]), cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", said)
    load({"SENSORLOOP_COMMIT": said, "SENSORLOOP_CONFIG": "/dev/null"})  # it is taken for no setting


def test_an_upgrade_brings_mlflows_tables_up_to_date_before_its_server_looks_at_them() -> None:
    """It ends at once over tables of another version, and 'up --wait' with it."""
    upgrade = (
        (REPOSITORY / "docs" / "operations.md")
        .read_text(encoding="utf-8")
        .split("## Upgrade", 1)[1]
        .split("\n## ", 1)[0]
    )
    steps = ["make image", "docker compose stop mlflow", "mlflow db upgrade", "docker compose up --detach --wait"]
    places = [upgrade.index(step) for step in steps]
    assert places == sorted(places)
    assert upgrade.count("docker compose up --detach --wait") == 1
