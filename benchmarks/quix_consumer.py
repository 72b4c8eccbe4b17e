"""The same work with Quix Streams: its hopping windows and its Parquet sink, as its documentation shows them.

Runs in an environment of its own (``benchmarks/ingest.py`` makes it); prints what :mod:`benchmarks.measures` prints.
A sample becomes a row with its own event time (``apply(expand=True)``, ``set_timestamp``), windows collect rows (``agg.Collect``) and
are emitted when they close (``final``), each is brought to the grid, and ``LocalFileSink`` writes Parquet.
"""

from __future__ import annotations

import ast
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from google.protobuf import descriptor_pool, message_factory
from quixstreams import Application
from quixstreams.dataframe.windows import aggregations as agg
from quixstreams.sinks.community.file.formats import ParquetFormat
from quixstreams.sinks.community.file.local import LocalFileSink

LENGTH_MS, HOP_MS, LATE_MS, STEP_MS = 5_000, 2_500, 10_000, 10


def main(*, servers: str, topic: str, total: int, folder: str) -> dict[str, float]:
    """Until so many batches are in windows, and what closed is in files."""
    message_type = _message_type()
    app = Application(
        broker_address=servers, consumer_group=f"quix-{time.time_ns()}", auto_offset_reset="earliest", loglevel=logging.ERROR,
        state_dir=f"{folder}/state", commit_interval=30.0,
    )  # fmt: skip
    seen = {"batches": 0, "bytes": 0, "windows": 0, "begin": 0.0, "cpu": 0.0}

    def samples(value: bytes) -> list[dict[str, Any]]:
        if not seen["batches"]:
            seen["begin"], seen["cpu"] = time.perf_counter(), time.process_time()
        seen["batches"] += 1
        seen["bytes"] += len(value)
        if seen["batches"] == total:
            app.stop()
        return rows(message_type.FromString(value))

    def window(value: dict[str, Any]) -> dict[str, Any]:
        seen["windows"] += 1
        return on_the_grid(value)

    frame = app.dataframe(app.topic(topic, value_deserializer="bytes", key_deserializer="str"))
    frame = frame.apply(samples, expand=True).set_timestamp(lambda row, *_: row["time_ms"])
    frame = frame.hopping_window(LENGTH_MS, HOP_MS, grace_ms=LATE_MS).agg(rows=agg.Collect()).final()
    frame.apply(window).sink(LocalFileSink(directory=f"{folder}/lake", format=ParquetFormat(compression="zstd")))
    app.run()
    seconds, cpu = time.perf_counter() - seen["begin"], time.process_time() - seen["cpu"]
    size = seen["bytes"] / 1e6
    return {"mb_s": size / seconds, "cpu_ms_mb": cpu * 1e3 / size, "rows": seen["windows"]}


def rows(batch: Any) -> list[dict[str, Any]]:
    """A dict a sample, all sensors together: they tick alike here, which spares Quix Streams two thirds of the rows."""
    blocks = {block.sensor[:3]: block for block in batch.blocks}
    values = np.concatenate(
        [np.frombuffer(block.values, "<f4").reshape(-1, 3) for block in blocks.values()], axis=1
    ).tolist()
    first = next(iter(blocks.values()))
    start_us, period_us = first.start_ns // 1_000, first.period_ns // 1_000
    return [{"time_ms": (start_us + i * period_us) // 1_000, "values": row} for i, row in enumerate(values)]


def on_the_grid(window: dict[str, Any]) -> dict[str, Any]:
    """A window's row: a list a channel."""
    times = np.array([row["time_ms"] for row in window["rows"]])
    values = np.array([row["values"] for row in window["rows"]], np.float32)
    grid = np.arange(window["start"], window["end"], STEP_MS)
    channels = {
        f"channel_{i}": np.interp(grid, times, values[:, i]).astype(np.float32).tolist() for i in range(values.shape[1])
    }
    return {"start_ms": window["start"], "end_ms": window["end"], "samples": len(times), **channels}


def _message_type() -> Any:
    """The batch's message type, out of the generated module without importing the package that it is in."""
    generated = Path(__file__).parents[1] / "streaming" / "sensor_batch_pb2.py"
    tree = ast.parse(generated.read_text(encoding="utf-8"))
    data = next(
        node.args[0].value for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "AddSerializedFile" and isinstance(node.args[0], ast.Constant)
    )  # fmt: skip
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(cast("bytes", data))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sensorloop.v1.SensorBatch"))


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
