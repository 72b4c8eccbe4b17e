"""The simulated fleet: people with phones in eight scenes, and what their phones record of it."""

from streaming.fleet.manifest import FleetManifest, FleetPerson, FleetSession, read_manifest
from streaming.fleet.scenes import SCENES
from streaming.fleet.settings import FleetSettings, source_fleet, target_fleet
from streaming.fleet.simulate import simulate

__all__ = [
    "SCENES",
    "FleetManifest",
    "FleetPerson",
    "FleetSession",
    "FleetSettings",
    "read_manifest",
    "simulate",
    "source_fleet",
    "target_fleet",
]
