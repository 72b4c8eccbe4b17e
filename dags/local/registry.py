"""The commands ``sensorloop registry …``."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated

import typer

from dags import steps
from dags.settings import load as load_settings
from dags.terminal import EXIT_FINAL, entry_line, proven_line, result, say, say_disagreement, version_line

app = typer.Typer(help="Versions, the champion, and the account of how it came to be.", no_args_is_help=True)


@app.command()
def serve() -> None:
    """Run the local MLflow server until Ctrl-C; runs, models and the ledger are below SENSORLOOP_HOME/mlflow."""
    from registry.server import check_port, server_command

    settings = load_settings()
    check_port(settings.registry)
    command = server_command(settings.home, settings.registry, os.environ)
    say(f"MLflow is at {command.url}; Ctrl-C ends it.")
    os.execve(command.argv[0], command.argv, dict(command.env))  # noqa: S606  (no shell is meant)


@app.command("list")
def list_() -> None:
    """Every version, with what the gate found."""
    promotions = steps.promotions(load_settings())
    versions = promotions.versions()
    for found in versions:
        say(version_line(found))
    say_disagreement(promotions.disagreement())
    result(versions=[dataclasses.asdict(version) for version in versions])


@app.command()
def history() -> None:
    """The ledger: who became champion when, from which lake version, and why. Newest last."""
    promotions = steps.promotions(load_settings())
    entries = promotions.history()
    for entry in entries:
        say(entry_line(entry))
    say_disagreement(promotions.disagreement())
    result(entries=[dataclasses.asdict(entry) for entry in entries])


@app.command()
def explain(version: Annotated[str, typer.Argument(help="A version's number.")]) -> None:
    """Why a version was promoted or refused, rule by rule."""
    text = steps.promotions(load_settings()).explain(version)
    say(text)
    result(version=version, account=text)


@app.command()
def rollback(
    to: Annotated[str | None, typer.Option(help="Version to go back to; the champion before if not said.")] = None,
    why: Annotated[str, typer.Option(help="Goes into the ledger.")] = "",
) -> None:
    """Make the champion before champion again; the ledger says so."""
    outcome = steps.promotions(load_settings()).rollback(to=to, why=why)
    say(f"Version {outcome.champion} is champion.")
    result(champion=outcome.champion, entry=outcome.entry.sequence)


@app.command()
def verify() -> None:
    """Check the ledger's chain of hashes. Exit code 3: it was changed, and where."""
    promotions = steps.promotions(load_settings())
    problems = promotions.verify()
    for problem in problems:
        say(f"error: {problem}")
    if not problems:
        say(proven_line(promotions.history()))
    result(problems=[str(problem) for problem in problems])
    if problems:
        raise typer.Exit(EXIT_FINAL)
