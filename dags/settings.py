"""Every section of ``sensorloop.toml`` together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import get_type_hints

from dags.orchestration import AirflowSettings, RetrainSettings
from registry.settings import GateSettings, RegistrySettings
from streaming import config
from streaming.settings import BrokerSettings, IngestSettings, KafkaSettings, LakeSettings, WindowSettings
from training.settings import DataSettings, FineTuneSettings, OriginalSettings, QualitySettings, SpectrogramSettings


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
    registry: RegistrySettings
    gate: GateSettings
    retrain: RetrainSettings
    airflow: AirflowSettings

    @property
    def original_folder(self) -> Path:
        """Where the original model is kept."""
        return self.home / "original"

    @property
    def runs(self) -> Path:
        """Where retraining runs keep their results, a folder for each run key."""
        return self.home / "runs"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings of this process: SENSORLOOP_CONFIG (or ``sensorloop.toml`` here), overridden by the environment.

    Raises:
        SettingsError: something in it is unknown or of the wrong kind.
    """
    environ = os.environ if environ is None else environ
    home = Path(environ.get("SENSORLOOP_HOME", "var")).absolute()
    hints = get_type_hints(Settings)
    sections = {field.name: hints[field.name] for field in fields(Settings) if field.name != "home"}
    values = config.load(sections, path=Path(environ.get("SENSORLOOP_CONFIG", "sensorloop.toml")), environ=environ)
    settings = Settings(home=home, **values)
    servers = environ.get("KAFKA_BOOTSTRAP_SERVERS") or settings.kafka.bootstrap_servers
    uri = settings.lake.uri
    return replace(
        settings,
        kafka=replace(settings.kafka, bootstrap_servers=servers or f"{settings.broker.host}:{settings.broker.port}"),
        lake=replace(settings.lake, uri=uri if "://" in uri else str(home / uri)),
        registry=settings.registry.resolved(home),
    )


def external_kafka(settings: Settings) -> str | None:
    """The Kafka that somebody named; None if the local one is meant, and only then is one started."""
    servers = settings.kafka.bootstrap_servers
    return None if servers == f"{settings.broker.host}:{settings.broker.port}" else servers
