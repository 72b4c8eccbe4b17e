"""Write the pins of the local broker from what Maven resolved: ``python docker/kafka/pin.py REPOSITORY > artifacts.toml``.

REPOSITORY is a folder laid out as a Maven repository (``group/artifact/version/artifact-version.jar``) with nothing in it
but the class path; README.md has the two commands.
"""

import hashlib
import sys
from pathlib import Path

_ROOT = "org.apache.kafka:kafka_2.13"


def pins(repository: Path) -> str:
    """The content of ``artifacts.toml``."""
    lines = []
    kafka = ""
    for jar in sorted(repository.rglob("*.jar")):
        *group, artifact, version, filename = jar.relative_to(repository).parts
        if filename != f"{artifact}-{version}.jar":
            msg = f"{jar}: only plain jars can be pinned"
            raise SystemExit(msg)
        name = f"{'.'.join(group)}:{artifact}"
        kafka = version if name == _ROOT else kafka
        digest = hashlib.sha256(jar.read_bytes()).hexdigest()
        lines.append(f'  {{ coordinate = "{name}:{version}", bytes = {jar.stat().st_size}, sha256 = "{digest}" }},\n')
    if not kafka:
        msg = f"{repository}: no {_ROOT} in it"
        raise SystemExit(msg)
    head = "# Every file of the local broker's class path. Written by pin.py from pom.xml; README.md says how.\n"
    return f'{head}kafka = "{kafka}"\nartifacts = [\n{"".join(lines)}]\n'


if __name__ == "__main__":
    sys.stdout.write(pins(Path(sys.argv[1])))
