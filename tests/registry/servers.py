"""The real local MLflow server for tests, ended with everything it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from registry.server import ServerCommand, ready, server_command
from registry.settings import RegistrySettings


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def local_server(home: Path) -> Iterator[ServerCommand]:
    """A server with its data below ``home``, on a port of its own."""
    command = server_command(home, RegistrySettings(port=free_port()), os.environ)
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command.argv, env=command.env, cwd=command.home, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 120
            while not ready(command.url):
                assert process.poll() is None, (home / "server.log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline, "not ready after two minutes"
                _wait_for_end(process, 0.2)
            yield command
        finally:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            _, alive = psutil.wait_procs(family, timeout=5)
            for left in alive:
                left.kill()
            assert not alive, "SIGTERM did not end the whole server"


def _wait_for_end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Until the process ends, at most so long."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return
