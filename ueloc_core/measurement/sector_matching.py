"""Which sector of a city a log means: by its number or name, or by its PCI and where it is heard.

A PCI is one of 1008 numbers that come again and again in a network (TS 38.211, 7.4.2.1).
"""

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ueloc_core.measurement.log_mappings import PciMatching

NO_SECTOR = 0
_AMBIGUOUS = -1


@dataclass(frozen=True)
class Match:
    """Sectors of rows.

    Attributes
    ----------
    sector_id
        Their numbers, `NO_SECTOR` where none is meant for certain, shape (rows,).
    reason
        Why not, empty where one is found, shape (rows,).
    """

    sector_id: NDArray[np.int64]
    reason: NDArray[np.object_]


@dataclass(frozen=True)
class SectorBook:
    """The sectors of a city, to be looked up.

    Attributes
    ----------
    sectors
        `ueloc_core.radio.schemas.SectorSchema`.
    rules
        When a PCI names a sector.
    """

    sectors: pd.DataFrame
    rules: PciMatching

    @functools.cached_property
    def _by_text(self) -> dict[str, int]:
        """Sectors by number, name, and the ends of names that begin at a hyphen.

        A cell of OpenCelliD is named by its technology, network, area and number; a log may
        leave the first out.
        """
        found: dict[str, int] = {}
        ids = [int(number) for number in self.sectors["sector_id"]]
        whole = {str(number): number for number in ids}
        names = list(zip(self.sectors["sector_name"].astype(str), ids, strict=True))
        whole |= {name.lower(): number for name, number in names if name}
        for name, number in names:
            parts = name.lower().split("-")
            for start in range(1, len(parts) - 1):
                end = "-".join(parts[start:])
                found[end] = _AMBIGUOUS if found.get(end, number) != number else number
        return found | whole

    @functools.cached_property
    def _by_pci(self) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Numbers and positions [m] of the sectors of each PCI."""
        return {
            pci: (
                group["sector_id"].to_numpy(np.int64),
                group[["x_m", "y_m"]].to_numpy(np.float64),
            )
            for pci in self.sectors["pci"].unique().tolist()
            for group in (self.sectors[self.sectors["pci"] == pci],)
        }

    @functools.cached_property
    def _places(self) -> pd.DataFrame:
        return self.sectors.set_index("sector_id")[["x_m", "y_m"]]

    def places_m(self, sector_id: NDArray[np.int64]) -> NDArray[np.float64]:
        """Positions of sectors [m], NaN for `NO_SECTOR`, shape (rows, 2)."""
        return self._places.reindex(sector_id).to_numpy(np.float64)

    def by_text(self, text: "pd.Series[str]") -> Match:
        """Sectors by number or name."""
        number = text.str.lower().map(self._by_text).fillna(NO_SECTOR).to_numpy(np.int64)
        reason = np.full(len(text), "", dtype=object)
        reason[number == NO_SECTOR] = "unknown sector"
        reason[number == _AMBIGUOUS] = "several sectors have names that end so"
        return Match(np.where(number == _AMBIGUOUS, NO_SECTOR, number), reason)

    def by_pci(self, pci: NDArray[np.float64], near_m: NDArray[np.float64]) -> Match:
        """The sector with a PCI that is nearest to a place, where no other is nearly as near.

        Parameters
        ----------
        pci
            Shape (rows,), NaN where unknown.
        near_m
            Places [m], NaN where unknown, shape (rows, 2). Without one, a PCI names the only
            sector that has it.
        """
        number = np.full(len(pci), NO_SECTOR, dtype=np.int64)
        reason = np.full(len(pci), "no PCI", dtype=object)
        for value in np.unique(pci[~np.isnan(pci)]):
            where = np.flatnonzero(pci == value)
            if value not in self._by_pci:
                reason[where] = "no sector of the city has this PCI"
                continue
            ids, places = self._by_pci[int(value)]
            apart = np.linalg.norm(near_m[where, None] - places[None], axis=-1)
            number[where], reason[where] = self._nearest(ids, apart)
        return Match(number, reason)

    def _nearest(
        self, ids: NDArray[np.int64], apart_m: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
        """The nearest of some sectors and why it is not certain, by distances (rows, sectors)."""
        order = np.argsort(apart_m, axis=1)
        first = np.take_along_axis(apart_m, order[:, :1], axis=1)[:, 0]
        second = np.full(len(first), np.inf)
        if len(ids) > 1:
            second = np.take_along_axis(apart_m, order[:, 1:2], axis=1)[:, 0]
        lost = np.isnan(first)
        far = first > self.rules.reach_m
        close = second < self.rules.ratio * first + self.rules.margin_m
        reason = np.full(len(first), "", dtype=object)
        for i in np.flatnonzero(far | close):
            reason[i] = f"sectors with this PCI are {first[i]:.0f} and {second[i]:.0f} m away"
            if far[i]:
                reason[i] = f"the nearest sector with this PCI is {first[i]:.0f} m away"
        if len(ids) > 1:
            reason[lost] = f"{len(ids)} sectors have this PCI, and no place tells which is meant"
        return np.where(reason == "", ids[order[:, 0]], NO_SECTOR), reason
