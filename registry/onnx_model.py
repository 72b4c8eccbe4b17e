"""The same model as ONNX, for who serves without torch: written beside the exported program, and checked as that is.

It is written where the packages ``onnx``, ``onnxscript`` and ``onnxruntime`` are installed (``pip install "sensorloop[onnx]"``).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from registry.errors import ModelError

FILE = "model.onnx"
"""Name of the file among a model's files."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Windows [n, channels, time] → logits [n, scenes]."""


def missing() -> tuple[str, ...]:
    """Which of the packages are not installed."""
    return tuple(package for package in PACKAGES if importlib.util.find_spec(package) is None)


def export(module: torch.nn.Module, example: NDArray[np.float32], path: Path) -> None:
    """Write a module as one ONNX file that takes any number of windows.

    Args:
        module: on the CPU, in evaluation mode.
        example: at least two windows: a size of 1 would be taken for a constant.
        path: of the file.

    Raises:
        ModelError: it cannot be said in ONNX.
    """
    try:
        with _quiet():
            torch.onnx.export(
                module,
                (torch.from_numpy(example),),
                str(path),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("windows", min=1)},),
                input_names=["signals"],
                output_names=["logits"],
                external_data=False,  # one file: what lies beside it gets lost
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever its stages do
        msg = f"{type(module).__name__} cannot be exported as ONNX: {_reason(error)}"
        raise ModelError(msg) from error


def runner(path: Path) -> Run:
    """What an ONNX file computes, on the CPU.

    Raises:
        ModelError: onnxruntime does not take it.
    """
    import onnxruntime  # noqa: PLC0415  (an extra)

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it would warn of every constant that it folds
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base of their own
        msg = f"onnxruntime does not take {path}: {str(error).splitlines()[0]}"
        raise ModelError(msg) from error
    name = session.get_inputs()[0].name
    return lambda signals: np.asarray(session.run(None, {name: signals})[0], np.float32)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its stages on stdout, which is for results, and warns of its own use of torch."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first cause in one line: the exporter wraps it in advice of many."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or repr(error)).splitlines()[0]
