"""The cluster of ``docker/compose.yaml`` on one machine: what its addresses and paths become where there are no containers.

==========================  ==========================================
in a container              here
==========================  ==========================================
``mlflow:5000``             ``127.0.0.1`` and a port that was free
``localhost:5000``          likewise, in what the service says of itself
``/run/secrets/NAME``       ``<place>/secrets/NAME``
a volume                    ``<place>/volumes/NAME``
a file of this repository   a copy in ``<place>/files``, itself translated
a folder of the image       ``<place>/own/SERVICE/…``, nobody else's
``/opt/sensorloop``         this repository
==========================  ==========================================
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from dags.local import compose
from dags.local.compose import Service
from streaming import ports

REPOSITORY = Path(__file__).parents[2]
_IMAGE = "/opt/sensorloop"
_OWN = ("/var/lib/sensorloop", "/var/lib/airflow", "/var/log/airflow")
"""Folders that the image has; a service that mounts no volume there keeps to itself what it writes."""
_HOST = "127.0.0.1"
_PROGRAMS = {"valkey-server": "redis-server", "valkey-cli": "redis-cli"}
"""Debian's names of the same."""
_FOREIGN = ("AIRFLOW", "SENSORLOOP", "MLFLOW", "_MLFLOW", "AWS_", "KAFKA", "PG", "POSTGRES")
"""Beginnings of variables that must not get in from outside: the file says what a process reads."""


class Here:
    """Translates what the file says of services.

    Args:
        services: all of them.
        place: where everything is; see the module.
        extra: variables that all processes of ours get besides those of the file.
    """

    def __init__(self, services: Mapping[str, Service], *, place: Path, extra: Mapping[str, str] | None = None) -> None:
        self._services, self._place, self._extra = services, place, extra or {}
        wanted = [
            (each.name, replica, port)
            for each in services.values()
            for replica in range(each.replicas)
            for port in each.ports
        ]
        self._ports = dict(zip(wanted, ports.free_ports(len(wanted)), strict=True))
        names = "|".join(sorted(map(re.escape, services), key=len, reverse=True))
        self._address = re.compile(rf"(?<![\w.-])(?P<host>{names}|localhost):(?P<port>\d+)(?!\w)")

    def port(self, service: str, port: int, replica: int = 0) -> int:
        """What a service's port is here."""
        return self._ports[service, replica, port]

    def text(self, text: str, service: Service | None = None, replica: int = 0) -> str:
        """A text of the file, or of one that it mounts, as it must read here.

        Args:
            text: the text.
            service: whose ports and paths are meant; None in a text that is nobody's.
            replica: which of it.
        """
        return self._paths(self._numbers(text, service, replica), service)

    def argv(self, command: tuple[str, ...], service: Service, replica: int = 0) -> tuple[str, ...]:
        """A command of a service's."""
        words = [self.text(word, service, replica) for word in command]
        programs = re.compile(rf"\b({'|'.join(_PROGRAMS)})\b")
        return tuple(programs.sub(lambda found: _PROGRAMS[found[1]], word) for word in words)

    def environment(self, service: Service, replica: int = 0) -> dict[str, str]:
        """The whole environment of one of its processes."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        own = {name: self.text(value, service, replica) for name, value in service.environment.items()}
        # Everybody talks to this machine only; a proxy would not find it.
        direct = ",".join(
            filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), f"{_HOST},localhost"))
        )
        return {
            **inherited,
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH")))),
            "HOSTNAME": socket.gethostname(),
            "NO_PROXY": direct,
            "no_proxy": direct,
            **(self._extra if service.built else {}),
            **own,
        }

    def lay_out(self) -> None:
        """Make the folders of the volumes, and copies of mounted files; translate those and the secrets.

        Raises:
            OSError: something cannot be written.
        """
        for service in self._services.values():
            for target in _OWN if service.built else ():
                self._own(service, target).mkdir(parents=True, exist_ok=True)
            for name in service.volumes.values():
                (self._place / "volumes" / name).mkdir(parents=True, exist_ok=True)
            for target, source in service.files.items():
                if source.is_file():
                    copy = self._copy(target)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_text(self.text(source.read_text(encoding="utf-8")), encoding="utf-8")
        for secret in (self._place / "secrets").iterdir():
            before = secret.read_text(encoding="utf-8")
            if (after := self.text(before)) != before:
                secret.chmod(0o600)
                secret.write_text(after, encoding="utf-8")

    def folder(self, service: Service, target: str) -> Path:
        """The folder that a volume of a service is."""
        return self._place / "volumes" / service.volumes[target]

    def file(self, target: str) -> Path:
        """The copy of a file that is mounted there."""
        return self._copy(target)

    def _copy(self, target: str) -> Path:
        return self._place / "files" / target.lstrip("/")

    def _own(self, service: Service, target: str) -> Path:
        return self._place / "own" / service.name / target.lstrip("/")

    def _numbers(self, text: str, service: Service | None, replica: int) -> str:
        own = {} if service is None else {port: self.port(service.name, port, replica) for port in service.ports}
        if service is not None:
            own |= {outside: own[inside] for outside, inside in service.published.items()}

        def address(found: re.Match[str]) -> str:
            host, port = found["host"], int(found["port"])
            if host == "localhost":
                return f"{_HOST}:{own[port]}" if port in own else found[0]
            mapped = self._ports.get((host, 0, port))
            return found[0] if mapped is None else f"{_HOST}:{mapped}"

        alone = re.compile(rf"(?<![\w.])({'|'.join(map(str, own))})(?!\d)") if own else None

        def bare(piece: str) -> str:
            piece = piece.replace("0.0.0.0", _HOST).replace("/dev/tcp/localhost/", f"/dev/tcp/{_HOST}/")  # noqa: S104
            return alone.sub(lambda found: str(own[int(found[1])]), piece) if alone else piece

        # What has been translated is set aside, so that no port of it is taken for one that has yet to be.
        done, at = "", 0
        for found in self._address.finditer(text):
            done += bare(text[at : found.start()]) + address(found)
            at = found.end()
        return done + bare(text[at:])

    def _paths(self, text: str, service: Service | None) -> str:
        known = {compose.SECRETS: str(self._place / "secrets"), _IMAGE: str(REPOSITORY)}
        if service is not None:
            known |= {target: str(self._own(service, target)) for target in _OWN}
            known |= {target: str(self.folder(service, target)) for target in service.volumes}
            known |= {target: str(self._copy(target)) for target in service.files}
        longest_first = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
        return re.sub(rf"(?<![\w/])({longest_first})(?=[/\s\"';,)]|$)", lambda found: known[found[1]], text)
