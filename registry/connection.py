"""A client of MLflow, and MLflow's errors as ours."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from registry.errors import MlflowUnavailable, TrackingError

Client = MlflowClient
"""What :func:`connect` gives."""
NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"
ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
_TRANSIENT = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"})
_REACH_SECONDS = 10.0


def connect(tracking_uri: str) -> MlflowClient:
    """A client of the MLflow at this address, for runs and models alike.

    A server is asked for a sign of life first: MLflow's client itself would go on trying for four minutes.

    Args:
        tracking_uri: ``http(s)://…`` of a server, or a database URL that MLflow opens in this process; the latter becomes
            MLflow's address for the whole process.

    Raises:
        MlflowUnavailable: nobody listens at this address.
    """
    # MLflow greets the end of every run with two lines on stdout, which is for results.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    check_answers(tracking_uri)
    with warnings.catch_warnings(), mlflow_errors(f"open {tracking_uri}"):
        # MLflow's own use of SQLAlchemy, when it opens a database in this process.
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
        if not _is_server(tracking_uri):
            # In this process MLflow is its own server, and asks itself for models at the address that is set for all.
            mlflow.set_tracking_uri(tracking_uri)
        return MlflowClient(tracking_uri, registry_uri=tracking_uri)


def check_answers(tracking_uri: str) -> None:
    """See that somebody answers at this address, if it is a server's.

    Raises:
        MlflowUnavailable: nobody listens there.
    """
    if _is_server(tracking_uri):
        try:
            httpx.get(f"{tracking_uri.rstrip('/')}/health", timeout=_REACH_SECONDS, follow_redirects=True)
        except httpx.HTTPError as error:
            msg = (
                f"MLflow does not answer at {tracking_uri} ({error}). Start it ('sensorloop registry serve' does), or set [registry] "
                "tracking_uri to where it is."
            )
            raise MlflowUnavailable(msg) from error


def _is_server(tracking_uri: str) -> bool:
    return tracking_uri.startswith(("http://", "https://"))


@contextmanager
def mlflow_errors(doing: str) -> Iterator[None]:
    """MLflow's exceptions become :class:`~registry.errors.TrackingError`, naming what was being done.

    Raises:
        MlflowUnavailable: it did not answer, or answered that it failed: trying again may help.
        TrackingError: it refused.
    """
    try:
        yield
    except MlflowException as error:
        raise as_ours(error, doing) from error


def as_ours(error: MlflowException, doing: str) -> TrackingError:
    """MLflow's exception as :func:`mlflow_errors` would raise it."""
    kind = MlflowUnavailable if error.error_code in _TRANSIENT else TrackingError
    return kind(f"MLflow could not {doing}: {error.message}")
