"""The sensor catalogue: names, axes, units and the channels they become.

Names and units are those of the SHL data set (Gjoreski et al., 2018, "The University of Sussex-Huawei Locomotion and
Transportation Dataset"), signs those of Android.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensor:
    """One kind of sensor, as it is named on the wire, in recordings and in the lake."""

    name: str
    """Name on the wire and in recordings."""
    prefix: str
    """Start of its channel and column names in the lake."""
    axes: tuple[str, ...]
    """Axis names in the order of the values; a scalar sensor has the one axis ``x``."""
    unit: str
    """SI-style unit of the values."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names in the lake: ``acc_x``; a scalar sensor's channel is its prefix alone."""
        return (self.prefix,) if len(self.axes) == 1 else tuple(f"{self.prefix}_{axis}" for axis in self.axes)


_XYZ = ("x", "y", "z")

SENSORS = MappingProxyType(
    {
        sensor.name: sensor
        for sensor in (
            Sensor(name="accelerometer", prefix="acc", axes=_XYZ, unit="m/s²"),
            Sensor(name="gyroscope", prefix="gyr", axes=_XYZ, unit="rad/s"),
            Sensor(name="magnetometer", prefix="mag", axes=_XYZ, unit="µT"),
            Sensor(name="linear_acceleration", prefix="lac", axes=_XYZ, unit="m/s²"),
            Sensor(name="gravity", prefix="gra", axes=_XYZ, unit="m/s²"),
            Sensor(name="pressure", prefix="pre", axes=("x",), unit="hPa"),
        )
    }
)
"""Every sensor that is known, by name."""


def channel_names(sensors: Iterable[str]) -> tuple[str, ...]:
    """The channels of these sensors, in order.

    Raises:
        KeyError: a name is not in :data:`SENSORS`.
    """
    return tuple(channel for name in sensors for channel in SENSORS[name].channels)
