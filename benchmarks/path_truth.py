"""Radio maps next to exact paths: Sionna's path solver at several points of some grid cells."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.helsinki_site import INTERACTIONS, THRESHOLD_DBM, Site
from ueloc_core.radio.ray_tracing import (
    CellMap,
    Interactions,
    RayScene,
    RaySet,
    SiteMaps,
    SiteTracer,
)
from ueloc_core.radio.ray_tracing.points import to_centre
from ueloc_core.radio.ray_tracing.reference import PathTable, reference_paths
from ueloc_core.units import SPEED_OF_LIGHT_M_S, db_to_linear

SIDE = 3
"""Points along each side of a grid cell."""
LEAST_SHARE = 0.01
"""A mechanism counts where it carries at least this share of a sector's power: 20 dB, as far as a
first arrival may be below the strongest path."""

GOAL_NS = 5.0
"""A first arrival should be as near as this, and the time that light takes across a grid cell."""


@dataclass(frozen=True)
class Budget:
    """How much the reference may cost."""

    cells: int = 100
    samples: int = 2_000_000
    seed: int = 7


class PathTruth:
    """Exact paths to grid cells that a map has heard.

    Cells are drawn at random from those that lie outdoors as a whole and where some sector is
    heard above -120 dBm.
    """

    def __init__(self, site: Site, scene: RayScene, heard_in: SiteMaps, budget: Budget) -> None:
        self.site, self.scene, self.budget = site, scene, budget
        level = np.stack([m.path_gain_db for m in heard_in.sectors]) + site.element_power_dbm
        heard = (np.nan_to_num(level, nan=-np.inf) > THRESHOLD_DBM).any(axis=0)
        places = np.flatnonzero(heard & (heard_in.outdoor_share == 1))
        # a lot for each grid cell of the window, so that another map draws nearly the same ones
        lots = np.random.default_rng(budget.seed).random(heard.size)
        self.cells = np.sort(places[np.argsort(lots[places])[: budget.cells]])
        self.of_cell = np.repeat(np.arange(len(self.cells)), SIDE**2)
        self.table = self._paths()

    def _paths(self) -> PathTable:
        """Paths to all points, their delays moved to the grid cells' centres as in maps."""
        site, points_m = self.site, self._points_m()
        table = reference_paths(
            self.scene,
            site.mast_m,
            site.sectors,
            points_m,
            INTERACTIONS,
            samples=self.budget.samples,
            at_a_time=SIDE**2,
        )
        length_m = to_centre(
            table.delay_ns * (SPEED_OF_LIGHT_M_S * 1e-9),
            table.arrival,
            points_m[table.position],
            self.cells[self.of_cell[table.position]],
            site.grid,
        )
        return replace(table, delay_ns=length_m.astype(np.float64) * (1e9 / SPEED_OF_LIGHT_M_S))

    def _points_m(self) -> NDArray[np.float64]:
        grid = self.site.grid
        row, column = np.divmod(self.cells, grid.columns)
        within = (np.arange(SIDE) + 0.5) / SIDE
        north, east = (part.ravel() for part in np.meshgrid(within, within, indexing="ij"))
        x = grid.corner_m[0] + grid.cell_m * (column[:, None] + east)
        y = grid.corner_m[1] + grid.cell_m * (row[:, None] + north)
        return np.stack([x, y, np.full_like(x, grid.height_m)], axis=-1).reshape(-1, 3)

    def powers(self) -> NDArray[np.float64]:
        """Mean power by mechanism, shape (mechanism, sector, cell).

        The mechanisms are line of sight, one reflection, two, and so on, and one edge.
        """
        table, count, most = self.table, len(self.cells), INTERACTIONS.max_depth
        mechanism = np.where(table.diffracted, most + 1, table.reflections)
        found = np.zeros((most + 2, len(table.gain), count))
        for index in range(most + 2):
            chosen = (mechanism == index) & ~table.mixed
            cell = self.of_cell[table.position[chosen]]
            for sector, gain in enumerate(table.gain):
                found[index, sector] = np.bincount(cell, gain[chosen], minlength=count)
        return found / SIDE**2

    def powers_of_maps(self, ray_set: RaySet) -> NDArray[np.float64]:
        """The same of radio maps through one ray set, which each step takes further."""
        depths = range(INTERACTIONS.max_depth + 1)
        steps = [Interactions(depth, diffraction=False) for depth in depths]
        totals = [self._gains(self.trace(ray_set, step)) for step in (*steps, INTERACTIONS)]
        return np.maximum(np.diff(totals, axis=0, prepend=0.0), 0.0)

    def trace(self, ray_set: RaySet, interactions: Interactions) -> SiteMaps:
        """Maps of the site."""
        tracer = SiteTracer(self.scene, interactions)
        return tracer.maps(self.site.mast_m, self.site.sectors, self.site.grid, ray_set)

    def _gains(self, maps: SiteMaps) -> NDArray[np.float64]:
        gains = self.of_maps(maps, "path_gain_db")
        return np.where(np.isfinite(gains), db_to_linear(gains), 0.0)

    def of_maps(self, maps: SiteMaps, name: str) -> NDArray[np.float64]:
        """A layer of maps at the cells, shape (sector, cell)."""
        return _layer(maps.sectors, name)[:, self.cells]


def compare(truth: PathTruth, maps: SiteMaps, ray_set: RaySet) -> dict[str, float]:
    """Errors of maps that were traced through a ray set.

    Both see the same mechanisms where the same ones (`PathTruth.powers`) carry a hundredth of a
    sector's power or more, and both are above -120 dBm. Paths that mix edges with reflections are
    taken out of the reference, but for the figures that begin with ``all``.
    """
    ours, exact = truth.powers_of_maps(ray_set), truth.powers()
    heard = _heard(truth, ours), _heard(truth, exact)
    both = heard[0] & heard[1]
    chosen = both & (_carrying(ours) == _carrying(exact)).all(axis=0)
    plain = truth.table[~truth.table.mixed].summary(truth.of_cell)
    gain_db, late_ns, departure_deg, arrival_deg = (
        truth.of_maps(maps, name) - _layer(plain.sectors, name)
        for name in (
            *("path_gain_db", "first_arrival_ns"),
            *("departure_azimuth_deg", "arrival_azimuth_deg"),
        )
    )
    goal_ns = GOAL_NS + truth.site.grid.cell_m / SPEED_OF_LIGHT_M_S * 1e9
    whole_db = _layer(truth.table.summary(truth.of_cell).sectors, "path_gain_db")
    seen = maps.line_of_sight.ravel()[truth.cells]
    return {
        "compared": int(chosen.sum()),
        "same_mechanisms_share": float(chosen.sum() / both.sum()),
        **_errors("gain", "db", gain_db[chosen]),
        **_errors("delay", "ns", late_ns[chosen]),
        "delay_within_goal_share": float((np.abs(late_ns[chosen]) <= goal_ns).mean()),
        **_errors("azimuth", "deg", _turn_deg(departure_deg[chosen])),
        **_errors("arrival_azimuth", "deg", _turn_deg(arrival_deg[chosen])),
        "los_agreement": float(((seen > 0.5) == (plain.line_of_sight > 0.5)).mean()),
        **_errors("all_gain", "db", (truth.of_maps(maps, "path_gain_db") - whole_db)[both]),
        **_errors("all_delay", "ns", late_ns[both]),
        "heard_by_map_alone": float((heard[0] & ~heard[1]).sum() / heard[0].sum()),
        "heard_by_reference_alone": float((heard[1] & ~heard[0]).sum() / heard[1].sum()),
        "power_of_mixed_paths": _mixed_share(truth.table),
    }


def _errors(name: str, unit: str, values: NDArray[np.float64]) -> dict[str, float]:
    size = np.abs(values)
    return {
        f"{name}_rmse_{unit}": float(np.sqrt(np.mean(values**2))),
        f"{name}_median_{unit}": float(np.median(values)),
        f"{name}_p50_{unit}": float(np.median(size)),
        f"{name}_p90_{unit}": float(np.quantile(size, 0.9)),
        f"{name}_p95_{unit}": float(np.quantile(size, 0.95)),
    }


def _layer(sectors: list[CellMap], name: str) -> NDArray[np.float64]:
    return np.stack([np.asarray(getattr(m, name), dtype=np.float64).ravel() for m in sectors])


def _carrying(powers: NDArray[np.float64]) -> NDArray[np.bool_]:
    total = np.maximum(powers.sum(axis=0), 1e-30)
    return np.asarray(powers / total >= LEAST_SHARE)


def _heard(truth: PathTruth, powers: NDArray[np.float64]) -> NDArray[np.bool_]:
    level = 10 * np.log10(np.maximum(powers.sum(axis=0), 1e-30)) + truth.site.element_power_dbm
    return np.asarray(level > THRESHOLD_DBM)


def _mixed_share(table: PathTable) -> float:
    """Share of all power that mixed paths carry, mean over positions and sectors with power."""
    shares = []
    for gain in table.gain:
        total = np.bincount(table.position, gain, minlength=table.positions)
        mixed = np.bincount(table.position, gain * table.mixed, minlength=table.positions)
        shares.append((mixed / np.where(total > 0, total, np.nan)).ravel())
    return float(np.nanmean(shares))


def _turn_deg(difference_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    return (difference_deg + 180.0) % 360.0 - 180.0
