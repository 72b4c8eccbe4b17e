from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tracking import own_tracking_uri


@pytest.fixture(scope="session")
def trained_once(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """An installation (:class:`tests.dags.places.Place`) whose original model is trained, and what the training answered."""
    from dags import steps  # noqa: PLC0415  (with torch and MLflow, which most tests of this folder do without)
    from tests.dags.places import make  # noqa: PLC0415
    from training.tracking import no_progress  # noqa: PLC0415

    with own_tracking_uri():
        place = make(tmp_path_factory.mktemp("installation"), empty_database)
        yield place, steps.train_original(place.settings(), cohort="source", seed=0, progress=no_progress)


@pytest.fixture(scope="module")
def trained(
    trained_once: tuple[Any, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, dict[str, Any]]:
    """The same for each file of tests: what one leaves behind, the next does not find."""
    from tests.dags.places import copy  # noqa: PLC0415

    once, answer = trained_once
    place = copy(once, tmp_path_factory.mktemp("copied") / "home")
    return place, {**answer, "folder": str(place.settings().original_folder)}


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The DAG folder as Airflow reads it, under several environments: :func:`tests.dags.reading.read`."""
    from tests.dags.reading import read  # noqa: PLC0415

    return read(tmp_path_factory.mktemp("airflow"))
