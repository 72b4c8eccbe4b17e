"""The commands after fine-tuning: ``sensorloop evaluate``, ``gate``, ``promote`` and ``watch``; and ``scratch``."""

from __future__ import annotations

from typing import Annotated

import typer

from dags import judging, scratch, watching
from dags.settings import load as load_settings
from dags.terminal import EXIT_NOTHING, fail, megabytes, result, say, verdict_line

RunKey = Annotated[str, typer.Option(help="What 'sensorloop rescore' printed.")]
Arm = Annotated[str, typer.Option(help="Which arm's model.")]
Name = Annotated[str, typer.Option(help="Of the run that it is for.")]

scratch_app = typer.Typer(help="Room for what a run's tasks write on their way.", no_args_is_help=True)


def evaluate(run_key: RunKey, arm: Arm = "filterloss") -> None:
    """Look at an arm's model, the champion and the original model on the people held out.

    What each says of every window is kept beside the arm, for 'sensorloop gate' and 'promote'; asked again, only what has changed
    since is looked at: another champion, say.
    """
    done = judging.evaluate(load_settings(), run_key=run_key, arm=arm)
    for name in ("candidate", "champion", "original"):
        if name in done:
            say(f"{name:<9}  accuracy {done[name]['accuracy']:.3f}, macro-F1 {done[name]['macro_f1']:.3f}")
    say(f"On {done['windows']} windows of {done['subjects']} people held out.")
    result(**done)


def gate(
    run_key: RunKey,
    arm: Arm = "filterloss",
    below: Annotated[
        str, typer.Option(help="What 'sensorloop track open' answered: MLflow's run of the DAG run that asks for this.")
    ] = "",
) -> None:
    """Register the fine-tuned model as challenger and say what the gate finds. Nobody's champion moves: that is for 'sensorloop promote'.

    A refusal is an answer: the exit code is 0 then, too.
    """
    done = judging.gate(load_settings(), run_key=run_key, arm=arm, below=below)
    for reason in done["reasons"]:
        say(reason)
    say(f"Version {done['version']} {'passes' if done['passed'] else 'is refused'}.")
    result(**done)


def promote(
    run_key: RunKey,
    arm: Arm = "filterloss",
    approved_by: Annotated[str | None, typer.Option(help="Who was asked and is for it; goes into the ledger.")] = None,
    rejected_by: Annotated[
        str | None,
        typer.Option(
            help="Who was asked and is against it: it is refused. Empty: nobody answered, which counts as no."
        ),
    ] = None,
    why: Annotated[str, typer.Option(help="That person's reason.")] = "",
) -> None:
    """Register the fine-tuned model and let the gate decide whether it becomes champion, and whoever was asked.

    A refusal is an answer: the exit code is 0 then, too, and "passed" is false.
    """
    if approved_by is not None and rejected_by is not None:
        fail("Give --approved-by or --rejected-by, not both.", 2)
    approval = None
    if approved_by is not None or rejected_by is not None:
        approval = judging.Approval(given=rejected_by is None, by=(approved_by or rejected_by or "").strip(), why=why)
    if approval is not None and approval.given and not approval.by:
        fail("--approved-by needs a name: what nobody has said is no approval.", 2)
    done = judging.promote(load_settings(), run_key=run_key, arm=arm, approval=approval)
    for reason in done["reasons"]:
        say(reason)
    say(verdict_line(done))
    result(**done)


def watch(
    cohort: Annotated[
        list[str] | None,
        typer.Option(help="Whose champions; may be given several times. [retrain] cohorts if not said."),
    ] = None,
) -> None:
    """Hold champions against windows that were labelled since they were trained, and say which have fallen behind.

    The answer's 'behind' names the cohorts whose recovery ratio is below [care] recovery_threshold, and says whether a retraining is due
    or these windows have been judged by one. Exit code 99: nothing can be said of
    any, since too little was labelled ([care] least_windows) or there is no champion.
    """
    settings = load_settings()
    seen = watching.watch(settings, cohort or settings.retrain.cohorts)
    for each in seen:
        say(each.text)
    if all(each.recovery_ratio is None for each in seen):
        raise typer.Exit(EXIT_NOTHING)
    result(seen=[each.to_json() for each in seen], behind=[each.to_json() for each in seen if each.behind])


@scratch_app.command("make")
def scratch_make(name: Name) -> None:
    """Make a folder for a run's temporary files; a second time it is the same."""
    result(folder=str(scratch.make(load_settings(), name)))


@scratch_app.command("clear")
def scratch_clear(name: Name) -> None:
    """Remove a run's folder with all that is in it; a second time there is nothing to do."""
    size = scratch.clear(load_settings(), name)
    say(f"{megabytes(size)} removed.")
    result(bytes=size)
