"""How pedestrians and vehicles move on streets.

At every junction they go on to any of the other streets with equal probability, and turn back
only at a dead end. The extract tells no one-way streets, so all are used both ways. Speeds and
stops are assumptions, stated by the constants below; a change of speed takes no time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from ueloc_core.geodata.schemas import ROAD_CLASSES
from ueloc_core.measurement.report_variables import MOBILITIES
from ueloc_core.measurement.street_network import Pieces, StreetNetwork

STATIC, PEDESTRIAN, VEHICLE = range(len(MOBILITIES))
"""Values of ``mobility``."""

WALKING_M_S = (1.4, 0.2)
"""Mean and standard deviation of pedestrians' speeds, cut at three deviations."""

DRIVING_M_S = {
    "service": 5.5,
    "residential": 8.0,
    "tertiary": 10.0,
    "secondary": 11.0,
    "primary": 12.5,
    "trunk": 14.0,
    "motorway": 22.0,
}
"""Usual speed of vehicles by class of road."""

DRIVERS = (0.9, 1.1)
"""Least and greatest share of the usual speed that a driver keeps to."""

WIDEST_OFFSET_M = 13.0
"""How far from a street's centre line a terminal moves at most."""

_CUT_SIGMAS = 3.0
_STOP_PROBABILITY = 0.25  # of a vehicle at a junction
_STOPPED_SHARE = 0.15  # of vehicles at the start of their tracks
_STOP_S = 8.0  # mean
_PAVEMENT_M = 3.0
_VEHICLE_HALF_WIDTH_M = 1.0
_WIDEST_HALF_M = WIDEST_OFFSET_M - _PAVEMENT_M
_USUAL_M_S = np.array([DRIVING_M_S.get(name, np.nan) for name in ROAD_CLASSES])


@dataclass(frozen=True)
class Movers:
    """Terminals on a street network and where they are now; `advance` changes that.

    Attributes
    ----------
    network
        What they move on.
    drives
        Whether they are vehicles.
    edge, along_m
        Edges of the network, and distances [m] from their starts.
    wait_s
        How long they still stand [s].
    own
        Speed [m/s] of a pedestrian, or a driver's share of the usual speed.
    aside
        How far beside the centre line they move, -1 (left) to 1, of what the street allows.
    """

    network: StreetNetwork
    drives: bool
    edge: NDArray[np.int64]
    along_m: NDArray[np.float64]
    wait_s: NDArray[np.float64]
    own: NDArray[np.float64]
    aside: NDArray[np.float64]

    @classmethod
    def start(
        cls,
        kind: int,
        network: StreetNetwork,
        pieces: Pieces,
        count: int,
        rng: np.random.Generator,
    ) -> "Movers":
        """Terminals that start uniformly by length over pieces of streets, either way."""
        edge, from_m = pieces.draw(count, rng)
        along_m = np.where(edge % 2 == 1, network.length_m[edge // 2] - from_m, from_m)
        aside = rng.uniform(-1.0, 1.0, count)
        wait_s = np.zeros(count)
        if kind == VEHICLE:
            stopped = rng.uniform(0.0, 1.0, count) < _STOPPED_SHARE
            wait_s[stopped] = rng.exponential(_STOP_S, int(stopped.sum()))
            own = rng.uniform(*DRIVERS, count)
        else:
            mean, sigma = WALKING_M_S
            own = mean + sigma * ndtri(rng.uniform(ndtr(-_CUT_SIGMAS), ndtr(_CUT_SIGMAS), count))
        return cls(network, kind == VEHICLE, edge, along_m, wait_s, own, aside)

    @property
    def pace_m_s(self) -> NDArray[np.float64]:
        """Speed [m/s] of those who do not stand."""
        if not self.drives:
            return self.own
        return np.asarray(self.own * _USUAL_M_S[self.network.road_class[self.edge // 2]])

    @property
    def speed_m_s(self) -> NDArray[np.float64]:
        """Speed [m/s], 0 of those who stand."""
        return np.where(self.wait_s > 0, 0.0, self.pace_m_s)

    @property
    def right_m(self) -> NDArray[np.float64]:
        """How far [m] to the right of the centre line, away from the ends of the street.

        Pedestrians keep to a path, or to the pavement beside a road; vehicles to the road.
        """
        street = self.edge // 2
        half_m = np.minimum(self.network.half_width_m[street], _WIDEST_HALF_M)
        if self.drives:
            return self.aside * np.maximum(half_m - _VEHICLE_HALF_WIDTH_M, 0.0)
        pavement_m = np.sign(self.aside) * half_m + self.aside * _PAVEMENT_M
        return np.where(self.network.drivable[street], pavement_m, self.aside * half_m)

    def advance(self, gap_s: NDArray[np.float64], rng: np.random.Generator) -> None:
        """Let each move on for a time [s], over as many streets as it takes."""
        left_s = gap_s.copy()
        going = np.arange(len(left_s))
        while len(going):
            stood_s = np.minimum(self.wait_s[going], left_s[going])
            self.wait_s[going] -= stood_s
            left_s[going] -= stood_s
            going = going[left_s[going] > 0]
            pace_m_s = self.pace_m_s[going]
            rest_m = self.network.length_m[self.edge[going] // 2] - self.along_m[going]
            reach_m = pace_m_s * left_s[going]
            self.along_m[going] += np.minimum(reach_m, rest_m)
            left_s[going] -= np.minimum(left_s[going], rest_m / pace_m_s)
            going = going[reach_m >= rest_m]
            if self.drives:
                stops = rng.uniform(0.0, 1.0, len(going)) < _STOP_PROBABILITY
                stops &= self.network.is_junction(self.edge[going])
                self.wait_s[going] = np.where(stops, rng.exponential(_STOP_S, len(going)), 0.0)
            self.edge[going] = self.network.next_edge(self.edge[going], rng)
            self.along_m[going] = 0.0
