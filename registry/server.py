"""The local MLflow server: how to start it, and whether it answers. Who starts it, watches it and ends it is the caller."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from registry.errors import ServerPortTaken
from registry.settings import RegistrySettings, database_url

_ENVIRONMENT = {
    # MLflow 3 starts a second process for jobs of its own (evaluation of language models): 240 MB that nobody here asks for.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A warning of MLflow's about its own web framework, on every start.
    "PYTHONWARNINGS": "ignore",
    # Its workers wait for the database; threads for linear algebra would only take memory.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_ASK_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerCommand:
    """What to run, where it keeps its data, and where it will answer."""

    argv: tuple[str, ...]
    """Program and arguments."""
    env: Mapping[str, str]
    """The whole environment: the caller's without MLflow's variables, so that a setting meant for a client does not configure
    the server, and with what keeps it small."""
    url: str
    """Where it answers, for clients and browsers."""
    home: Path
    """Folder of its database and artifacts. It must exist when the server starts: see :func:`server_command`."""


def server_command(home: Path, settings: RegistrySettings, environ: Mapping[str, str]) -> ServerCommand:
    """The command line of the local server; makes its folder.

    Runs, models and the ledger are in ``<home>/mlflow/mlflow.db``, artifacts below ``<home>/mlflow/artifacts``. Clients send and fetch
    artifacts through the server, so nobody else needs to see that folder.

    Args:
        home: the folder that holds everything of this installation.
        settings: host, port, workers and allowed hosts.
        environ: the caller's environment.

    Raises:
        OSError: the folder cannot be made.
    """
    folder = (home / "mlflow").absolute()
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    argv = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", settings.host, "--port", str(settings.port)),
        *("--backend-store-uri", database_url(home)),
        *("--serve-artifacts", "--artifacts-destination", (folder / "artifacts").as_uri()),
        *("--workers", str(settings.workers)),
    ]
    if settings.allowed_hosts:
        argv += ["--allowed-hosts", ",".join(settings.allowed_hosts)]
    inherited = {name: value for name, value in environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    return ServerCommand(
        argv=tuple(argv),
        env={**inherited, **_ENVIRONMENT},
        url=f"http://{settings.host}:{settings.port}",
        home=folder,
    )


def ready(url: str) -> bool:
    """Whether an MLflow server answers there, database and all. Says no rather than raise."""
    try:
        health = httpx.get(f"{url}/health", timeout=_ASK_SECONDS)
        experiments = httpx.get(
            f"{url}/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"}, timeout=_ASK_SECONDS
        )
    except httpx.HTTPError:
        return False
    # Somebody else's server may well say OK to /health; it does not have MLflow's default experiment.
    return health.text == "OK" and experiments.status_code == httpx.codes.OK and "experiment" in experiments.text


def check_port(settings: RegistrySettings) -> None:
    """Make sure that the local server will be able to listen. Call it before starting; between the two, a port can be lost.

    Raises:
        ServerPortTaken: somebody listens there already.
    """
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the server does: closed connections do not count
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            msg = (
                f"Port {settings.port} of {settings.host} is in use ({error.strerror}): another MLflow may be running. Stop it, or "
                "set [registry] port to a free one."
            )
            raise ServerPortTaken(msg) from error
