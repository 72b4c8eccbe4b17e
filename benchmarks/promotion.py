"""``make bench-promotion``: processes killed between all steps, races and rollbacks → ``var/bench/promotion.json``.

A real MLflow server, an installation with a small network and a small lake, and the real commands as processes. Each round:

1. *Kills.* ``finetune`` of a new run key is killed before each of its steps, one after the other, and then let finish. So is
   ``promote`` of its FilterLoss model. After each kill alias and ledger must be those of before or those of after.
2. *A race.* Two other arms' models are promoted at once, each judged against the same champion: one wins, the other is told to
   judge again, does, and follows.
3. *A rollback* by the real command line, timed from start to end; then again by hand in MLflow, which must be noticed and entered.

Counted are champions that are not whom the ledger names or not who should serve, breaks of the ledger's chain, and arms that were
trained though they had been kept. ``QUICK=1``: 2 rounds.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.machine import machine, versions, write
from benchmarks.promotion_process import PROMOTING, TRAINING, Command, barrier

ROOT = Path(__file__).parents[1]
QUICK = bool(os.environ.get("QUICK"))
ROUNDS = 2 if QUICK else 20
ARMS = "filterloss,plain,undersampling"
RETRIABLE = 4
"""Exit code: may work later."""
LIMIT_S = 5.0
"""Longest that a rollback may take."""


@dataclass
class Found:
    """What has been seen so far."""

    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    races: int = 0
    won_by: Counter[str] = field(default_factory=Counter)
    rollbacks: int = 0
    rollback_s: list[float] = field(default_factory=list)
    rollback_cpu_s: list[float] = field(default_factory=list)
    """Of the same; on a machine that does nothing else it is about what one waits for."""
    by_hand: int = 0
    champions_left_wrong: int = 0
    ledger_breaks: int = 0
    trained_twice: int = 0
    registered_twice: int = 0
    problems: list[str] = field(default_factory=list)

    def wrong(self, what: str, text: str) -> None:
        setattr(self, what, getattr(self, what) + 1)
        self.problems.append(f"round {self.rounds}: {text}")


class Bench:
    """An installation, its server and what has been found of them."""

    def __init__(self, folder: Path, tracking_uri: str, ledger_url: str) -> None:
        from dags import steps  # noqa: PLC0415  # with torch and MLflow
        from dags.settings import load  # noqa: PLC0415
        from tests.dags.places import TOML  # noqa: PLC0415
        from tests.training.lakes import publish  # noqa: PLC0415
        from tests.training.made import windows  # noqa: PLC0415
        from training.tracking import no_progress  # noqa: PLC0415

        self.found = Found()
        self._folder, home = folder, folder / "home"
        (folder / "logs").mkdir(parents=True)
        home.mkdir()
        registry = (
            f'[registry]\ntracking_uri = "{tracking_uri}"\nledger_url = "{ledger_url}"\nsystem_metrics_every = 0\n'
        )
        (home / "sensorloop.toml").write_text(TOML + registry, encoding="utf-8")
        self._environ = {"SENSORLOOP_HOME": str(home), "SENSORLOOP_CONFIG": str(home / "sensorloop.toml")}
        self._trained = folder / "trained"
        self._trained.touch()
        self._settings = load(self._environ)
        publish(home / "lake", windows(people=5, each=6), cohort="source")
        publish(home / "lake", windows(people=6, each=6, seed=1), cohort="target")
        steps.train_original(self._settings, cohort="source", seed=0, progress=no_progress)
        self._promotions = steps.promotions(self._settings)
        self._store = steps.model_versions(self._settings, steps.mlflow_client(self._settings))

    def round(self, number: int) -> None:
        """One of each."""
        from dags import retraining  # noqa: PLC0415
        from training.tracking import no_progress  # noqa: PLC0415

        self.found.rounds = number
        scored = retraining.rescore(
            self._settings, cohort="target", lake_version=None, seed=number, progress=no_progress
        )
        key = scored["run_key"]
        self._kills(key)
        self._race(key)
        self._rollback()
        self._by_hand()
        self._check_training(key)

    def _kills(self, key: str) -> None:
        before = self._promotions.champion()
        for step in (*TRAINING, ""):
            self._finetune(key, step)
        for step in (*PROMOTING, ""):
            code, answer = self._promote(key, "filterloss", step)
            self._expect(code, 0 if not step else -9, f"promote, killed before '{step}'")
            serves = self._promotions.champion()
            if serves != before and not self._is_of(serves, key, "filterloss"):
                self.found.wrong("champions_left_wrong", f"after a kill before '{step}' version {serves} serves")
            self._chain(f"after a kill before '{step}'")
        if not answer.get("passed"):
            self.found.wrong("champions_left_wrong", f"the gate refused {key}: {answer.get('reasons')}")
        self._agreed(self._version_of(key, "filterloss"), "after the kills")

    def _race(self, key: str) -> None:
        arms, at = ("plain", "undersampling"), barrier(2)
        commands = {arm: self._start("promote", "--run-key", key, "--arm", arm, together=at, key=key) for arm in arms}
        codes = {arm: command.wait() for arm, command in commands.items()}
        self.found.races += 1
        won = [arm for arm, code in codes.items() if code == 0]
        if sorted(map(str, codes.values())) != ["0", str(RETRIABLE)]:
            said = {arm: command.said()[-300:] for arm, command in commands.items()}
            self.found.wrong("champions_left_wrong", f"a race ended with exit codes {codes}: {said}")
            return
        self.found.won_by[won[0]] += 1
        self._agreed(self._version_of(key, won[0]), "after a race")
        (lost,) = set(arms) - set(won)
        code, _ = self._promote(key, lost, "")
        self._expect(code, 0, "the race's loser, judged again")
        self._agreed(self._version_of(key, lost), "after the race's loser was judged again")

    def _rollback(self) -> None:
        line = self._line()
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "sensorloop", "registry", "rollback", "--why", f"Round {self.found.rounds}."],
            cwd=ROOT, env=os.environ | self._environ, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        self.found.rollback_s.append(time.perf_counter() - begin)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.found.rollback_cpu_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        self.found.rollbacks += 1
        self._expect(done.returncode, 0, f"rollback: {done.stderr[-300:]}")
        self._agreed(line[-2], "after a rollback")
        entry = self._promotions.history()[-1]
        if (entry.action, entry.version) != ("rollback", line[-2]):
            self.found.wrong("ledger_breaks", f"the rollback is not in the ledger, its newest entry is {entry.action}")

    def _by_hand(self) -> None:
        """What somebody does in MLflow's pages: the same call that they make."""
        serves = self._promotions.champion()
        other = next(version.version for version in self._store.versions() if version.version != serves)
        self._store.point("champion", other)
        noticed = self._promotions.reconcile()
        self.found.by_hand += 1
        if [(entry.action, entry.version) for entry in noticed] != [("manual", other)]:
            self.found.wrong("ledger_breaks", f"a move by hand to version {other} was entered as {noticed}")
        self._agreed(other, "after a move by hand")

    def _finetune(self, key: str, step: str) -> None:
        command = self._start("finetune", "--run-key", key, "--arms", ARMS, kill_before=step, key=key)
        code = command.wait()
        self._expect(code, 0 if not step else -9, f"finetune, killed before '{step}': {command.said()[-300:]}")
        self.found.kills.update([step] if step else [])

    def _promote(self, key: str, arm: str, step: str) -> tuple[int | None, dict[str, Any]]:
        command = self._start("promote", "--run-key", key, "--arm", arm, kill_before=step, key=key)
        code = command.wait()
        self.found.kills.update([step] if step else [])
        lines = [line for line in command.said().splitlines() if line.startswith("{")]
        return code, json.loads(lines[-1]) if code == 0 and lines else {}

    def _start(self, *arguments: str, key: str, kill_before: str = "", together: Any = None) -> Command:
        environ = self._environ | {"BENCH_RUN_KEY": key}
        log = self._folder / "logs" / f"{time.monotonic_ns()}.log"
        return Command(environ, log, *arguments, kill_before=kill_before, together=together, trained=self._trained)

    def _agreed(self, should: str | None, when: str) -> None:
        """The right one serves, the ledger says so, and its chain holds."""
        entry, serves = self._promotions.history()[-1], self._promotions.champion()
        moved = [each.version for each in self._promotions.history() if each.moves_champion]
        if serves is None or serves != should or moved[-1] != serves:
            self.found.wrong(
                "champions_left_wrong",
                f"{when} version {serves} serves, {should} should, the ledger's is {moved[-1]} ({entry.action})",
            )
        self._chain(when)
        for problem in self._promotions.verify():
            self.found.wrong("ledger_breaks", f"{when}: {problem.text}")

    def _chain(self, when: str) -> None:
        from registry.chain import check  # noqa: PLC0415

        for problem in check(self._promotions.history()):
            self.found.wrong("ledger_breaks", f"{when}: {problem.text}")

    def _check_training(self, key: str) -> None:
        """An arm that was kept is trained once more by nobody, and each arm is one run and one version."""
        lines = Counter(self._trained.read_text(encoding="utf-8").splitlines())
        # Killed between its end and its being kept, the arm under way is trained anew, and is said to be.
        allowed = {f"{key} original": 2}
        for arm in ("original", *ARMS.split(",")):
            if lines[f"{key} {arm}"] > allowed.get(f"{key} {arm}", 1):
                self.found.wrong("trained_twice", f"arm {arm} of {key} was trained {lines[f'{key} {arm}']} times")
        from dags import steps  # noqa: PLC0415

        client = steps.mlflow_client(self._settings)
        experiment = client.get_experiment_by_name(self._settings.registry.retrain_experiment)
        where = [] if experiment is None else [experiment.experiment_id]
        runs = client.search_runs(where, f"tags.run_key = '{key}'")
        for name, count in Counter(run.info.run_name for run in runs).items():
            if count > 1:
                self.found.wrong("trained_twice", f"{key} has {count} runs '{name}'")
        policies = Counter(
            each.tags.get("policy") for each in self._store.versions() if each.tags.get("run_key") == key
        )
        for policy, count in policies.items():
            if count > 1:
                self.found.wrong("registered_twice", f"{key} has {count} versions of {policy}")

    def _version_of(self, key: str, arm: str) -> str | None:
        found = self._store.find(run_key=key, policy=arm)
        return found.version if found else None

    def _is_of(self, version: str | None, key: str, arm: str) -> bool:
        return version is not None and version == self._version_of(key, arm)

    def _line(self) -> tuple[str | None, ...]:
        from registry.chain import lineage  # noqa: PLC0415

        return lineage(self._promotions.history())

    def _expect(self, code: int | None, wanted: int, what: str) -> None:
        if code != wanted:
            self.found.problems.append(f"round {self.found.rounds}: exit code {code} in place of {wanted}: {what}")


def main() -> None:
    """Run, write, print; exit code 1 if anything was not as it should be."""
    home = Path(os.environ.get("SENSORLOOP_HOME", ROOT / "var")).absolute() / "bench"
    folder = home / "promotion"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bar = Progress(TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    from tests.registry.servers import local_server  # noqa: PLC0415

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leaving by an exception, so that the server ends, too
    begin = time.monotonic()
    with local_server(folder) as server, bar:
        task = bar.add_task("the original model", total=ROUNDS)
        bench = Bench(folder, server.url, f"sqlite:///{server.home / 'mlflow.db'}")
        for number in range(1, ROUNDS + 1):
            bench.round(number)
            result = _result(bench.found, time.monotonic() - begin)
            write(home / "promotion.json", result)
            bar.update(
                task, advance=1, description=f"{len(bench.found.problems)} wrong" if bench.found.problems else "rounds"
            )
    if result["right"]:
        shutil.rmtree(folder, ignore_errors=True)
    for problem in bench.found.problems:
        print(problem)
    shown = (
        "rounds",
        "kills",
        "races",
        "rollbacks",
        "champions_left_wrong",
        "ledger_breaks",
        "trained_twice",
        "rollback_s",
    )
    print(json.dumps({name: result[name] for name in shown}, indent=2))
    print(f"\n{home / 'promotion.json'}")
    sys.exit(0 if result["right"] else 1)


def _result(found: Found, seconds: float) -> Mapping[str, Any]:
    counts = ("champions_left_wrong", "ledger_breaks", "trained_twice", "registered_twice")
    longest = max(found.rollback_s)
    return {
        "rounds": found.rounds, "wanted": ROUNDS, "kills": sum(found.kills.values()), "kills_before": dict(found.kills),
        "races": found.races, "races_won_by": dict(found.won_by), "rollbacks": found.rollbacks, "by_hand": found.by_hand,
        **{name: getattr(found, name) for name in counts},
        "rollback_s": {"median": round(statistics.median(found.rollback_s), 2), "longest": round(longest, 2)},
        "rollback_cpu_s": round(statistics.median(found.rollback_cpu_s), 2),
        "rollbacks_over_5_s": sum(each > LIMIT_S for each in found.rollback_s),
        "right": not found.problems and found.rounds == ROUNDS, "problems": found.problems, "quick": QUICK,
        "seconds": round(seconds), "when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(),
        "versions": versions("mlflow", "sqlalchemy", "torch"),
    }  # fmt: skip


if __name__ == "__main__":
    main()
