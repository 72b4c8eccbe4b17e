"""What every DAG keeps to, whoever writes the next one; what reading the folder imports, and how long that takes."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from tests.dags.reading import DAGS

NAMES = ("maintain_lake", "retrain", "watch_champion", "watch_lake")
HEAVY = {
    "torch", "torchvision", "mlflow", "polars", "pandas", "sklearn", "scipy", "matplotlib", "deltalake", "kafka", "pyarrow",
}  # fmt: skip


@pytest.fixture
def read(airflow: dict[str, Any]) -> dict[str, Any]:
    """The DAG folder with nothing set."""
    found: dict[str, Any] = airflow["default"]
    assert found["errors"] == {}
    return found


def dag_files() -> list[str]:
    """Files that define a DAG, found by reading them ourselves."""
    return sorted(
        str(path)
        for path in DAGS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and any(
            isinstance(d, ast.Call) and isinstance(d.func, ast.Name) and d.func.id == "dag" for d in node.decorator_list
        )
    )


def test_airflow_reads_the_dag_files_and_no_other(read: dict[str, Any]) -> None:
    assert read["files"] == dag_files()
    assert tuple(sorted(read["dags"])) == NAMES
    assert not [name for name in read["loaded"] if name.startswith("dags.local")]


def test_reading_imports_nothing_heavy(read: dict[str, Any]) -> None:
    assert not HEAVY & {name.split(".")[0] for name in read["loaded"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_dag_explains_itself_and_pauses_when_it_keeps_failing(read: dict[str, Any], name: str) -> None:
    dag = read["dags"][name]
    assert "sensorloop" in dag["tags"]
    assert len(dag["tags"]) > 1
    assert dag["description"].endswith(".")
    assert dag["doc"].strip().startswith("### ")
    for task in dag["tasks"]:
        assert f"`{task}`" in dag["doc"], task
    assert not dag["catchup"]
    assert dag["max_active_runs"] == 1
    assert dag["failed"] == 3
    assert 1000 < dag["stored"] < 60_000, "Airflow can store it"


@pytest.mark.parametrize("name", NAMES)
def test_every_task_has_an_owner_a_time_out_and_retries_where_they_help(read: dict[str, Any], name: str) -> None:
    for task_id, task in read["dags"][name]["tasks"].items():
        assert task["owner"] == "sensorloop", task_id
        assert 0 < task["timeout"] <= 12 * 3600, task_id
        assert task["retries"] >= 1, task_id
        assert task["delay"] > 0, task_id
        assert task["policy"] == "RetryByOutcome", task_id
        assert task["doc"], task_id


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_that_is_switched_on_makes_up_for_nothing(read: dict[str, Any], name: str) -> None:
    assert read["dags"][name]["schedule"]
    assert read["dags"][name]["immediately"] == 0.0


def test_an_empty_schedule_is_none(airflow: dict[str, Any]) -> None:
    dags = airflow["changed"]["dags"]
    assert dags["maintain_lake"]["schedule"] is None
    assert dags["watch_lake"]["schedule"] is None
    assert dags["watch_champion"]["schedule"] == "0 0 * * *"


def test_maintaining_comes_in_order_and_is_proven_whatever_became_of_it(read: dict[str, Any]) -> None:
    tasks = read["dags"]["maintain_lake"]["tasks"]
    assert {name: (task["after"], task["rule"]) for name, task in tasks.items()} == {
        "compact": ([], "all_success"), "vacuum": (["compact"], "all_success"), "verify": (["vacuum"], "all_done"),
    }  # fmt: skip


def test_a_champion_that_has_fallen_behind_starts_a_retraining(read: dict[str, Any]) -> None:
    tasks = read["dags"]["watch_champion"]["tasks"]
    assert {name: task["after"] for name, task in tasks.items()} == {
        "watch": [],
        "runs": ["watch"],
        "retrain": ["runs"],
    }


def test_temporary_files_go_where_the_task_says(
    airflow: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert airflow["scratch"].startswith(str(tmp_path_factory.getbasetemp()))
