"""The small programs beside compose.yaml: what a health check answers, which buckets are made."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from streaming.ports import free_ports
from tests.docker.cluster import DOCKER
from tests.fixtures.s3 import SECRET

HEALTH = {"scheduler": {"status": "healthy"}, "triggerer": {"status": "unhealthy"}, "dag_processor": {"status": None}}


class _Airflow(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = {"/health": HEALTH, "/list": [1]}.get(self.path)
        self.send_response(503 if found is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Airflow) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _code(program: str, *arguments: str, **environ: str) -> int:
    environ |= {"http_proxy": "http://127.0.0.1:9"}  # nobody is there: it must not be asked
    return subprocess.run(
        (sys.executable, str(DOCKER / program), *arguments), env=environ, check=False, timeout=60
    ).returncode


@pytest.mark.parametrize(
    ("path", "component", "code"),
    [
        ("/health", (), 0),
        ("/other", (), 1),
        ("/health", ("scheduler",), 0),
        ("/health", ("triggerer",), 1),
        ("/health", ("dag_processor",), 1),
        ("/health", ("nobody",), 1),
        ("/list", ("scheduler",), 1),
    ],
)
def test_healthy(url: str, path: str, component: tuple[str, ...], code: int) -> None:
    assert _code("healthy.py", url + path, *component) == code


def test_nobody_there_is_not_healthy() -> None:
    assert _code("healthy.py", f"http://127.0.0.1:{free_ports(1)[0]}/") == 1


def test_buckets_are_made_once(s3_endpoint: str) -> None:
    access = {
        "endpoint_url": s3_endpoint,
        "region_name": "us-east-1",
        "aws_access_key_id": "k",
        "aws_secret_access_key": SECRET,
    }
    environ = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    for _ in range(2):
        assert _code("s3/buckets.py", "cluster-a", "cluster-b", NO_PROXY="127.0.0.1", **environ) == 0
    client = boto3.client("s3", **access)
    assert {"cluster-a", "cluster-b"} <= {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    client.close()


@pytest.mark.slow
def test_airflow_can_import_what_the_services_name() -> None:
    """Not every Celery is one that Airflow's provider can import; so much the cluster's first start would say."""
    code = "import airflow.providers.celery.executors.celery_executor, asyncpg, psycopg2"
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
