"""What a run takes of its machine: CPU, memory, disk, network and, where there is one, the GPU; MLflow's own monitor."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from mlflow import MlflowClient


@contextmanager
def system_metrics(client: MlflowClient, run_id: str, *, every: timedelta | None, resumed: bool) -> Iterator[None]:
    """Log ``system/…`` metrics of this machine to a run for as long as the block takes; what fails of it fails nothing else.

    Args:
        client: of the server that has the run.
        run_id: the run.
        every: between two looks; None or 0 for none. A block shorter than this has none.
        resumed: go on after the steps that the run has.
    """
    if not every:
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # noqa: PLC0415  (looks for GPUs)

    # It tells on stderr that it begins and ends.
    logging.getLogger(SystemMetricsMonitor.__module__).setLevel(logging.WARNING)
    monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]  # MLflow's own annotations are missing
        run_id,
        sampling_interval=every.total_seconds(),
        samples_before_logging=1,
        resume_logging=resumed,
        tracking_uri=client.tracking_uri,
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
