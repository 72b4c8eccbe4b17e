"""Log a PyTorch model so that anybody with torch and MLflow can load it, and load it again.

What is logged is the exported program (``torch.export``, MLflow's ``pt2`` format): a graph of torch's own operators and raw
tensors. Loading it runs none of our code and unpickles nothing. Beside it lies the same as ONNX (:mod:`registry.onnx_model`).
Before it is logged, each is loaded the way a user would, and must compute what the trained model does.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
import timeit
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.entities.logged_model_status import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

from registry import onnx_model
from registry.connection import mlflow_errors
from registry.errors import LogitsDiffer, ModelError
from registry.versions import Tag, Version

with warnings.catch_warnings():
    # MLflow, on the type hints of its own classes, when it is imported.
    warnings.filterwarnings("ignore", message=".*type hint is inferred as AnyType")
    from mlflow.pyfunc import PyFuncModel
    from mlflow.pyfunc import load_model as load_pyfunc
    from mlflow.pytorch import save_model as save_pytorch

_CALLS = 10
_log = logging.getLogger(__name__)

Signals = NDArray[np.float32]
"""Windows: [n, channels, time], in the channels' units."""
Logits = NDArray[np.float32]
"""[n, scenes], in the order of the model's scenes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedModel:
    """A model in MLflow, not registered yet."""

    model_id: str
    """MLflow's id."""
    uri: str
    """``models:/<id>``: what a version is made of."""
    run_id: str
    """The run that trained it."""
    largest_difference: float
    """Between a logit of the trained and of the exported model, over all sizes of batch that were tried."""
    onnx_difference: float | None
    """The same of the ONNX file; None where there is none."""
    latency_s: float
    """Seconds that the exported model takes for one window on one thread: the fastest of several calls."""
    size_mb: float
    """10⁶ bytes of the exported model with its description; what else was logged with it does not count."""

    @property
    def tags(self) -> dict[str, str]:
        """What a version of it is tagged with, for the gate and for people."""
        return {Tag.LATENCY: f"{1000 * self.latency_s:.2f}", Tag.SIZE: f"{self.size_mb:.2f}"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A registered model, ready to be asked."""

    version: Version
    """What was loaded."""
    metadata: Mapping[str, Any]
    """What was logged with it: scenes, channels and whatever else its trainer said."""
    files: Path
    """Folder of the files logged with it; it lives as long as its caller lets it."""
    model: PyFuncModel

    def predict(self, signals: Signals) -> Logits:
        """Logits of windows.

        Args:
            signals: [n, channels, time], float32.

        Raises:
            ModelError: the signals do not have the shape or type that the model was trained on.
        """
        try:
            return np.asarray(self.model.predict(signals), dtype=np.float32)
        except MlflowException as error:
            signature = self.model.metadata.signature
            takes = signature.inputs if signature else "other signals"
            msg = f"Version {self.version.version} takes {takes}, not signals of shape {signals.shape}, {signals.dtype}"
            raise ModelError(msg) from error


def log_model(
    client: MlflowClient,
    module: torch.nn.Module,
    *,
    run_id: str,
    example: Signals,
    name: str = "model",
    metadata: Mapping[str, Any] | None = None,
    files: Sequence[Path] = (),
    metrics: Mapping[str, float] | None = None,
    tolerance: float = 1e-4,
) -> LoggedModel:
    """Export a model, check it, and log it with the run that trained it.

    Args:
        client: of the server that has the run.
        module: takes signals [n, channels, time] float32 and returns logits [n, scenes]; any n. It is not changed.
        run_id: the run that trained it.
        example: windows to trace and check it with, and to show users what it takes; a few are enough.
        name: shown in MLflow.
        metadata: goes with the model; anything that JSON can say. Scenes and channels belong here.
        files: go with the model, for whoever trains on (a state dict, settings).
        metrics: shown on the model's page.
        tolerance: largest difference of a logit.

    Raises:
        ModelError: the model cannot be exported.
        LogitsDiffer: the exported model computes something else; nothing has been logged.
        TrackingError: MLflow refused, or does not answer.
    """
    module = copy.deepcopy(module).to("cpu").eval()
    example = _checked(example)
    expected = _logits(module, example)
    with tempfile.TemporaryDirectory(prefix="sensorloop-model-") as scratch:
        folder = Path(scratch) / "model"
        with mlflow_errors(f"log a model of run {run_id}"):
            run = client.get_run(run_id)
            description = Model(run_id=run_id, metadata=dict(metadata or {}))
            _save(module, folder, example, expected, description, files)
            exported = load_pyfunc(str(folder))
            difference = _largest_difference(module, exported.predict, example, tolerance, "exported")
            latency_s, size_mb = _latency(exported.predict, example), _size_mb(folder)
            onnx_difference = _add_onnx(module, folder, example, tolerance, description)
            logged = client.create_logged_model(
                run.info.experiment_id, name, source_run_id=run_id, model_type="classifier"
            )
            try:
                description.model_id = description.model_uuid = logged.model_id
                description.artifact_path = logged.artifact_location
                description.save(str(folder / "MLmodel"))
                client.log_model_artifacts(logged.model_id, str(folder))
                client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
                measured = {"latency_ms": 1000 * latency_s, "size_mb": size_mb}
                client.log_batch(run_id, metrics=_model_metrics({**(metrics or {}), **measured}, run_id, logged))
            except BaseException:
                client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
                raise
            client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return LoggedModel(
        model_id=logged.model_id, uri=f"models:/{logged.model_id}", run_id=run_id, largest_difference=difference,
        onnx_difference=onnx_difference, latency_s=latency_s, size_mb=size_mb,
    )  # fmt: skip


def load_model(client: MlflowClient, version: Version, folder: Path) -> LoadedModel:
    """Fetch a registered version and load it on the CPU.

    Args:
        client: of the server that has it.
        version: which.
        folder: where its files are put; the same version of the same registered model is not fetched twice into the same folder.

    Raises:
        ModelError: it is not there any more, or cannot be loaded.
        TrackingError: MLflow refused, or does not answer.
    """
    there = folder / version.identity
    if not there.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Fetched beside and then renamed: a fetch that was killed leaves nothing that looks like a model.
        with tempfile.TemporaryDirectory(dir=folder) as scratch, mlflow_errors(f"fetch {version.source}"):
            fetched = _fetched(client, version, Path(scratch))
            with contextlib.suppress(OSError):  # somebody else has fetched it meanwhile
                fetched.rename(there)
    try:
        model = load_pyfunc(str(there), model_config={"device": "cpu"})
    except Exception as error:
        msg = f"Version {version.version} in {there} cannot be loaded: {error}"
        raise ModelError(msg) from error
    metadata = model.metadata.metadata or {}
    return LoadedModel(version=version, metadata=metadata, files=there / "extra_files", model=model)


def _fetched(client: MlflowClient, version: Version, scratch: Path) -> Path:
    """The files of a version, in ``scratch`` or a folder of it."""
    gone = (
        f"Version {version.version} has no files at {version.source} any more. Restore them, or put another version in its place: "
        "'sensorloop registry rollback --to VERSION'."
    )
    try:
        found = download_artifacts(
            artifact_uri=_files_at(client, version.source), dst_path=str(scratch), tracking_uri=client.tracking_uri
        )
    except MlflowException as error:
        if "No such artifact" in error.message:
            raise ModelError(gone) from error
        raise
    if not (Path(found) / "MLmodel").exists():
        raise ModelError(gone)
    return Path(found)


def _files_at(client: MlflowClient, source: str) -> str:
    """Where the files of a version are. What MLflow 3.17 does with ``models:/m-…`` asks the process's own MLflow, not the client's."""
    logged = source.removeprefix("models:/")
    if logged == source or not logged.startswith("m-"):
        return source
    return str(client.get_logged_model(logged).artifact_location)


def _checked(example: Signals) -> Signals:
    if example.ndim != 3 or example.dtype != np.float32 or not len(example):
        msg = f"The example must be signals [n, channels, time] in float32 with n ≥ 1; got {example.shape}, {example.dtype}"
        raise ModelError(msg)
    # torch.export takes a size of 1 for a constant: a model traced with one window would only ever take one.
    return example if len(example) > 1 else np.concatenate([example, example])


def _save(
    module: torch.nn.Module,
    folder: Path,
    example: Signals,
    logits: Logits,
    description: Model,
    files: Sequence[Path],
) -> None:
    signature = ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        outputs=Schema([TensorSpec(logits.dtype, (-1, *logits.shape[1:]))]),
    )
    packages = [f"{package}=={installed(package).partition('+')[0]}" for package in ("mlflow", "torch", "numpy")]
    environment = {
        "name": "sensorloop-model",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python_version()}", "pip", {"pip": packages}],
    }
    try:
        with _quiet():
            save_pytorch(
                module,
                str(folder),
                mlflow_model=description,
                signature=signature,
                input_example=example,
                conda_env=environment,
                extra_files=[str(file) for file in files],
                serialization_format="pt2",
            )
    except Exception as error:  # torch.export raises whatever the module's own code does
        msg = f"{type(module).__name__} cannot be exported: {(str(error) or repr(error)).splitlines()[0]}"
        raise ModelError(msg) from error
    # MLflow would put it on a GPU where there is one, and an exported program stays where it was exported.
    description.flavors["python_function"]["config"] = {"device": "cpu"}
    description.save(str(folder / "MLmodel"))


def _add_onnx(
    module: torch.nn.Module, folder: Path, example: Signals, tolerance: float, description: Model
) -> float | None:
    """The same as ONNX, with what MLflow's own ``onnx`` flavour needs to find it; None where its packages are not installed."""
    if missing := onnx_model.missing():
        _log.info("Not written as ONNX: install %s", ", ".join(missing))
        return None
    file = folder / onnx_model.FILE
    onnx_model.export(module, example, file)
    difference = _largest_difference(module, onnx_model.runner(file), example, tolerance, "ONNX")
    description.add_flavor(
        "onnx", onnx_version=installed("onnx"), data=onnx_model.FILE, providers=["CPUExecutionProvider"], code=None
    )
    description.save(str(folder / "MLmodel"))
    return difference


def _largest_difference(
    module: torch.nn.Module, predict: Callable[[Signals], Any], example: Signals, tolerance: float, kind: str
) -> float:
    largest = 0.0
    for size in sorted({1, 2, len(example), len(example) + 1}):
        signals = np.resize(example, (size, *example.shape[1:]))
        difference = float(np.max(np.abs(np.asarray(predict(signals)) - _logits(module, signals))))
        if not difference <= tolerance:  # also if it is NaN
            msg = (
                f"The {kind} {type(module).__name__} differs from the trained one by {difference:g} in a logit, for {size} "
                f"windows; allowed is [registry] logits_tolerance = {tolerance:g}. It has not been logged."
            )
            raise LogitsDiffer(msg)
        largest = max(largest, difference)
    return largest


def _latency(predict: Callable[[Signals], Any], example: Signals) -> float:
    """Seconds for one window on one thread. The fastest call is the model's own; the others are what else the machine did."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return min(timeit.repeat(lambda: predict(example[:1]), number=1, repeat=_CALLS))
    finally:
        torch.set_num_threads(before)


def _size_mb(folder: Path) -> float:
    extra = folder / "extra_files"
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and extra not in file.parents) / 1e6


def _logits(module: torch.nn.Module, signals: Signals) -> Logits:
    with torch.no_grad():
        logits: Logits = module(torch.from_numpy(signals)).numpy()
    return logits


def _model_metrics(metrics: Mapping[str, float], run_id: str, logged: Any) -> list[Metric]:
    return [
        Metric(key, value, logged.creation_timestamp, 0, model_id=logged.model_id, run_id=run_id)
        for key, value in metrics.items()
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # torch, on a weight that is a view (a window function in a buffer): it is on the CPU, so nothing is amiss.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        yield
