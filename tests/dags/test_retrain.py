"""The DAG ``retrain`` as it is written."""

from __future__ import annotations

import re
from typing import Any

import pytest

from training.arm import ARMS


@pytest.fixture
def dag(airflow: dict[str, Any]) -> dict[str, Any]:
    """It, with nothing set."""
    found: dict[str, Any] = airflow["default"]["dags"]["retrain"]
    return found


def test_it_runs_by_the_clock_or_when_enough_is_new(dag: dict[str, Any], airflow: dict[str, Any]) -> None:
    assert dag["schedule"] in {"@daily", "0 0 * * *"}
    assert dag["immediately"] == 0.0
    assert dag["assets"] == ["labelled-windows"]
    assert airflow["default"]["dags"]["watch_lake"]["tasks"]["look"]["outlets"] == ["labelled-windows"]
    by_events = airflow["events only"]["dags"]["retrain"]
    assert (by_events["schedule"], by_events["assets"]) == (None, ["labelled-windows"])
    assert "| `pin` |" in dag["doc"]


def test_the_steps_come_one_after_the_other(dag: dict[str, Any]) -> None:
    after = {name: task["after"] for name, task in dag["tasks"].items()}
    assert after == {
        "pin": [],
        "open_run": ["pin"],
        "make_room": ["open_run"],
        "shards": ["make_room", "pin"],
        "embed": ["make_room", "shards"],
        "cohort.rescore": ["embed", "make_room", "pin"],
        "cohort.finetune": ["cohort.rescore", "make_room", "open_run"],
        "cohort.evaluate": ["cohort.finetune"],
        "cohort.gate": ["cohort.evaluate", "open_run"],
        "cohort.approve": ["cohort.gate"],
        "cohort.promote": ["cohort.approve", "cohort.gate"],
        "clear_room": ["cohort.promote", "make_room"],
        "close_run": ["clear_room", "open_run", "pin"],
    }
    for setup, teardown in (("make_room", "clear_room"), ("open_run", "close_run")):
        assert dag["tasks"][setup]["setup"]
        assert dag["tasks"][teardown]["teardown"]
    assert dag["tasks"]["embed"]["at_a_time"] == 2


def test_only_fine_tuning_needs_a_gpu(dag: dict[str, Any]) -> None:
    places = {name: (task["queue"], task["pool"]) for name, task in dag["tasks"].items()}
    assert places.pop("cohort.finetune") == ("gpu", "gpu")
    assert set(places.values()) == {("default", "default_pool")}


def test_buttons_lead_to_mlflow(dag: dict[str, Any]) -> None:
    assert dag["tasks"]["cohort.finetune"]["links"] == ["MLflow run"]
    assert dag["tasks"]["open_run"]["links"] == dag["tasks"]["close_run"]["links"] == ["MLflow run"]
    assert dag["tasks"]["cohort.gate"]["links"] == ["Version in MLflow"]


def test_no_answer_in_time_counts_as_no(dag: dict[str, Any]) -> None:
    approve = dag["tasks"]["cohort.approve"]
    assert approve["answer_within"] == 2 * 86_400
    assert approve["unanswered"] == ["Reject"]


def test_who_is_late_is_told(dag: dict[str, Any], airflow: dict[str, Any]) -> None:
    assert dag["deadlines"] == [18 * 3600]
    assert airflow["changed"]["dags"]["retrain"]["deadlines"] == [120]
    asking = airflow["events only"]["dags"]["retrain"]
    assert asking["deadlines"] == [18 * 3600 + 2 * asking["tasks"]["cohort.approve"]["answer_within"]], (
        "whoever waits for a person, or for a run that does, is not late"
    )


def test_the_trigger_form_explains_itself(dag: dict[str, Any]) -> None:
    params = dag["params"]
    assert {name: param["value"] for name, param in params.items()} == {
        "cohort": ["target"], "policy": "filterloss", "arms": ["filterloss"], "min_windows": 100, "force": False, "approval": False,
        "seed": 0,
    }  # fmt: skip
    for name, param in params.items():
        kind = (
            param["type"][0] if isinstance(param["type"], list) else param["type"]
        )  # the first is what the form shows
        assert kind in {"string", "array", "integer", "boolean"}, name
        assert param["title"], name
        assert param["description"].endswith("."), name


def test_arms_are_chosen_from_those_there_are(dag: dict[str, Any]) -> None:
    trained = set(ARMS) - {"original"}
    assert set(dag["params"]["arms"]["items"]["enum"]) == {"all", *trained}
    assert set(dag["params"]["policy"]["enum"]) == trained


def test_settings_change_it(airflow: dict[str, Any]) -> None:
    dag = airflow["changed"]["dags"]["retrain"]
    assert (dag["schedule"], dag["assets"]) == (None, [])
    assert dag["params"]["cohort"]["value"] == ["berlin", "berlin/phone_model=*"]
    assert dag["params"]["arms"]["value"] == ["filterloss", "plain"]
    assert dag["params"]["approval"]["value"] is True
    assert dag["tasks"]["pin"]["retries"] == 0
    assert dag["tasks"]["cohort.finetune"]["timeout"] == 60
    assert dag["tasks"]["cohort.finetune"]["pod"] == {"pod_template_file": "/etc/gpu.yaml"}
    assert dag["tasks"]["cohort.approve"]["answer_within"] == 3600


def test_an_unknown_setting_is_an_import_error_that_names_it(airflow: dict[str, Any]) -> None:
    for error in airflow["wrong"]["errors"].values():
        assert "'shedule'. Did you mean 'schedule'?" in error
    assert airflow["wrong"]["errors"]


def test_an_exit_code_becomes_the_state_of_a_task(airflow: dict[str, Any]) -> None:
    assert airflow["outcomes"] == {
        "0": "done",
        "2": "fail: because",
        "3": "fail: because",
        "4": "default: because",
        "99": "skipped: because",
        "a bug": "default",
    }


def test_what_a_person_has_said_becomes_options_of_promote(airflow: dict[str, Any]) -> None:
    assert airflow["said"] == {
        "nobody was asked": [],
        "yes": ["--approved-by", "ana", "--why", "looks right"],
        "no": ["--rejected-by", "ana"],
        "too late": ["--rejected-by", ""],
    }
    text = airflow["request"]
    assert "- One.\n- Two." in text
    assert "Champion is none, so far. [The version in MLflow](http://mlflow/2)" in text


def test_nobody_is_asked_for_a_word_that_would_change_nothing(airflow: dict[str, Any]) -> None:
    """A cleared run of what was promoted: 'Reject' would be dropped, and the task green."""
    stands = "it was judged before, which stands whatever anybody says now; a run with another seed is judged anew"
    assert airflow["needless"] == {
        "passed": None, "refused": "the gate has refused it", "promoted before": stands, "refused before": stands,
        "off": "the run's parameter 'approval' is off",
    }  # fmt: skip
    assert airflow["asked again"] is None


def test_the_same_champion_and_lake_start_the_same_run(airflow: dict[str, Any]) -> None:
    first, again, later = airflow["retraining"]
    assert first == again
    assert first["trigger_run_id"] != later["trigger_run_id"]
    assert re.fullmatch(r"[A-Za-z0-9_.~:+-]+", first["trigger_run_id"]), "Airflow takes no other names"
    assert (first["conf"], first["note"]) == ({"cohort": ["a/phone_model=b c"], "min_windows": 200}, "Behind.")
