"""The ONNX file: it computes what was trained, MLflow knows it as its own flavour, and what computes something else is not logged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from registry import models, onnx_model
from registry.errors import LogitsDiffer, ModelError
from registry.models import log_model
from tests.registry.networks import BranchingNetwork, TinyNetwork

needs_onnx = pytest.mark.skipif(
    bool(onnx_model.missing()), reason="needs onnx, onnxscript and onnxruntime: pip install 'sensorloop[onnx]'"
)


def signals(windows: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(windows, 3, 250)).astype(np.float32)


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    return str(client.create_run(client.create_experiment("retrain")).info.run_id)


@needs_onnx
def test_it_computes_what_was_trained_for_any_number_of_windows(tmp_path: Path) -> None:
    network = TinyNetwork().eval()
    onnx_model.export(network, signals(4), tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"], "one file"
    run = onnx_model.runner(tmp_path / "model.onnx")
    for windows in (1, 2, 7, 64):
        given = signals(windows, seed=windows)
        with torch.no_grad():
            np.testing.assert_allclose(run(given), network(torch.from_numpy(given)).numpy(), atol=1e-4)


@needs_onnx
def test_it_lies_beside_the_exported_program_and_mlflow_finds_it(client: MlflowClient, run_id: str) -> None:
    import mlflow.onnx  # noqa: PLC0415  (an extra)

    logged = log_model(client, TinyNetwork(), run_id=run_id, example=signals(3))
    assert logged.onnx_difference is not None
    assert logged.onnx_difference <= 1e-4
    where = client.get_logged_model(logged.model_id).artifact_location.removeprefix("file://")
    found = mlflow.onnx.load_model(where)
    assert [each.name for each in found.graph.input] == ["signals"]


@needs_onnx
def test_one_that_computes_something_else_is_not_logged(
    client: MlflowClient, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the exporter had left something out: the file is of a network with other weights."""
    real = onnx_model.export
    monkeypatch.setattr(models.onnx_model, "export", lambda _, *rest: real(TinyNetwork(seed=1).eval(), *rest))
    with pytest.raises(LogitsDiffer, match="The ONNX TinyNetwork differs from the trained one"):
        log_model(client, TinyNetwork(), run_id=run_id, example=signals(3))
    assert client.search_logged_models([client.get_run(run_id).info.experiment_id]) == []


@needs_onnx
def test_what_cannot_be_said_in_onnx_and_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="BranchingNetwork cannot be exported as ONNX"):
        onnx_model.export(BranchingNetwork().eval(), signals(2), tmp_path / "model.onnx")
    (tmp_path / "none.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"onnxruntime does not take .*none\.onnx"):
        onnx_model.runner(tmp_path / "none.onnx")


def test_without_its_packages_the_exported_program_is_logged_alone(
    client: MlflowClient, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_model, "missing", lambda: ("onnxruntime",))
    logged = log_model(client, TinyNetwork(), run_id=run_id, example=signals(3))
    assert logged.onnx_difference is None
    where = Path(client.get_logged_model(logged.model_id).artifact_location.removeprefix("file://"))
    assert not (where / onnx_model.FILE).exists()
    assert "onnx" not in (where / "MLmodel").read_text(encoding="utf-8")
