"""The command ``sensorloop settings``."""

from __future__ import annotations

from typing import Annotated

import typer

from dags.settings import in_force
from streaming.errors import SettingsError


def show(
    *,
    markdown: Annotated[bool, typer.Option("--markdown", help="As docs/settings.md has them.")] = False,
) -> None:
    """Every setting of sensorloop.toml: its value in force, who has set it, its variable, its unit and reason."""
    from dags import described

    if markdown:
        typer.echo(described.markdown(), nl=False)
        return
    wrong, given = None, {}
    try:
        given = in_force()
    except SettingsError as error:  # said last: what there is to set is what one wants to read now
        wrong = error
    for each in described.described():
        typer.echo(described.shown(each, given.get((each.section, each.key))))
    if wrong is not None:
        raise wrong
