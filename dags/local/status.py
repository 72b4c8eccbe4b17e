"""The command ``sensorloop status``: a live table of how far ingestion is."""

from __future__ import annotations

import dataclasses
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dags.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from streaming.status import PartitionStatus, Rates, Status


def status(settings: Settings, *, once: bool, every: float) -> dict[str, Any]:
    """Show it until Ctrl-C, or once; rates are between two looks, so once has none.

    Raises:
        ClientError: Kafka cannot be reached.
        LakeError: the lake cannot be read.
    """
    from rich.console import Console
    from rich.live import Live

    from streaming.status import Observer, rates

    console = Console(stderr=True)
    # An installation is a home: who looks at another than the one that is at work would else see it stand still.
    console.print(
        f"Lake {settings.lake.uri}, Kafka {settings.kafka.bootstrap_servers}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    with console.status("Waiting for Kafka"):
        observer = Observer(settings.kafka, settings.lake)
    try:
        now = observer.look()
        if once:
            console.print(table(now, {}))
        else:
            with Live(table(now, {}), console=console, auto_refresh=False) as live:
                try:
                    while True:
                        time.sleep(every)
                        before, now = now, observer.look()
                        live.update(table(now, rates(before, now)), refresh=True)
                except KeyboardInterrupt:
                    pass
    finally:
        observer.close()
    return {
        "lake_version": now.lake_version,
        "lag": now.lag,
        "valid_through": _iso(now.valid_through),
        "partitions": [_described(each) for each in now.partitions],
        "labels_version": now.labels_version,
        "labels_lag": now.labels_lag,
        "labels": [_described(each) for each in now.labels],
    }


def table(now: Status, rate: Rates) -> Table:
    """The table for a terminal."""
    from rich.table import Table

    version = "no lake yet" if now.lake_version is None else f"lake version {now.lake_version}"
    complete = "–" if now.valid_through is None else f"{now.valid_through:%Y-%m-%d %H:%M:%S} UTC"
    said = "no labels yet" if now.labels_version is None else f"labels version {now.labels_version}"
    shown = Table(
        "partition", title=f"{version}, complete until {complete}, lag {now.lag:,}\n{said}, lag {now.labels_lag:,}",
        title_justify="left", box=None,
    )  # fmt: skip
    for column in ("in Kafka", "in the lake", "lag", "came/s", "settled/s", "complete (UTC)"):
        shown.add_column(column, justify="right")
    # Told apart by a word and not by their topics' names: 80 characters have no room for those.
    for word, partitions in (("", now.partitions), ("labels ", now.labels)):
        for each in partitions:
            came, done = rate.get((each.topic, each.partition), (None, None))
            shown.add_row(
                f"{word}{each.partition}", f"{each.end:,}", "–" if each.committed is None else f"{each.committed:,}",
                _why_not(each) if each.replaced else f"{each.lag:,}",
                "" if came is None else f"{came:,.1f}", "" if done is None else f"{done:,.1f}",
                "–" if each.valid_through is None else f"{each.valid_through:%Y-%m-%d %H:%M:%S}",
            )  # fmt: skip
    return shown


def _why_not(each: PartitionStatus) -> str:
    """Why it is not read; only what is "refused" can be accepted."""
    if each.other_topic:
        return "other id"
    return "short" if each.refused is None else "refused"


def _described(each: PartitionStatus) -> dict[str, Any]:
    return {**dataclasses.asdict(each), "lag": each.lag, "valid_through": _iso(each.valid_through)}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
