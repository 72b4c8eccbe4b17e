"""``make bench-ingest``: how fast ingestion is, and beside what → ``var/bench/ingest.json``.

One broker, topics of 8 and 64 KiB batches of 100 phones (9 channels at 100 Hz), every measure in a process of its own, in turns,
so that whatever else the machine does is shared; medians. ``QUICK=1`` takes some three minutes and says less surely.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.load import batches, samples_for
from benchmarks.machine import machine, versions
from streaming import broker, ports
from streaming.replay import make_producer
from streaming.settings import BrokerSettings, KafkaSettings
from streaming.topics import create_topics
from streaming.wire import encode

ROOT = Path(__file__).parents[1]
PHONES, PARTITIONS = 100, 4
SIZES_KIB = (8, 64)
QUICK = bool(os.environ.get("QUICK"))
ROUNDS = 3 if QUICK else 5
MEGABYTES = 64 if QUICK else 320
"""Of each topic: long enough that the second or two of a consumer's start hardly weigh."""
FEW_PHONES, FEW_MEGABYTES = 10, 1.5 if QUICK else 3
"""Of the topics for the slow ones: sessions as long as of the others, so that as many windows close a byte."""
CONSUMERS: tuple[dict[str, int], ...] = (
    {"max_poll_records": 5_000, "fetch_max_bytes": 16 << 20, "max_partition_fetch_bytes": 4 << 20},
    {"max_poll_records": 500},
    {"max_poll_records": 5_000, "fetch_max_bytes": 50 << 20, "max_partition_fetch_bytes": 1 << 20},
    {"max_poll_records": 5_000, "fetch_max_bytes": 8 << 20, "max_partition_fetch_bytes": 8 << 20},
)
"""Among these the fastest bare loop is looked for."""
_LIBRARIES = ("kafka-python", "numpy", "pyarrow", "deltalake", "polars", "protobuf", "pandas")
Result = dict[str, Any]


def main() -> None:
    """Measure, write, print."""
    home = Path(os.environ.get("SENSORLOOP_HOME", ROOT / "var")) / "bench"
    home.mkdir(parents=True, exist_ok=True)
    quix, librdkafka = _environments(home)
    kafka_home = home / "ingest"
    shutil.rmtree(kafka_home, ignore_errors=True)
    port, controller_port = ports.free_ports(2)
    settings = BrokerSettings(port=port, controller_port=controller_port)
    status, _ = broker.start(settings, home=kafka_home, die_with_parent=True)
    try:
        bench = _Bench(servers=status.bootstrap_servers, home=kafka_home, quix=quix, librdkafka=librdkafka)
        result = bench.run()
    finally:
        broker.stop(kafka_home)
        shutil.rmtree(kafka_home, ignore_errors=True)
    (home / "ingest.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(_table(result))
    print(f"\n{home / 'ingest.json'}")


class _Bench:
    def __init__(self, *, servers: str, home: Path, quix: Path | None, librdkafka: Path | None) -> None:
        self._servers, self._home, self._quix, self._librdkafka = servers, home, quix, librdkafka
        self._samples: dict[str, list[Result]] = {}
        self._counts: dict[str, int] = {}

    def run(self) -> Result:
        for kib in SIZES_KIB:
            self._fill(f"all-{kib}", kib, PHONES, MEGABYTES)
            self._fill(f"few-{kib}", kib, FEW_PHONES, FEW_MEGABYTES)
        best = {kib: self._fastest(kib) for kib in SIZES_KIB}
        load = [os.getloadavg()[0]]
        for _ in range(ROUNDS):
            for kib in SIZES_KIB:
                self._round(kib, best[kib])
            load.append(os.getloadavg()[0])
            if not QUICK:
                self._phones()
        if QUICK:
            self._phones()
        for phones in (1_000, 10_000):
            self._measure(
                f"memory {phones}", "memory", devices=phones, seconds=20 if QUICK else 40, lake=self._folder()
            )
        return {
            "machine": machine(), "when": datetime.now(UTC).isoformat(timespec="seconds"), "quick": QUICK,
            "load": {"before": load[0], "after": load[-1], "most": max(load)},
            "versions": versions(*_LIBRARIES), "rounds": ROUNDS, "topic_mb": MEGABYTES, "phones": PHONES, "partitions": PARTITIONS,
            "consumer": {str(kib): options for kib, options in best.items()}, "measures": self._summary(), "claims": self._claims(),
        }  # fmt: skip

    def _phones(self) -> None:
        self._measure("devices 100", "devices", devices=100, batches_in_all=100_000)
        self._measure("devices 100000", "devices", devices=100_000, batches_in_all=400_000)

    def _round(self, kib: int, options: Mapping[str, int]) -> None:
        topic: dict[str, Any] = {"servers": self._servers, "topic": f"all-{kib}", "total": self._counts[f"all-{kib}"]}
        few: dict[str, Any] = {"servers": self._servers, "topic": f"few-{kib}", "total": self._counts[f"few-{kib}"]}
        self._measure(f"bare {kib}", "bare", **topic, **options)
        self._measure(f"ours {kib}", "ours", **topic, lake=self._folder(), group=uuid.uuid4().hex)
        if self._librdkafka is not None:
            self._measure(f"bare librdkafka {kib}", "bare_librdkafka", **topic, partitions=PARTITIONS)
            self._measure(
                f"ours librdkafka {kib}",
                "ours",
                **topic,
                lake=self._folder(),
                group=uuid.uuid4().hex,
                client="librdkafka",
            )
        self._measure(f"assembly {kib}", "assembly", kib=kib, mb=40 if QUICK else 80)
        self._measure(f"assembly jitter {kib}", "assembly", kib=kib, mb=20 if QUICK else 40, jitter=True)
        self._script(f"pandas {kib}", [sys.executable, "-m", "benchmarks.pandas_consumer"], few)
        if self._quix is not None:
            self._script(f"quix {kib}", [str(self._quix), str(ROOT / "benchmarks" / "quix_consumer.py")], few)

    def _fill(self, topic: str, kib: int, phones: int, megabytes: float) -> None:
        create_topics(self._servers, {topic: PARTITIONS, "sensor.deadletter": 1})
        producer = make_producer(KafkaSettings(bootstrap_servers=self._servers))
        rounds = max(4, int(megabytes * 1e6 / (phones * kib * 1024)))
        for batch in batches(devices=phones, rounds=rounds, samples=samples_for(kib)):
            producer.send(topic, value=encode(batch), key=batch.device_id.encode())
        producer.flush()
        producer.close()
        self._counts[topic] = phones * rounds

    def _fastest(self, kib: int) -> dict[str, int]:
        """The consumer's options with which a bare loop is fastest."""
        topic = {"servers": self._servers, "topic": f"all-{kib}", "total": self._counts[f"all-{kib}"]}

        def speed(options: dict[str, int]) -> float:
            return max(float(self._child("bare", **topic, **options)["mb_s"]) for _ in range(1 if QUICK else 2))

        return max(CONSUMERS, key=speed)

    def _measure(self, label: str, name: str, **options: Any) -> None:
        self._samples.setdefault(label, []).append(self._child(name, **options))

    def _child(self, name: str, **options: Any) -> Result:
        return _run([sys.executable, "-m", "benchmarks.measures", name, json.dumps(options)], self._librdkafka)

    def _script(self, label: str, command: list[str], options: Mapping[str, Any]) -> None:
        folder = self._folder()
        self._samples.setdefault(label, []).append(_run([*command, json.dumps({**options, "folder": folder})], None))

    def _folder(self) -> str:
        folder = self._home / "out"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return str(folder)

    def _summary(self) -> Result:
        return {
            label: {key: round(statistics.median(one[key] for one in found), 4) for key in found[0]}
            | {"of": len(found)}
            for label, found in self._samples.items()
        }

    def _claims(self) -> list[Result]:
        """What was wanted, and what there is. Ratios are medians of those within a round."""
        claims = [
            _claim(f"end to end ÷ bare poll(), {kib} KiB", 0.8, self._ratio(f"ours {kib}", f"bare {kib}"))
            for kib in SIZES_KIB
        ]
        claims += [
            _claim(f"end to end ÷ {other}, {kib} KiB", 10, self._ratio(f"ours {kib}", f"{other} {kib}"))
            for other in ("quix", "pandas")
            for kib in SIZES_KIB
            if f"{other} {kib}" in self._samples
        ]
        claims += [
            _claim(f"window assembly in memory, MB/s, {kib} KiB", 400, self._median(f"assembly {kib}", "mb_s"))
            for kib in SIZES_KIB
        ]
        memory = self._median("memory 10000", "peak_mib")
        claims.append(_claim("memory with 10,000 live phones, MiB", 512, memory, at_most=True))
        share = self._median("devices 100000", "us_sample") / self._median("devices 100", "us_sample")
        claims.append(_claim("cost a sample at 100,000 phones ÷ at 100", 1.2, share, at_most=True))
        if self._librdkafka is not None:
            for kib in SIZES_KIB:
                gain = self._ratio(f"ours librdkafka {kib}", f"ours {kib}")
                claims.append(
                    _claim(f"end to end with librdkafka ÷ with kafka-python, {kib} KiB (offered from)", 1.5, gain)
                )
        return claims

    def _median(self, label: str, key: str) -> float:
        return statistics.median(float(one[key]) for one in self._samples[label])

    def _ratio(self, label: str, other: str) -> float:
        return statistics.median(
            float(a["mb_s"] / b["mb_s"]) for a, b in zip(self._samples[label], self._samples[other], strict=True)
        )


def _run(command: list[str], extra: Path | None) -> Result:
    path = os.pathsep.join(str(part) for part in (ROOT, extra) if part is not None)
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1_800)
    if done.returncode:
        msg = f"{' '.join(command)}\n{done.stderr[-3000:]}"
        raise RuntimeError(msg)
    found: Result = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _claim(what: str, target: float, reached: float, *, at_most: bool = False) -> Result:
    held = reached <= target if at_most else reached >= target
    return {"what": what, "target": target, "at_most": at_most, "reached": round(reached, 3), "held": held}


def _table(result: Result) -> str:
    lines = [f"{'':62} {'target':>9} {'reached':>9}"]
    for claim in result["claims"]:
        target = ("≤ " if claim["at_most"] else "≥ ") + f"{claim['target']:g}"
        lines.append(f"{claim['what']:62} {target:>9} {claim['reached']:>9.3g}  {'yes' if claim['held'] else 'no'}")
    lines.append("")
    for label, found in result["measures"].items():
        lines.append(f"{label:24} " + "  ".join(f"{key} {value:g}" for key, value in found.items() if key != "of"))
    load = result["load"]["most"]
    if load > (os.cpu_count() or 1) * 1.5:
        lines.append(f"\nThe machine was busy with other things (load {load:.1f}): shares hold, MB/s are low.")
    return "\n".join(lines)


def _environments(home: Path) -> tuple[Path | None, Path | None]:
    """Python with Quix Streams, and a folder with librdkafka's client; None where uv cannot make them."""
    quix, librdkafka = home / "quix", home / "librdkafka"
    uv = shutil.which("uv") or str(ROOT / "var" / "uv" / "bin" / "uv")
    made: list[tuple[Path, Callable[[], list[list[str]]]]] = [
        (
            quix / "bin" / "python",
            lambda: [
                [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(quix)],
                [
                    uv,
                    "pip",
                    "install",
                    "--quiet",
                    "--python",
                    str(quix / "bin" / "python"),
                    "quixstreams==3.28.*",
                    "pyarrow",
                    "numpy",
                ],
            ],
        ),
        (
            librdkafka,
            lambda: [
                [
                    uv,
                    "pip",
                    "install",
                    "--quiet",
                    "--python",
                    sys.executable,
                    "--target",
                    str(librdkafka),
                    "confluent-kafka",
                ]
            ],
        ),
    ]
    found: list[Path | None] = []
    for path, commands in made:
        try:
            if not path.exists():
                for command in commands():
                    subprocess.run(command, check=True)
            found.append(path)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"Left out, because it cannot be installed: {path.name} ({error})", file=sys.stderr)
            found.append(None)
    return found[0], found[1]


if __name__ == "__main__":
    main()
