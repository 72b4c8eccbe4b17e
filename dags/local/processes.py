"""The services of ``docker/compose.yaml`` as processes of this machine: started in the file's order, watched, and ended together.

A service starts when those that it waits for are healthy, or have done their work, as ``depends_on`` says; healthy is what its
own health check says. So the commands, variables, health checks and the order that are rehearsed are the file's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from dags.errors import DagError
from dags.local import brokers, debian
from dags.local.compose import Service
from dags.local.debian import Programs
from dags.local.here import Here
from streaming import guard, process

LAST = ("postgres", "redis", "s3", "kafka-1", "kafka-2", "kafka-3")
"""What the others need until they have ended."""
_HEALTH_TIMEOUT_S = 60.0
_CHECKS = 4
"""Health checks at a time."""
_GRACE = timedelta(seconds=6)
_POLL_S = 0.5
_INITDB = "/docker-entrypoint-initdb.d/databases.sh"
_DATA = "/var/lib/postgresql/data"
_BROKER_DATA = "/var/lib/kafka/data"


@dataclass(kw_only=True)
class Processes:
    """The services that run here."""

    services: Mapping[str, Service]
    here: Here
    place: Path
    programs: Programs
    say: Callable[[str], None]
    healthy: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    working: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """Those that end by themselves."""

    def start(self, timeout: timedelta) -> None:
        """Start all of them and wait until every one is healthy, or has done its work.

        Raises:
            DagError: one of them ended or failed, or time is up; the message has the end of its log.
        """
        deadline = time.monotonic() + timeout.total_seconds()
        waiting, started = list(self.services.values()), dict[str, float]()
        # Some health checks take seconds of computing, so they run beside each other, and are not repeated at once.
        with ThreadPoolExecutor(max_workers=_CHECKS) as pool:
            looks: dict[str, Future[bool]] = {}
            while waiting or set(started) - self.healthy - self.done:
                for service in [each for each in waiting if self._may_start(each)]:
                    waiting.remove(service)
                    started[service.name] = time.monotonic()
                    if service.once:
                        self._begin(service)
                    for replica in range(0 if service.once else service.replicas):
                        self._spawn(service, replica)
                for name in started:
                    took = f"{time.monotonic() - started[name]:.0f} s"
                    if self.services[name].once:
                        if name not in self.done and self._has_ended(self.services[name]):
                            self.done.add(name)
                            self.say(f"{name} has done its work, {took}")
                        continue
                    self._require_running(self.services[name])
                    if name in self.healthy:
                        continue
                    if name not in looks:
                        looks[name] = pool.submit(self._look, self.services[name])
                    elif looks[name].done() and looks.pop(name).result():
                        self.healthy.add(name)
                        self.say(f"{name} is healthy after {took}")
                if time.monotonic() > deadline:
                    late = sorted(set(self.services) - self.healthy - self.done)
                    logs = "\n".join(f"{name}:\n{process.log_tail(self.log(name), 6)}" for name in late)
                    msg = f"After {timeout} these are not healthy: {', '.join(late)}. The ends of their logs:\n{logs}"
                    raise DagError(msg)
                time.sleep(_POLL_S)

    def restart(self, name: str) -> None:
        """Start a service again that has died; what is left of it is ended first.

        Raises:
            ServiceError: it cannot be started.
        """
        for replica in range(self.services[name].replicas):
            process.stop(self.pid_file(name, replica))
            self._spawn(self.services[name], replica)

    def stop(self) -> None:
        """End them all, those first that need the others."""
        for each in self.working.values():
            if each.poll() is None:
                each.terminate()
                each.wait(_GRACE.total_seconds() + 10)
        first = [name for name in self.services if name not in LAST]
        for names in (first, [name for name in self.services if name in LAST]):
            files = [self.pid_file(name, replica) for name in names for replica in range(self.services[name].replicas)]
            with ThreadPoolExecutor(max_workers=max(1, len(files))) as pool:
                list(pool.map(process.stop, files))

    def memory_bytes(self) -> dict[str, int]:
        """Resident memory of each service, all its processes together; pages that several share count for each."""
        total = {}
        for name, service in self.services.items():
            running = [process.find(self.pid_file(name, replica)) for replica in range(service.replicas)]
            if found := [process.memory_bytes(each) for each in running if each is not None]:
                total[name] = sum(found)
        return total

    def log(self, name: str, replica: int = 0) -> Path:
        """Where a service writes."""
        return self.place / "logs" / f"{self._label(name, replica)}.log"

    def pid_file(self, name: str, replica: int = 0) -> Path:
        """By which a service is found again."""
        return self.place / "pids" / f"{self._label(name, replica)}.pid"

    def _label(self, name: str, replica: int) -> str:
        return name if self.services[name].replicas == 1 else f"{name}-{replica + 1}"

    def _may_start(self, service: Service) -> bool:
        return all(
            other in (self.done if condition == "service_completed_successfully" else self.healthy)
            for other, condition in service.after.items()
        )

    def _spawn(self, service: Service, replica: int) -> None:
        process.start(self._process(service, replica), ready=lambda: True, timeout=timedelta(seconds=30))

    def _process(self, service: Service, replica: int) -> process.Service:
        log, pid_file = self.log(service.name, replica), self.pid_file(service.name, replica)
        environ = self.here.environment(service, replica)
        if service.name.startswith("kafka-"):
            folder = self.here.folder(service, _BROKER_DATA)
            return brokers.service(service.name, environ, folder, log=log, pid_file=pid_file)
        return process.Service(
            name=service.name, argv=self._argv(service, replica), log=log, pid_file=pid_file, env=environ, cwd=self.place,
            grace=_GRACE, die_with_parent=True,
        )  # fmt: skip

    def _argv(self, service: Service, replica: int) -> tuple[str, ...]:
        if service.name == "postgres":
            data = self.here.folder(service, _DATA)
            debian.make_database(
                self.programs, data,
                password=self.place / "secrets" / "postgres_password", options=service.environment["POSTGRES_INITDB_ARGS"],
            )  # fmt: skip
            server = (str(self.programs.postgres / "postgres"), "-D", str(data))
            listen = ("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
            # Its data are thrown away.
            return self.programs.as_user(
                *server, "-p", str(self.here.port("postgres", 5432)), *listen, "-c", "fsync=off"
            )
        if service.name == "s3":
            # SeaweedFS is in no package registry; moto's server takes any key and keeps what it is given in memory.
            port = str(self.here.port("s3", 8333))
            return (sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", port)
        return self.here.argv(service.command, service, replica)

    def _require_running(self, service: Service) -> None:
        for replica in range(service.replicas):
            if process.find(self.pid_file(service.name, replica)) is None:
                log = self.log(service.name, replica)
                msg = f"{service.name} has ended. The end of {log}:\n{process.log_tail(log)}"
                raise DagError(msg)

    def _look(self, service: Service) -> bool:
        """Whether every replica is healthy."""
        if not all(self._checked(service, replica) for replica in range(service.replicas)):
            time.sleep(_POLL_S)
            return False
        if service.name == "postgres":
            password = self.place / "secrets" / "postgres_password"
            script, environ = self.here.file(_INITDB), self.here.environment(service)
            debian.run_script(script, port=self.here.port("postgres", 5432), password=password, environ=environ)
        return True

    def _checked(self, service: Service, replica: int) -> bool:
        command = self.here.argv(service.health, service, replica)
        if service.name == "s3":
            url = f"http://127.0.0.1:{self.here.port('s3', 8333)}/moto-api/"
            command = (sys.executable, str(Path(__file__).parents[2] / "docker" / "healthy.py"), url)
        try:
            checked = subprocess.run(
                command, env=self.here.environment(service, replica), cwd=self.place, timeout=_HEALTH_TIMEOUT_S,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
        return checked.returncode == 0

    def _begin(self, service: Service) -> None:
        """Start one that ends by itself."""
        log = self.log(service.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        guarded = (sys.executable, "-P", guard.__file__, str(os.getpid()), "5", "--")
        with log.open("wb") as file:
            self.working[service.name] = subprocess.Popen(
                (*guarded, *self.here.argv(service.command, service)), env=self.here.environment(service), cwd=self.place,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def _has_ended(self, service: Service) -> bool:
        """Whether its work is done.

        Raises:
            DagError: it has failed.
        """
        code = self.working[service.name].poll()
        if code:
            log = self.log(service.name)
            msg = f"{service.name} failed with exit code {code}. The end of {log}:\n{process.log_tail(log)}"
            raise DagError(msg)
        return code == 0
