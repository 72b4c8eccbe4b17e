"""Versions, aliases and tags in a real model registry; the double in memory must behave the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from registry.errors import MlflowUnavailable, ModelNotFound, TrackingError
from registry.registered import MlflowVersions
from registry.versions import Alias, Status, Tag, VersionStore
from tests.fakes.versions import MemoryVersions

NAME = "scene-recogniser"


class Real:
    """A registered model in MLflow, filled the way the double is."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.store = MlflowVersions(client, NAME)
        self.experiment = client.create_experiment("models")

    def logged(self) -> LoggedModel:
        run = self.client.create_run(self.experiment)
        return self.client.create_logged_model(self.experiment, name="model", source_run_id=run.info.run_id)

    def register(self, **tags: str) -> str:
        model = self.logged()
        number = len(self.store.versions()) + 1
        return self.store.register(
            source=model.model_uri,
            model_id=model.model_id,
            run_id=model.source_run_id,
            description=f"Model {number}.",
            tags={"run_key": f"key{number}", "lake_version": "17", **tags},
        ).version

    def delete(self, version: str) -> None:
        self.client.delete_model_version(NAME, version)


Pair = tuple[VersionStore, Callable[[], str], Callable[[str], None]]


@pytest.fixture(params=["mlflow", "memory"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """A store, and how to register and delete in it."""
    if request.param == "memory":
        memory = MemoryVersions(NAME)
        return memory, memory.register, memory.delete
    real = Real(request.getfixturevalue("client"))
    return real.store, real.register, real.delete


def test_nothing_registered_yet(pair: Pair) -> None:
    store, _, _ = pair
    assert store.name == NAME
    assert store.versions() == ()
    assert store.alias(Alias.CHAMPION) is None
    store.unpoint(Alias.CHAMPION)
    with pytest.raises(ModelNotFound, match="version 1"):
        store.version("1")
    with pytest.raises(ModelNotFound):
        store.tag("1", {"a": "b"})
    with pytest.raises(ModelNotFound):
        store.point(Alias.CHAMPION, "1")


def test_versions_with_tags_and_aliases(pair: Pair) -> None:
    store, register, _ = pair
    assert [register(), register()] == ["1", "2"]
    store.tag("2", {Tag.STATUS: Status.PASSED.value, Tag.VERDICT: "Good.\nVery."})
    store.point(Alias.CHAMPION, "2")
    store.point(Alias.CHALLENGER, "2")
    store.point(Alias.ORIGINAL, "1")
    first, second = store.versions()
    assert (first.aliases, second.aliases) == (("original",), ("challenger", "champion"))
    assert second == store.version("2")
    assert second.tags["validation_status"] == "passed"
    assert second.tags["verdict"] == "Good.\nVery."
    assert second.tags["run_key"] == "key2"
    assert second.description == "Model 2."
    assert store.alias(Alias.CHAMPION) == "2"
    store.point(Alias.CHAMPION, "1")
    assert store.alias("champion") == "1"
    store.unpoint(Alias.CHAMPION)
    store.unpoint(Alias.CHAMPION)
    assert store.alias(Alias.CHAMPION) is None


def test_a_deleted_version_takes_its_alias_away(pair: Pair) -> None:
    store, register, delete = pair
    register(), register()
    store.point(Alias.CHAMPION, "1")
    delete("1")
    assert store.alias(Alias.CHAMPION) is None
    assert [version.version for version in store.versions()] == ["2"]
    with pytest.raises(ModelNotFound, match="deleted"):
        store.version("1")


@pytest.mark.parametrize("version", ["0", "x", "-1", "7"])
def test_no_such_version(client: MlflowClient, version: str) -> None:
    real = Real(client)
    real.register()
    with pytest.raises(ModelNotFound):
        real.store.version(version)
    with pytest.raises(ModelNotFound):
        real.store.point(Alias.CHAMPION, version)


def test_registering_the_same_twice_makes_one_version(client: MlflowClient) -> None:
    real = Real(client)
    model, again = real.logged(), real.logged()

    def register(what: LoggedModel, policy: str, key: str = "k") -> str:
        tags = {Tag.RUN_KEY: key, Tag.POLICY: policy}
        return real.store.register(
            source=what.model_uri, model_id=what.model_id, run_id=what.source_run_id, description="", tags=tags,
            alias=Alias.CHALLENGER,
        ).version  # fmt: skip

    assert register(model, "filterloss") == "1"
    assert register(model, "filterloss") == "1"
    assert (
        register(again, "filterloss") == "1"
    )  # trained twice with the same key, after a kill before the first was noted
    assert register(again, "plain") == "2"
    assert real.store.alias(Alias.CHALLENGER) == "2"
    assert real.store.version("1").tags["validation_status"] == "pending"


def test_what_a_run_key_and_policy_became_is_found(client: MlflowClient) -> None:
    real = Real(client)
    assert real.store.find(run_key="k", policy="plain") is None
    versions = [real.register(run_key="k", policy="plain"), real.register(run_key="k", policy="filterloss")]
    found = [real.store.find(run_key="k", policy=policy) for policy in ("plain", "filterloss")]
    assert [version.version for version in found if version] == versions
    assert real.store.find(run_key="k", policy=None) is None
    assert real.store.find(run_key="other", policy="plain") is None


def test_an_alias_that_mlflow_keeps_for_itself(client: MlflowClient) -> None:
    real = Real(client)
    real.register()
    with pytest.raises((TrackingError, ModelNotFound)):
        real.store.point("latest", "1")


def test_more_versions_than_a_page(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.registered._PAGE", 2)
    real = Real(client)
    for _ in range(5):
        real.register()
    assert [version.version for version in real.store.versions()] == ["1", "2", "3", "4", "5"]


def test_a_model_that_is_gone_is_no_version(client: MlflowClient) -> None:
    real = Real(client)
    with pytest.raises((TrackingError, MlflowUnavailable), match="register"):
        real.store.register(source="models:/m-none", model_id="m-none", run_id="r", description="", tags={})
    assert real.store.versions() == ()
