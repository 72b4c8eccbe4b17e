"""The steps after fine-tuning: evaluate, gate, promote.

``evaluate`` looks at the holdout and keeps what each model said of every window; ``gate`` says what follows from that, and moves nothing;
``promote`` enters it into the ledger, with what a person has said about it. Each can be repeated, and looks anew where the champion has
changed since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dags import runs, steps
from dags.settings import Settings
from dags.whole import whole

if TYPE_CHECKING:
    from registry.gate import Score, Verdict
    from registry.promotion import Promotions
    from training.arms import Bench
    from training.dataset import WindowSet
    from training.evaluation import Evaluation

_CANDIDATE, _CHAMPION, _ORIGINAL = "candidate", "champion", "original"


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """What a person has said of a candidate that passed the gate."""

    given: bool
    by: str
    """Who; empty: nobody has answered in time."""
    why: str = ""


def evaluate(settings: Settings, *, run_key: str, arm: str) -> dict[str, Any]:
    """Look at an arm's model, the champion and the original model on the run's holdout; asked again, it looks at what has changed.

    Raises:
        TrainingError: the run key has no such arm.
        RegistryError: MLflow does not answer, or has no such model.
    """
    case = _Case.open(settings, run_key, arm)
    predicted = case.predictions(steps.promotions(settings, case.cohort).champion())
    found = {name: case.evaluated(scenes) for name, scenes in predicted.items() if scenes is not None}
    return {
        "run_key": run_key, "arm": arm, "windows": len(case.holdout), "subjects": len(set(case.holdout.subjects.tolist())),
        **{name: {"accuracy": each.accuracy, "macro_f1": each.macro_f1} for name, each in found.items()},
    }  # fmt: skip


def gate(settings: Settings, *, run_key: str, arm: str, below: str = "") -> dict[str, Any]:
    """Register an arm's model as challenger and say what the gate finds; the champion stays who it is.

    Args:
        settings: of this installation.
        run_key: of a rescoring.
        arm: whose model.
        below: MLflow's id of the DAG run's run, which is under way; empty: it is done by hand.

    Raises:
        TrainingError: the run key has no such arm.
        RegistryError: MLflow or the ledger does not answer, or refuses.
    """
    from registry import pages
    from registry.dag_runs import go_on

    if below:
        go_on(steps.mlflow_client(settings), below)
    case = _Case.open(settings, run_key, arm)
    ledger = steps.promotions(settings, case.cohort)
    version = case.register()
    # Whether it stands already, so that nobody is asked for a word that would change nothing.
    judged = ledger.judgement(version) is not None
    found = case.verdict(ledger, version)
    name = steps.model_name(settings, case.cohort)
    return {
        **_told(found, version, ledger), "judged": judged, "run_key": run_key, "cohort": case.cohort, "arm": arm,
        "version_url": f"{settings.registry.tracking_uri}/{pages.version_page(name, version)}",
    }  # fmt: skip


def promote(settings: Settings, *, run_key: str, arm: str, approval: Approval | None = None) -> dict[str, Any]:
    """Register an arm's model and let the gate decide, and whoever was asked; the champion moves if both are for it.

    Asked again of a version that was judged, it answers what was found then, and who is champion now.

    Raises:
        TrainingError: the run key has no such arm.
        RegistryError: MLflow or the ledger does not answer, or refuses.
    """
    from registry.gate import Verdict

    case = _Case.open(settings, run_key, arm)
    ledger = steps.promotions(settings, case.cohort)
    ledger.reconcile()
    champion = ledger.champion()
    version = case.register()
    # What was found of a version stands: asking again is no new judgement, whatever [gate] says today and whoever serves.
    entry = ledger.judgement(version)
    if entry is None:
        found = _with_approval(case.verdict(ledger, version), approval)
        outcome = (
            ledger.promote(version, found, judged_against=champion) if found.passed else ledger.refuse(version, found)
        )
        entry = outcome.entry
    told = _told(Verdict.from_json(entry.verdict or ""), version, ledger)
    runs.judge(case.folder, arm, **told)
    return told


def _told(found: Verdict, version: str, ledger: Promotions) -> dict[str, Any]:
    return {
        "passed": found.passed, "version": version, "champion": ledger.champion(), "reasons": list(found.reasons),
        "recovery_ratio": found.recovery_ratio,
    }  # fmt: skip


def _with_approval(found: Verdict, approval: Approval | None) -> Verdict:
    """The verdict with one more rule: what the person says who was asked."""
    from registry.gate import RuleResult

    if approval is None:
        return found
    if approval.by:
        text = f"{approval.by} has {'approved' if approval.given else 'rejected'} it{f': {approval.why}' if approval.why else '.'}"
    else:
        text = "Nobody has answered in time, which counts as no."
    rule = RuleResult(name="approval", passed=approval.given, value=None, threshold=None, margin=None, text=text)
    return replace(found, passed=found.passed and approval.given, rules=(*found.rules, rule))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """An arm of a run, and what it is judged on."""

    settings: Settings
    folder: Path
    run: Mapping[str, Any]
    arm: str
    result: Mapping[str, Any]
    bench: Bench
    holdout: WindowSet

    @classmethod
    def open(cls, settings: Settings, run_key: str, arm: str) -> _Case:
        from training.errors import RunError

        folder, run = runs.find(settings, run_key)
        results = runs.results(folder)
        if arm not in results:
            msg = (
                f"Run key {run_key} has no result of arm '{arm}': 'sensorloop finetune --run-key {run_key}' trains it."
            )
            raise RunError(msg)
        steps.check_model_is_of(settings, steps.mlflow_client(settings), str(run["cohort"]))
        bench = runs.bench(settings, folder, run)
        return cls(
            settings=settings, folder=folder, run=run, arm=arm, result=results[arm], bench=bench,
            holdout=bench.windows.select(bench.holdout),
        )  # fmt: skip

    @property
    def cohort(self) -> str:
        return str(self.run["cohort"])

    def register(self) -> str:
        """The version that the arm's model is, made the first time."""
        from training.network import SceneNet

        candidate = self.evaluated(self.predictions(None)[_CANDIDATE] or [])
        recovery, people = self.result["recovery_ratio"], len(set(self.holdout.subjects.tolist()))
        return steps.register(
            self.settings, steps.mlflow_client(self.settings), SceneNet.load(self.folder / self.arm),
            name=steps.model_name(self.settings, self.cohort), run_id=self.result["run_id"], example=self.holdout,
            alias="challenger",
            metrics={
                "target/accuracy": candidate.accuracy, "target/macro_f1": candidate.macro_f1, "recovery_ratio": recovery,
            },
            tags={
                "policy": self.arm, "cohort": self.cohort, **runs.versions(self.run), "run_key": self.folder.name,
                "recovery_ratio": f"{recovery:.3f}",
            },
            description=(
                f"{self.arm}: recovery {recovery:.3f}, accuracy {candidate.accuracy:.3f}, macro-F1 {candidate.macro_f1:.3f} on "
                f"{candidate.windows} windows of {people} people held out; cohort {self.cohort} at {runs.lake_at(self.run)}."
            ),
        )  # fmt: skip

    def verdict(self, ledger: Promotions, version: str) -> Verdict:
        """What the gate finds of a version; what it once found, if it was asked before. The same candidate is one question."""
        from dags.holdout import holdouts, question
        from registry.gate import Verdict, verdict

        if (entry := ledger.judgement(version)) is not None:
            return Verdict.from_json(entry.verdict or "")
        champion = ledger.champion()
        predicted = self.predictions(champion if champion != version else None)
        scores = {name: None if each is None else self._score(each) for name, each in predicted.items()}
        candidate, original = scores[_CANDIDATE], scores[_ORIGINAL]
        if candidate is None or original is None:  # pragma: no cover - they always are
            raise AssertionError
        frozen = holdouts(self.settings).named(self.cohort, self.run["holdout"])
        asked = question(self.settings, frozen, self.holdout, candidate=f"{self.folder.name}:{self.arm}")
        known = steps.model_versions(self.settings, steps.mlflow_client(self.settings), self.cohort).version(version)
        judged = replace(candidate, latency_s=known.latency_s, size_mb=known.size_mb)
        return verdict(judged, scores[_CHAMPION], original, self.bench.original.accuracy, self.settings.gate, asked)

    def predictions(self, champion: str | None) -> dict[str, list[int] | None]:
        """What the candidate, the original model and a champion (None: nobody) say of each window held out, kept beside the arm."""
        file, digest = self.folder / self.arm / runs.EVALUATION, self.holdout.digest()
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if known.get("holdout") != digest:
            known = {"holdout": digest, "models": {}}
        models = known["models"]
        wanted = {_CANDIDATE: self.folder / self.arm, _ORIGINAL: self.folder / "original"}
        missing = [name for name in wanted if name not in models]
        for name in missing:
            models[name] = self._saved(wanted[name])
        # By more than its number: another registered model, or one that was made anew, has a version of the same.
        serving = "" if champion is None else self._identity(champion)
        if champion is not None and serving not in models:
            missing.append(serving)
            models[serving] = self._version(champion)
        if missing:
            with whole(file) as partial:
                partial.write_text(json.dumps(known), encoding="utf-8")
        return {
            _CANDIDATE: models[_CANDIDATE], _ORIGINAL: models[_ORIGINAL],
            _CHAMPION: None if champion is None else models[serving],
        }  # fmt: skip

    def _saved(self, folder: Path) -> list[int]:
        import torch

        from training.network import SceneNet, infer

        net = SceneNet.load(folder)
        return [int(scene) for scene in infer(net, torch.from_numpy(self.holdout.signals)).argmax(1).tolist()]

    def _identity(self, version: str) -> str:
        store = steps.model_versions(self.settings, steps.mlflow_client(self.settings), self.cohort)
        return store.version(version).identity

    def _version(self, version: str) -> list[int]:
        """The champion on the candidate's holdout, whatever it was judged on at its time."""
        return steps.predict(self.settings, self.cohort, version, self.holdout)

    def evaluated(self, predicted: list[int]) -> Evaluation:
        """How these predictions compare with the truth of the windows held out."""
        import numpy as np

        from training.evaluation import evaluate as look

        holdout = self.holdout
        return look(holdout.scenes, np.array(predicted, np.int64), holdout.scene_names, subjects=holdout.subjects)

    def _score(self, predicted: list[int]) -> Score:
        from registry.bounds import Person
        from registry.gate import Score

        found, holdout = self.evaluated(predicted), self.holdout
        # A scene that is absent from the holdout stays in: NaN, and 0 windows. The gate says what that means.
        return Score(
            accuracy=found.accuracy, macro_f1=found.macro_f1, recall=found.recall, windows=found.windows,
            subjects=len(set(holdout.subjects.tolist())), holdout=holdout.digest(), scene_windows=holdout.counts(),
            people=tuple(Person(right=right, windows=windows) for right, windows in found.people),
        )  # fmt: skip
