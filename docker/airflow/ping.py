"""Exit code 0 if a Celery worker answers: ``ping.py FILE NAME``, FILE having the broker's URL, NAME being ``queue@host``.

``celery inspect ping`` does the same with all of Airflow, which takes ten seconds of computing each time.
"""

import sys
from pathlib import Path

from celery import Celery

_WAIT_S = 10.0


def answers(url: str, worker: str) -> bool:
    """Whether that worker answers through that broker."""
    with Celery(broker=url) as app:
        return bool(app.control.ping(destination=[worker], timeout=_WAIT_S, limit=1))


if __name__ == "__main__":
    sys.exit(0 if answers(Path(sys.argv[1]).read_text(encoding="utf-8").strip(), sys.argv[2]) else 1)
