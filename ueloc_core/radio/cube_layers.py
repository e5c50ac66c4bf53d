"""The layers of a radio map's cube: names, units, ranges, and the step in which each is stored.

Each step loses less than what limits the value anyway: rounding to a step q is an error of
standard deviation q / sqrt(12). No layer needs an offset, for zero lies in every range.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DIMS = ("sector", "y", "x")


@dataclass(frozen=True)
class Layer:
    """One stored quantity of every sector and grid cell.

    Attributes
    ----------
    name, units, long_name
        As in the store; units as UDUNITS spells them.
    dtype
        Integer type in the store.
    step
        Value of one stored unit, in `units`; None for counts, which are stored as they are.
    lowest, highest
        Valid range, both ends included.
    reason
        Why the step is fine enough.
    period
        Values that differ by it are the same (360 for azimuths), or None.
    """

    name: str
    units: str
    long_name: str
    dtype: str
    step: float | None
    lowest: float
    highest: float
    reason: str
    period: float | None = None

    @property
    def fill(self) -> int | None:
        """Stored where the value is unknown: the end of the integer type that no value takes."""
        info = np.iinfo(self.dtype)
        if self.step is None:
            return None
        return int(info.min if info.min < 0 else info.max)

    @property
    def read_dtype(self) -> np.dtype[Any]:
        """Type of the values that readers get."""
        return np.dtype(self.dtype if self.step is None else np.float32)


_GAIN = (
    "0.006 dB of rounding; two ray sets differ by more in 93% of the grid cells of Helsinki that "
    "are above -120 dBm, and levels are reported in steps of 1 dB (TS 38.133, 10.1.6)"
)
_DELAY = (
    "Tc, the finest step of reported arrival times, is 0.509 ns (TS 38.211, 4.1); the width of a "
    "4 m grid cell alone spreads delays by 3.9 ns; up to 32.7 us, or 9.8 km"
)
_ANGLE = (
    "the step of reported angles of arrival (UL-AoA, TS 38.133); 0.2 m across at 100 m, far "
    "below a grid cell"
)


def _delay(name: str, long_name: str) -> Layer:
    return Layer(name, "ns", long_name, "uint16", 0.5, 0, 32_000, _DELAY)


def _angle(name: str, long_name: str, highest: float = 180, period: float | None = None) -> Layer:
    return Layer(name, "degree", long_name, "int16", 0.1, 0, highest, _ANGLE, period)


_ALL_LAYERS = (
    Layer(
        name="path_gain_db",
        units="dB",
        long_name="local mean path gain to an isotropic receiver",
        dtype="int16",
        step=0.02,
        lowest=-300,
        highest=20,
        reason=_GAIN,
    ),
    Layer(
        name="path_gain_se_db",
        units="dB",
        long_name="standard error of the path gain",
        dtype="uint16",
        step=0.02,
        lowest=0,
        highest=100,
        reason="as the gain that it belongs to",
    ),
    _delay("first_arrival_ns", "delay of the first detected path"),
    _delay("mean_delay_ns", "mean delay, weighted by power"),
    _delay("delay_spread_ns", "root mean square spread of the delay, weighted by power"),
    _angle("departure_azimuth_deg", "mean direction of departure from north", 360, 360),
    _angle("departure_zenith_deg", "mean direction of departure from the zenith"),
    _angle("departure_spread_deg", "root mean square spread of the azimuth of departure"),
    _angle("arrival_azimuth_deg", "mean direction power comes from, from north", 360, 360),
    _angle("arrival_zenith_deg", "mean direction power comes from, from the zenith"),
    _angle("arrival_spread_deg", "root mean square spread of the azimuth of arrival"),
    Layer(
        name="line_of_sight",
        units="1",
        long_name="share of the outdoor points that see the antenna",
        dtype="uint8",
        step=1 / 128,
        lowest=0,
        highest=1,
        reason="exact for shares of 2, 4, ... 128 points; 0.002 of rounding otherwise",
    ),
    Layer(
        name="ray_hits",
        units="1",
        long_name="number of ray contributions",
        dtype="uint32",
        step=None,
        lowest=0,
        highest=2**32 - 1,
        reason="a count, stored as it is",
    ),
)

LAYERS: Mapping[str, Layer] = {layer.name: layer for layer in _ALL_LAYERS}
"""All stored layers by name, in the order in which readers get them."""

REQUIRED = ("path_gain_db", "path_gain_se_db")
"""Layers that every cube has."""

RSRP = "rsrp_dbm"
"""The derived layer: path gain plus the sector's power per resource element."""
