"""Reports of several cities, each with the maps that they are read against.

A choice among all of them is made over the positions that they have one after the other, so of
one city alone it is a choice among its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.city import SPLITS, City
from ueloc_core.radio.atlas import MapAtlas


@dataclass(frozen=True)
class CityReports:
    """Reports of a city.

    Attributes
    ----------
    city
        The city: its measurement settings, radio and windows.
    atlas
        The twin's radio maps.
    reports
        Its measurement set, or some reports of it.
    """

    city: City
    atlas: MapAtlas
    reports: xr.Dataset

    def __len__(self) -> int:
        return int(self.reports.sizes["report"])


def in_split(sets: Sequence[CityReports], split: str) -> NDArray[np.int64]:
    """Positions of the reports of a split among those of all cities."""
    found = [s.reports.split.values == SPLITS.index(split) for s in sets]
    return np.flatnonzero(np.concatenate(found))


def taken(sets: Sequence[CityReports], positions: NDArray[np.int64]) -> list[CityReports]:
    """Of each city its reports at positions among those of all, in the order of the positions."""
    parts, first = [], 0
    for one in sets:
        own = positions[(positions >= first) & (positions < first + len(one))] - first
        parts.append(replace(one, reports=one.reports.isel(report=own)))
        first += len(one)
    return parts


def with_tracks_apart(sets: Iterable[CityReports]) -> list[CityReports]:
    """The same with the tracks of each city numbered above those of the cities before it."""
    found: list[CityReports] = []
    above = 0
    for one in sets:
        track = one.reports.track
        found.append(
            replace(one, reports=one.reports.assign(track=track + above)) if above else one
        )
        above += int(track.max()) + 1 if len(one) else 0
    return found


def names_of(sets: Iterable[CityReports]) -> list[str]:
    """The cities' names."""
    return [one.city.name for one in sets]
