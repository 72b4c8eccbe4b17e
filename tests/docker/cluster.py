"""What the tests of the cluster's files look at: the services of compose.yaml, and what stands in the files beside it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import yaml

from dags.local.compose import FILE, Service, read
from dags.local.here import REPOSITORY

DOCKER = FILE.parent
VARIABLES = {"KAFKA_CLUSTER_ID": "4L6g3nShT-eMCtK--X86sw"}
IMAGE = "/opt/sensorloop"


@cache
def services() -> dict[str, Service]:
    """Every service of the file, with nothing set but what must be."""
    return read(variables=VARIABLES)


@cache
def raw() -> dict[str, Any]:
    """The file itself."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def scripts(service: Service) -> dict[str, str]:
    """What runs or is read in a service out of this repository: path → text."""
    words = " ".join((*service.command, *service.health))
    named = re.findall(rf"{IMAGE}/(docker/[\w./-]+\.(?:sh|py))", words)
    files = [REPOSITORY / name for name in named] + [path for path in service.files.values() if path.is_file()]
    return {str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8") for path in files}


def said(service: Service) -> str:
    """All that the file says that a service is told: command, health check and variables."""
    return "\n".join((*service.command, *service.health, *service.environment.values()))
