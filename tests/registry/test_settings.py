"""Settings that fill themselves in, those that cannot, and what may be imported without waiting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from registry.errors import RegistrySettingsError
from registry.settings import RegistrySettings


def test_the_local_server_is_the_default(tmp_path: Path) -> None:
    settings = RegistrySettings(port=25123)
    assert settings.is_local
    resolved = settings.resolved(tmp_path)
    assert resolved.tracking_uri == "http://127.0.0.1:25123"
    assert resolved.ledger_url == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert resolved.is_local
    assert resolved.resolved(tmp_path) == resolved


def test_another_server_needs_a_ledger_beside_it(tmp_path: Path) -> None:
    with pytest.raises(RegistrySettingsError, match="ledger_url"):
        RegistrySettings(tracking_uri="https://mlflow.example").resolved(tmp_path)
    settings = RegistrySettings(tracking_uri="https://mlflow.example", ledger_url="postgresql+psycopg://db/mlflow")
    assert settings.resolved(tmp_path) == settings
    assert not settings.is_local


def test_a_webhook_needs_a_secret(tmp_path: Path) -> None:
    with pytest.raises(RegistrySettingsError, match="webhook_secret is not"):
        RegistrySettings(webhook_url="https://chat.example/hook").resolved(tmp_path)
    RegistrySettings(webhook_url="https://chat.example/hook", webhook_secret="env:HOOK").resolved(tmp_path)


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("registry.settings, registry.gate", "mlflow torch sqlalchemy pandas"),
        ("registry.server, registry.versions, registry.account", "mlflow torch sqlalchemy pandas"),
        ("registry.promotion, registry.ledger", "mlflow torch pandas"),
        ("registry.registered, registry.tracker", "torch matplotlib"),
    ],
)
def test_what_is_light_stays_light(modules: str, heavy: str) -> None:
    code = f"import sys, {modules}; print([name for name in {heavy.split()} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
