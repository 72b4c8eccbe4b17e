"""Exit code 0 if an address answers well: the health checks of images that have neither curl nor wget.

``healthy.py URL`` wants an answer of 2xx; ``healthy.py URL NAME`` also that it is Airflow's, and calls its component NAME healthy.
"""

import json
import sys
import urllib.error
import urllib.request


def healthy(url: str, component: str | None = None) -> bool:
    """Whether it answers with 2xx within five seconds, and well; a proxy of the environment is meant for other networks."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return 200 <= int(answer.status) < 300 and (component is None or _well(answer.read(), component))
    except (urllib.error.URLError, OSError):
        return False


def _well(content: bytes, component: str) -> bool:
    try:
        return bool(json.loads(content)[component]["status"] == "healthy")
    except (ValueError, KeyError, TypeError):
        return False


if __name__ == "__main__":
    sys.exit(0 if healthy(*sys.argv[1:3]) else 1)
