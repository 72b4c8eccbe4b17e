"""The versions of a registered model, in MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from registry.connection import ALREADY_EXISTS, NOT_FOUND, as_ours, mlflow_errors
from registry.errors import ModelNotFound
from registry.versions import Status, Tag, Version

_INVALID = "INVALID_PARAMETER_VALUE"
_PAGE = 1000
_DESCRIPTION = (
    "Recognises the scene of a phone from a few seconds of its inertial signals. Alias `champion` serves, `original` is what "
    "recovery is measured from. Champions change through the ledger; see the tags of each version for what the gate found."
)


class MlflowVersions:
    """A :class:`~registry.versions.VersionStore` over MLflow's model registry.

    Args:
        client: of the server that holds the model.
        name: of the registered model.
    """

    def __init__(self, client: MlflowClient, name: str) -> None:
        self._client = client
        self._name = name

    @property
    def name(self) -> str:
        """Name of the registered model."""
        return self._name

    def register(
        self,
        *,
        source: str,
        model_id: str,
        run_id: str,
        description: str,
        tags: Mapping[str, str],
        alias: str | None = None,
    ) -> Version:
        """Make a version of a logged model. Repeatable: a logged model is registered once, and so is a run key with a policy.

        Args:
            source: URI of the logged model.
            model_id: its id.
            run_id: the run that trained it.
            description: shown on the version's page, Markdown.
            tags: see :class:`~registry.versions.Tag`; ``validation_status`` is ``pending`` unless given.
            alias: points to the version from now on: ``original`` or ``challenger``.

        Raises:
            TrackingError: MLflow refused, or does not answer.
        """
        tags = {Tag.STATUS.value: Status.PENDING.value, **{str(key): value for key, value in tags.items()}}
        with mlflow_errors(f"register a version of {self._name}"):
            self._ensure()
            version = self._registered(source, tags)
            if version is None:
                version = self._client.create_model_version(
                    self._name, source, run_id=run_id, tags=tags, description=description, model_id=model_id
                ).version
            if alias is not None:
                self._client.set_registered_model_alias(self._name, alias, str(version))
        return self.version(str(version))

    def versions(self) -> tuple[Version, ...]:
        """Every version, oldest first; empty if the model has not been registered."""
        found: list[ModelVersion] = []
        token: str | None = None
        with mlflow_errors(f"list the versions of {self._name}"):
            while True:
                page = self._client.search_model_versions(f"name='{self._name}'", max_results=_PAGE, page_token=token)
                found.extend(page)
                if not (token := page.token):
                    break
            aliases = self._aliases() if found else {}
        return tuple(_version(version, aliases) for version in sorted(found, key=lambda version: int(version.version)))

    def find(self, *, run_key: str, policy: str | None) -> Version | None:
        """The version of a run key with a policy, the newest if there are several; None if there is none."""
        same = [version for version in self.versions() if _trained_as(version, run_key, policy)]
        return same[-1] if same else None

    def version(self, version: str) -> Version:
        """One version.

        Raises:
            ModelNotFound: there is none, or it has been deleted.
        """
        with self._missing(f"find version {version}", version):
            found = self._client.get_model_version(self._name, version)
            return _version(found, dict.fromkeys(found.aliases, version))

    def alias(self, alias: str) -> str | None:
        """The version an alias points to; None if it points nowhere."""
        try:
            return str(self._client.get_model_version_by_alias(self._name, alias).version)
        except MlflowException as error:
            # An alias that does not exist is an invalid parameter to MLflow, a model that does not exist is not found.
            if error.error_code in {NOT_FOUND, _INVALID}:
                return None
            raise as_ours(error, f"look up alias {alias} of {self._name}") from error

    def point(self, alias: str, version: str) -> None:
        """Let an alias point to a version.

        Raises:
            ModelNotFound: there is no such version.
        """
        with self._missing(f"point alias {alias} to version {version}", version):
            self._client.set_registered_model_alias(self._name, alias, version)

    def unpoint(self, alias: str) -> None:
        """Take an alias away; no error if it points nowhere."""
        try:
            self._client.delete_registered_model_alias(self._name, alias)
        except MlflowException as error:
            if error.error_code != NOT_FOUND:
                raise as_ours(error, f"take alias {alias} of {self._name} away") from error

    def tag(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version, one after the other.

        Raises:
            ModelNotFound: there is no such version.
        """
        with self._missing(f"tag version {version}", version):
            for key, value in tags.items():
                self._client.set_model_version_tag(self._name, version, str(key), value)

    def _ensure(self) -> None:
        try:
            self._client.create_registered_model(self._name, description=_DESCRIPTION)
        except MlflowException as error:
            if error.error_code != ALREADY_EXISTS:
                raise

    def _aliases(self) -> dict[str, str]:
        """Alias → version. A search leaves the aliases of what it finds empty, when MLflow is on a database."""
        return {alias: str(version) for alias, version in self._client.get_registered_model(self._name).aliases.items()}

    def _registered(self, source: str, tags: Mapping[str, str]) -> str | None:
        """The version that an earlier call, perhaps killed before it could answer, has made of the same model."""
        key, policy = tags.get(Tag.RUN_KEY), tags.get(Tag.POLICY)
        same = [version for version in self.versions() if version.source == source or _trained_as(version, key, policy)]
        return same[-1].version if same else None

    @contextmanager
    def _missing(self, doing: str, version: str) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            if error.error_code in {NOT_FOUND, _INVALID}:  # a number that is none is an invalid parameter to MLflow
                msg = f"{self._name} has no version {version}, or it has been deleted in MLflow"
                raise ModelNotFound(msg) from error
            raise as_ours(error, f"{doing} of {self._name}") from error


def _trained_as(version: Version, run_key: str | None, policy: str | None) -> bool:
    tags = version.tags
    return run_key is not None and tags.get(Tag.RUN_KEY) == run_key and tags.get(Tag.POLICY) == policy


def _version(found: ModelVersion, aliases: Mapping[str, str]) -> Version:
    return Version(
        name=found.name,
        version=str(found.version),
        run_id=found.run_id or None,
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, tz=UTC),
        description=found.description or "",
        tags=dict(found.tags),
        aliases=tuple(sorted(alias for alias, version in aliases.items() if version == str(found.version))),
        source=found.source or "",
    )
