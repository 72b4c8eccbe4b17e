"""The commands ``sensorloop registry …``."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Annotated

import typer

from dags import steps
from dags.holdout import holdouts as holdouts_of
from dags.holdout import retire
from dags.settings import load as load_settings
from dags.terminal import (
    EXIT_FINAL,
    EXIT_NOTHING,
    entry_line,
    listed,
    proven_line,
    result,
    say,
    say_disagreement,
    version_line,
)

if TYPE_CHECKING:
    from registry.promotion import Outcome

Cohort = Annotated[
    str,
    typer.Option(
        help="Whose model, if it has one of its own; the first of [retrain] cohorts if not said: everybody's."
    ),
]

app = typer.Typer(help="Versions, the champion, and the account of how it came to be.", no_args_is_help=True)


@app.command()
def serve() -> None:
    """Run the local MLflow server until Ctrl-C, on this machine, at [registry] port (25000 unless set).

    Runs, models and the ledger are below SENSORLOOP_HOME/mlflow.
    """
    from registry.server import check_port, server_command

    settings = load_settings()
    check_port(settings.registry)
    command = server_command(settings.home, settings.registry, os.environ)
    say(f"MLflow is at {command.url}; Ctrl-C ends it.")
    os.execve(command.argv[0], command.argv, dict(command.env))  # noqa: S606  (no shell is meant)


@app.command("list")
def list_(cohort: Cohort = "") -> None:
    """Every version, with what the gate found."""
    promotions = steps.promotions(load_settings(), cohort)
    versions = promotions.versions()
    for found in versions:
        say(version_line(found))
    say_disagreement(promotions.disagreement())
    result(versions=[dataclasses.asdict(version) for version in versions])


@app.command()
def serving(cohort: Cohort = "") -> None:
    """Which model serves a cohort: its own champion if it has one, else everybody's. Exit code 99: nothing does."""
    name, version = steps.serving(load_settings(), cohort)
    if version is None:
        say(f"There is no champion of {name}.")
        raise typer.Exit(EXIT_NOTHING)
    say(f"models:/{name}/{version}")
    result(name=name, version=version, uri=f"models:/{name}/{version}")


@app.command()
def history(cohort: Cohort = "") -> None:
    """The ledger: who became champion when, from which lake version, and why. Newest last."""
    promotions = steps.promotions(load_settings(), cohort)
    entries = promotions.history()
    for entry in entries:
        say(entry_line(entry))
    say_disagreement(promotions.disagreement())
    listed(entries=[dataclasses.asdict(entry) for entry in entries])


@app.command()
def explain(version: Annotated[str, typer.Argument(help="A version's number.")], cohort: Cohort = "") -> None:
    """Why a version was promoted or refused, rule by rule."""
    text = steps.promotions(load_settings(), cohort).explain(version)
    say(text)
    listed(version=version, account=text)


@app.command()
def rollback(
    to: Annotated[str | None, typer.Option(help="Version to go back to; the champion before if not said.")] = None,
    expected: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="The champion to go away from: another one is left alone, and called again, this does nothing. For scripts, and "
            "for whoever calls it again because the first call was cut off.",
        ),
    ] = None,
    why: Annotated[str, typer.Option(help="Goes into the ledger.")] = "",
    cohort: Cohort = "",
) -> None:
    """Make the champion before champion again; the ledger says so."""

    def told(outcome: Outcome) -> None:
        say(f"Version {outcome.champion} is champion.")
        result(champion=outcome.champion, entry=outcome.entry.sequence)

    steps.promotions(load_settings(), cohort).rollback(to=to, why=why, expected=expected, told=told)


@app.command()
def reconcile(cohort: Cohort = "") -> None:
    """Finish a promotion that was killed, and enter into the ledger what somebody has moved by hand in MLflow."""
    promotions = steps.promotions(load_settings(), cohort)
    noticed = promotions.reconcile()
    for entry in noticed:
        say(entry_line(entry))
    if not noticed:
        say("MLflow and the ledger name the same champion.")
    result(noticed=[dataclasses.asdict(entry) for entry in noticed], champion=promotions.champion())


@app.command()
def holdouts() -> None:
    """Who is held out of each cohort, since when, and how many candidates they have judged."""
    kept = holdouts_of(load_settings())
    found = kept.all()
    for each in found:
        state = "" if each.retired is None else f" Retired: {each.retired}"
        say(
            f"{each.cohort} {each.number}: {each.name}, {len(each.labels)} windows of {', '.join(each.subjects)}, frozen by {each.who} at "
            f"{each.at[:19].replace('T', ' ')} UTC from lake version {each.lake_version}; {kept.asked(each)} candidates judged.{state}"
        )
    if not found:
        say("No holdout is frozen yet: 'sensorloop rescore' freezes one for its cohort.")
    told = [
        {"name": each.name, "people": len(each.subjects), "asked": kept.asked(each), **dataclasses.asdict(each)}
        for each in found
    ]
    listed(holdouts=[{**each, "labels": len(each["labels"])} for each in told])


@app.command("renew-holdout")
def renew_holdout(
    *,
    cohort: Annotated[str, typer.Option(help="Whose.")],
    why: Annotated[str, typer.Option(help="Is kept with the old one.")] = "",
    redraw: Annotated[bool, typer.Option(help="Hold out other people; otherwise the same.")] = False,
) -> None:
    """Let the next rescoring freeze another holdout: the same people with all that they have by then, or others."""
    old = retire(load_settings(), cohort, why=why, redraw=redraw)
    next_one = "other people" if old.redraw else f"the same people ({', '.join(old.subjects)})"
    say(f"Holdout {old.name} is retired; the next 'sensorloop rescore --cohort {cohort}' freezes one of {next_one}.")
    result(retired=old.name, redraw=old.redraw)


@app.command()
def verify(cohort: Cohort = "") -> None:
    """Check the ledger's chain of hashes and the frozen holdouts. Exit code 3: something was changed, and where."""
    settings = load_settings()
    promotions = steps.promotions(settings, cohort)
    problems = (*promotions.verify(), *holdouts_of(settings).verify())
    for problem in problems:
        say(f"error: {problem}")
    if not problems:
        say(proven_line(promotions.history()))
    result(problems=[str(problem) for problem in problems])
    if problems:
        raise typer.Exit(EXIT_FINAL)
