"""Every section of ``sensorloop.toml`` together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from dags.orchestration import AirflowSettings, CareSettings, RetrainSettings
from registry.settings import GateSettings, RegistrySettings
from streaming import config
from streaming.errors import SettingsError
from streaming.secret import reveal
from streaming.settings import BrokerSettings, IngestSettings, KafkaSettings, LakeSettings, WindowSettings
from training.settings import (
    ComputeSettings,
    DataSettings,
    FineTuneSettings,
    OriginalSettings,
    QualitySettings,
    SpectrogramSettings,
)

_CONFIG, _SERVERS = "SENSORLOOP_CONFIG", "KAFKA_BOOTSTRAP_SERVERS"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """A field a section."""

    home: Path
    """SENSORLOOP_HOME: everything of this installation is below it."""
    kafka: KafkaSettings
    broker: BrokerSettings
    windows: WindowSettings
    lake: LakeSettings
    ingest: IngestSettings
    data: DataSettings
    spectrogram: SpectrogramSettings
    original: OriginalSettings
    quality: QualitySettings
    finetune: FineTuneSettings
    compute: ComputeSettings
    registry: RegistrySettings
    gate: GateSettings
    retrain: RetrainSettings
    care: CareSettings
    airflow: AirflowSettings

    @property
    def original_folder(self) -> Path:
        """Where the original model is kept."""
        return self.home / "original"

    @property
    def runs(self) -> Path:
        """Where retraining runs keep their results, a folder for each run key."""
        return self.home / "runs"

    @property
    def ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL, password and all.

        Raises:
            SettingsError: it is not where ``[registry] ledger_url`` says.
        """
        url = self.registry.ledger_url
        return reveal(url, setting="[registry] ledger_url") if url.startswith(("env:", "file:")) else url


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings of this process: SENSORLOOP_CONFIG (or ``sensorloop.toml`` here), overridden by the environment.

    Raises:
        SettingsError: something in it is unknown or of the wrong kind, or SENSORLOOP_CONFIG names a file that is not there.
    """
    environ = os.environ if environ is None else environ
    home = Path(environ.get("SENSORLOOP_HOME", "var")).absolute()
    values = config.load(_sections(), path=_file(environ), environ=environ)
    settings = Settings(home=home, **values)
    servers = environ.get(_SERVERS) or settings.kafka.bootstrap_servers
    uri = settings.lake.uri
    return replace(
        settings,
        kafka=replace(settings.kafka, bootstrap_servers=servers or f"{settings.broker.host}:{settings.broker.port}"),
        lake=replace(settings.lake, uri=uri if "://" in uri else str(home / uri)),
        registry=settings.registry.resolved(home),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Set:
    """A setting that somebody has set."""

    value: Any
    """As it was read, before anything was resolved."""
    origin: str
    """The file, or the variable of the environment."""


def in_force(environ: Mapping[str, str] | None = None) -> dict[tuple[str, str], Set]:
    """(Section, key) → what is set, by the file or the environment, and where.

    Raises:
        SettingsError: as :func:`load`.
    """
    environ = os.environ if environ is None else environ
    path = _file(environ)
    values = config.load(_sections(), path=path, environ=environ)
    found = {
        (section, key): Set(value=getattr(values[section], key), origin=origin)
        for (section, key), origin in config.origins(_sections(), path=path, environ=environ).items()
    }
    if environ.get(_SERVERS):
        found["kafka", "bootstrap_servers"] = Set(value=environ[_SERVERS], origin=_SERVERS)
    return found


def _sections() -> dict[str, type]:
    hints = get_type_hints(Settings)
    return {field.name: hints[field.name] for field in fields(Settings) if field.name != "home"}


def _file(environ: Mapping[str, str]) -> Path:
    """The settings' file; one that was named must be there, the one of this folder need not."""
    named = environ.get(_CONFIG)
    if named and not Path(named).exists():
        msg = f"{_CONFIG} = {named}: there is no such file. Name one that is there, or unset it to use ./sensorloop.toml or the defaults."
        raise SettingsError(msg)
    return Path(named or "sensorloop.toml")


def external_kafka(settings: Settings) -> str | None:
    """The Kafka that somebody named; None if the local one is meant, and only then is one started."""
    servers = settings.kafka.bootstrap_servers
    return None if servers == f"{settings.broker.host}:{settings.broker.port}" else servers
