"""Prometheus and Grafana: what they ask for is what our processes have, under that name and with those labels."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from streaming.metrics import Metrics
from tests.docker.cluster import DOCKER, services

BOARD = json.loads((DOCKER / "grafana" / "dashboards" / "ingestion.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
PROMETHEUS = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
ALERTS = [
    rule
    for group in yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
EXPRESSIONS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
EXPRESSIONS += [(rule["alert"], rule["expr"]) for rule in ALERTS]
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
_OF_PROMETHEUS = {"instance", "job", "le"}


def _metrics() -> dict[str, set[str]]:
    """Name as Prometheus stores it → its labels."""
    found = {"up": {"job"}}
    registry = Metrics().registry
    labels = {
        name: set(collector._labelnames) for collector, names in registry._collector_to_names.items() for name in names
    }
    for family in registry.collect():
        for suffix in _SUFFIXES[family.type]:
            found[family.name + suffix] = labels[family.name + suffix]
    return found


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_every_metric_that_is_asked_for_exists(where: str, expression: str) -> None:
    known = _metrics()
    asked = re.findall(r"\b(sensorloop_\w+|up(?=\{))", expression)
    assert asked, "asks for nothing of ours"
    for name in asked:
        assert name in known, f"{where}: nobody serves {name}"
    for labels in re.findall(r"\bby \(([\w, ]+)\)", expression):
        for label in labels.split(", "):
            assert label in _OF_PROMETHEUS or all(label in known[name] for name in asked), f"{where}: no label {label}"
    # A counter as it is only says when a process began; a rate of a gauge says nothing.
    for name in asked:
        if name.endswith("_total"):
            assert re.search(rf"(rate|increase)\({name}\[", expression), f"{where}: {name} is a counter"
        else:
            assert not re.search(rf"(rate|increase)\({name}\[", expression) or name.endswith("_bucket"), (
                f"{where}: {name} is a gauge"
            )


def test_every_legend_names_a_label() -> None:
    known = _metrics()
    for panel in PANELS:
        for target in panel["targets"]:
            asked = re.findall(r"\b(sensorloop_\w+|up(?=\{))", target["expr"])
            by = {label for some in re.findall(r"\bby \(([\w, ]+)\)", target["expr"]) for label in some.split(", ")}
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                aggregated = re.match(r"(sum|min|max|histogram_quantile)\b", target["expr"])
                assert label in (by if aggregated else known[asked[0]] | _OF_PROMETHEUS), f"{panel['title']}: {label}"


def test_panels_are_told_apart_and_explained() -> None:
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_prometheus_asks_who_listens() -> None:
    jobs: dict[str, Any] = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
    (found,) = jobs["ingest"]["dns_sd_configs"]
    for name in found["names"]:
        assert found["port"] in services()[name].ports
    for target in jobs["prometheus"]["static_configs"][0]["targets"]:
        assert int(target.removeprefix("localhost:")) in services()["prometheus"].ports
    (configured,) = [word for word in services()["prometheus"].command if word.startswith("--config.file=")]
    folder = configured.removeprefix("--config.file=").rpartition("/")[0]
    assert services()["prometheus"].files[folder] == DOCKER / "prometheus"
    for name in PROMETHEUS["rule_files"]:
        assert (DOCKER / "prometheus" / name).exists()
    (kept,) = [word for word in services()["prometheus"].command if word.startswith("--storage.tsdb.path=")]
    assert kept.removeprefix("--storage.tsdb.path=") in services()["prometheus"].volumes


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    provisioning = DOCKER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text("utf-8"))["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert int(port) in services()[host].ports
    assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == {source["uid"]}
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "sensorloop.yaml").read_text("utf-8"))["providers"]
    grafana = services()["grafana"]
    assert grafana.files[provider["options"]["path"]] == DOCKER / "grafana" / "dashboards"
    assert grafana.files["/etc/grafana/provisioning"] == provisioning
    home = grafana.environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DOCKER / "grafana" / "dashboards" / home.rpartition("/")[2]).exists()


def test_every_alert_is_explained_where_it_says() -> None:
    text = (DOCKER.parent / "docs" / "operations.md").read_text(encoding="utf-8")
    for rule in ALERTS:
        assert rule["annotations"].keys() == {"summary"}
        assert rule["annotations"]["summary"].endswith(".")
        assert f"`{rule['alert']}`" in text, rule["alert"]
