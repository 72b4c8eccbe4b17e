"""The same work as a tutorial would do it: kafka-python, a DataFrame a batch, windows by selecting rows, ``to_parquet``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import kafka
import numpy as np
import pandas as pd

from streaming.sensor_batch_pb2 import SensorBatch
from streaming.sensors import SENSORS

LENGTH_NS, HOP_NS, LATE_NS, STEP_NS = 5_000_000_000, 2_500_000_000, 10_000_000_000, 10_000_000
ROWS_A_FILE = 500


def main(*, servers: str, topic: str, total: int, folder: str) -> dict[str, float]:
    """Until so many batches are in windows, and what closed is in files."""
    consumer = kafka.KafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest", group_id=None)
    sessions: dict[str, pd.DataFrame] = {}
    next_start: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    size = windows = 0
    begin = cpu = 0.0
    for count, message in enumerate(consumer, 1):
        if not begin:
            begin, cpu = time.perf_counter(), time.process_time()
        size += len(message.value)
        batch = SensorBatch.FromString(message.value)
        session = sessions[batch.session_id] = pd.concat([sessions.get(batch.session_id), to_frame(batch)]).sort_values(
            "time_ns"
        )
        start = next_start.setdefault(batch.session_id, int(session["time_ns"].iloc[0]) // HOP_NS * HOP_NS)
        while session["time_ns"].iloc[-1] >= start + LENGTH_NS + LATE_NS:
            rows.append({"session_id": batch.session_id, "start_ns": start, **on_the_grid(session, start)})
            windows += 1
            start += HOP_NS
        next_start[batch.session_id] = start
        sessions[batch.session_id] = session[session["time_ns"] >= start - HOP_NS]
        if len(rows) >= ROWS_A_FILE or count == total:
            pd.DataFrame(rows).to_parquet(Path(folder) / f"{windows}.parquet", compression="zstd")
            rows = []
        if count == total:
            break
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    consumer.close()
    return {"mb_s": size / 1e6 / seconds, "cpu_ms_mb": cpu * 1e3 / (size / 1e6), "rows": windows}


def to_frame(batch: SensorBatch) -> pd.DataFrame:
    """A row a sample, all sensors together: they tick alike here."""
    columns: dict[str, Any] = {}
    for block in batch.blocks:
        sensor = SENSORS[block.sensor]
        values = np.frombuffer(block.values, "<f4").reshape(-1, len(sensor.axes))
        columns["time_ns"] = block.start_ns + np.arange(len(values)) * block.period_ns
        columns |= {channel: values[:, i] for i, channel in enumerate(sensor.channels)}
    return pd.DataFrame(columns)


def on_the_grid(session: pd.DataFrame, start: int) -> dict[str, Any]:
    """A window's values, a list a channel."""
    window = session[(session["time_ns"] >= start) & (session["time_ns"] < start + LENGTH_NS)]
    grid = np.arange(start, start + LENGTH_NS, STEP_NS)
    channels = [name for name in window.columns if name != "time_ns"]
    return {name: np.interp(grid, window["time_ns"], window[name]).astype(np.float32) for name in channels}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
