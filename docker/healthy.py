"""Exit code 0 if an address answers well: the health checks of images that have neither curl nor wget."""

import sys
import urllib.error
import urllib.request


def healthy(url: str) -> bool:
    """Whether it answers with 2xx within five seconds; a proxy of the environment is meant for other networks."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return 200 <= int(answer.status) < 300
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(0 if healthy(sys.argv[1]) else 1)
