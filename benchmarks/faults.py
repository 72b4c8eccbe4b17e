"""``make bench-faults``: rounds of faults against a real cluster of three brokers → ``var/bench/faults.json``.

Each round has topics and a lake of its own, a fleet's batches by seed and real ``sensorloop ingest`` processes. After its fault
ingestion runs until all is read, and the windows are compared with those of an undisturbed run over the same batches; the lake has to
prove itself too. The result is written after every round. ``QUICK=1``: a tenth of the rounds.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.fault_rounds import BROKER_SETTINGS, FAULTS, Bench, Outage, Outcome, Round
from benchmarks.fault_traffic import NOT_COMPARED, messages
from benchmarks.machine import machine, versions, write
from streaming.cluster import Cluster

ROOT = Path(__file__).parents[1]
QUICK = bool(os.environ.get("QUICK"))
SEEDS = 2 if QUICK else 8
ROUNDS = {
    "kill -9 at publish.files": 45, "kill -9 at publish.checked": 45, "kill -9 at publish.committed": 45,
    "kill -9 at any time": 65, "rebalance storm": 10, "zombie": 20, "answer of a commit lost": 15,
}  # fmt: skip
QUICK_ROUNDS = dict.fromkeys(ROUNDS, 2) | {"rebalance storm": 1}
TOGETHER = 8
"""Rounds at a time: they mostly wait for Kafka to notice that somebody died."""
SHARE = 2 if QUICK else 8
"""Rounds that share an outage of the cluster."""
OUTAGES = {
    "a broker killed and back": 1 if QUICK else 2,
    "the coordinator killed": 1 if QUICK else 2,
    "all brokers down": 1,
}
DOWN_S = 15 if QUICK else 60
Result = dict[str, Any]


def main() -> None:
    """Run, write, print; exit code 1 if anything was lost, doubled or otherwise not as it should be."""
    home = Path(os.environ.get("SENSORLOOP_HOME", ROOT / "var")).absolute() / "bench"
    folder = home / "faults"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    total = sum((QUICK_ROUNDS if QUICK else ROUNDS).values()) + SHARE * sum(OUTAGES.values())
    begin, outcomes = time.monotonic(), list[Outcome]()
    bar = Progress(TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Cluster(folder, extra=BROKER_SETTINGS) as cluster, bar:
        task = bar.add_task("undisturbed runs", total=total)
        bench = Bench(cluster, folder / "rounds")
        for outcome in _rounds(bench):
            outcomes.append(outcome)
            result = _result(outcomes, total, time.monotonic() - begin)
            write(home / "faults.json", result)
            wrong = sum(not each.right for each in outcomes)
            bar.update(task, advance=1, description=f"{outcome.kind}" + (f", {wrong} wrong" if wrong else ""))
            if not outcome.right:
                bar.console.print(
                    f"{outcome.kind} {outcome.number}: {outcome.difference} {' | '.join(outcome.problems)}"
                )
    if all(each.right for each in outcomes):
        shutil.rmtree(folder, ignore_errors=True)
    print(
        json.dumps(
            {name: result[name] for name in ("rounds", "compared", "lost", "doubled", "differing", "by_fault")},
            indent=2,
        )
    )
    print(f"\n{home / 'faults.json'}")
    sys.exit(0 if all(each.right for each in outcomes) and len(outcomes) == total else 1)


def _rounds(bench: Bench) -> Iterator[Outcome]:
    with ThreadPoolExecutor(TOGETHER) as pool:
        # First, so that no round is counted as slow because others wait for it.
        list(pool.map(bench.undisturbed, range(SEEDS)))
        for kind, times in OUTAGES.items():
            for number in range(times):
                yield from _outage(bench, kind, number)
        wanted = [
            (kind, number) for kind, rounds in (QUICK_ROUNDS if QUICK else ROUNDS).items() for number in range(rounds)
        ]
        random.Random(0).shuffle(wanted)  # a run that is interrupted has some of each kind
        running = [pool.submit(bench.perform, kind, FAULTS[kind], number, number % SEEDS) for kind, number in wanted]
        for each in as_completed(running):
            yield each.result()


def _outage(bench: Bench, kind: str, number: int) -> Iterator[Outcome]:
    cluster = bench.cluster

    def nodes(rounds: Sequence[Round]) -> list[int]:
        if kind == "all brokers down":
            return [1, 2, 3]
        if kind == "the coordinator killed":
            return [cluster.coordinator(rounds[0].kafka.group_id)]
        return [number % 3 + 1]

    outage = Outage(
        cluster, SHARE, nodes, seconds=DOWN_S if kind == "all brokers down" else 5, answers=kind != "all brokers down"
    )
    with ThreadPoolExecutor(SHARE) as pool:
        numbers = range(number * SHARE, (number + 1) * SHARE)
        for each in as_completed([pool.submit(bench.perform, kind, outage, at, at % SEEDS) for at in numbers]):
            yield each.result()


def _result(outcomes: list[Outcome], wanted: int, seconds: float) -> Result:
    kinds = dict.fromkeys(each.kind for each in sorted(outcomes, key=lambda each: each.kind))
    return {
        "rounds": len(outcomes), "wanted": wanted, "right": sum(each.right for each in outcomes), **_sums(outcomes),
        "kills": sum(each.kind.startswith("kill") for each in outcomes),
        "by_fault": {kind: _of_kind([each for each in outcomes if each.kind == kind]) for kind in kinds},
        "wrong": [
            {"fault": each.kind, "number": each.number, "problems": each.problems} for each in outcomes if not each.right
        ],
        "batches_a_round": len(messages(0)), "seeds": SEEDS, "not_compared": NOT_COMPARED, "down_s": DOWN_S,
        "quick": QUICK, "seconds": round(seconds), "when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(),
        "versions": versions("kafka-python", "deltalake", "pyarrow", "numpy", "polars"),
    }  # fmt: skip


def _of_kind(outcomes: list[Outcome]) -> Result:
    return {
        "rounds": len(outcomes), "right": sum(each.right for each in outcomes), **_sums(outcomes),
        "commits": sum(each.commits for each in outcomes),
        "median_s": round(statistics.median(each.seconds for each in outcomes), 1),
    }  # fmt: skip


def _sums(outcomes: list[Outcome]) -> Result:
    return {
        "compared": sum(each.compared for each in outcomes), "lost": sum(each.difference.lost for each in outcomes),
        "doubled": sum(each.difference.doubled for each in outcomes),
        "differing": sum(each.difference.differing for each in outcomes), "problems": sum(len(each.problems) for each in outcomes),
    }  # fmt: skip


if __name__ == "__main__":
    main()
