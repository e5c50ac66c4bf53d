"""Gaussian posteriors over a window, whose coverage is known by construction."""

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from ueloc_core.evaluation.map_figures import PosteriorExample
from ueloc_core.evaluation.metrics import METHODS
from ueloc_core.evaluation.ranks import energy_rank, hpd_level, pit, tarp_rank, tarp_references
from ueloc_core.evaluation.scores import energy_score, hpd_area_m2
from ueloc_core.evaluation.strata import MOBILITIES, TEST_SPLITS
from ueloc_core.grid import Window
from ueloc_core.measurement.scenarios import SCENARIOS

WINDOW = Window(column=100, row=200, columns=50, rows=40, cell_m=4.0)


@dataclass(frozen=True)
class GaussianWorld:
    """Terminals drawn from random Gaussians of width `sigma_m`, cut to the window's cells."""

    sigma_m: float = 9.0
    count: int = 600
    seed: int = 0

    def centres(self):
        rng = np.random.default_rng(self.seed)
        x0, y0, x1, y1 = WINDOW.bounds_m
        return rng.uniform(x0, x1, self.count), rng.uniform(y0, y1, self.count)

    def masses(self, sigma_m=None, outside=0.0, shift_m=0.0):
        """Posterior masses [count, rows, columns] of a locator that believes in `sigma_m`."""
        x_m, y_m = (centre_m + shift_m for centre_m in self.centres())
        along_x = (WINDOW.x_centres_m - x_m[:, None]) ** 2
        along_y = (WINDOW.y_centres_m - y_m[:, None]) ** 2
        squared = along_y[:, :, None] + along_x[:, None, :]
        mass = np.exp(-squared / (2 * (sigma_m or self.sigma_m) ** 2))
        return (1 - outside) * mass / mass.sum(axis=(1, 2), keepdims=True)

    def truths(self):
        """Grid cells (row, column) of the terminals, drawn from the true posterior."""
        rng = np.random.default_rng(self.seed + 1)
        flat = self.masses().reshape(self.count, -1)
        drawn = (flat.cumsum(axis=1) < rng.random((self.count, 1))).sum(axis=1)
        return np.divmod(np.minimum(drawn, flat.shape[1] - 1), WINDOW.columns)

    def levels(self, sigma_m=None):
        row, column = self.truths()
        u = np.random.default_rng(self.seed + 2).random(self.count)
        return hpd_level(self.masses(sigma_m), row, column, u)

    def judged(self, **belief):
        """Columns of the fixes that judge the posteriors of a belief (see `masses`)."""
        mass = self.masses(**belief)
        cell = self.truths()
        rng = np.random.default_rng(self.seed + 3)
        east_m, north_m = (
            (index + rng.random(self.count)) * WINDOW.cell_m for index in (cell[1], cell[0])
        )
        energy = energy_score(mass, east_m, north_m, WINDOW.cell_m)
        pit_x, pit_y = pit(mass, *cell, rng.random((self.count, 2)))
        reference = tarp_references(self.count, *WINDOW.shape, seed=self.seed + 4)
        return {
            "hpd_level": hpd_level(mass, *cell, rng.random(self.count)),
            "area90_m2": hpd_area_m2(mass, 0.9, WINDOW.cell_m).astype(float),
            "energy_score_m": energy.score_m,
            "sharpness_m": energy.sharpness_m,
            "energy_rank": energy_rank(mass, *cell, rng.random(self.count)),
            "pit_x": pit_x,
            "pit_y": pit_y,
            "tarp": tarp_rank(mass, *cell, rng.random(self.count), reference_cells=reference),
        }


def fixes_of_gaussians(world=None, methods=("network", "oracle", "knn", "strongest_sector")):
    """A table of fixes: the oracle is exact, the network wide, the others are points."""
    world = world or GaussianWorld(count=150)
    row, column = world.truths()
    truth_x_m = WINDOW.x_centres_m[column]
    truth_y_m = WINDOW.y_centres_m[row]
    centre_x_m, centre_y_m = world.centres()
    rng = np.random.default_rng(5)
    parts = []
    for method, widen in zip(methods, (1.6, 1.0, None, None), strict=False):
        spread_m = {"network": 3.0, "oracle": 0.0, "knn": 15.0}.get(method, 60.0)
        x_m = centre_x_m + rng.normal(0, 1, world.count) * spread_m
        y_m = centre_y_m + rng.normal(0, 1, world.count) * spread_m
        nothing = np.full(world.count, np.nan)
        nll, level, area = nothing, nothing, nothing
        if widen:
            mass = world.masses(widen * world.sigma_m)
            own = mass[np.arange(world.count), row, column]
            nll = -np.log(np.maximum(own, 1e-12) / WINDOW.cell_m**2)
            level = world.levels(widen * world.sigma_m)
            area = hpd_area_m2(mass, 0.9, WINDOW.cell_m).astype(float)
        parts.append(
            pd.DataFrame(
                {
                    "method": method,
                    "report": np.arange(world.count),
                    "sector_id": 101 + np.arange(world.count) % 3,
                    "x_m": x_m,
                    "y_m": y_m,
                    "truth_x_m": truth_x_m,
                    "truth_y_m": truth_y_m,
                    "error_m": np.hypot(x_m - truth_x_m, y_m - truth_y_m),
                    "nll_nats": nll,
                    "hpd_level": level,
                    "area90_m2": area,
                    "in_window": True,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def fixes_of_all_methods(world=None):
    """Fixes of every method with every column: ranks, scores and circumstances."""
    world = world or GaussianWorld(count=400)
    fixes = fixes_of_gaussians(world, ("network", "oracle", "knn", "strongest_sector"))
    one = {m: part.reset_index(drop=True) for m, part in fixes.groupby("method")}
    rng = np.random.default_rng(8)
    n = world.count
    circumstances = {
        "line_of_sight": np.where(rng.random(n) < 0.1, np.nan, rng.random(n)),
        "heard": rng.integers(1, 9, n),
        "site_distance_m": rng.uniform(5, 600, n),
        "scenario": rng.choice(SCENARIOS, n),
        "mobility": rng.choice([*MOBILITIES, None], n),
        "split": rng.choice(TEST_SPLITS, n),
    }
    beliefs = {"network": 1.0, "network_refined": 0.8, "oracle": 1.0, "grid_bayes_twin": 0.5}
    parts = []
    for method in METHODS:
        alike = "oracle" if "bayes" in method else "network" if method in beliefs else "knn"
        own = one.get(method, one[alike]).assign(method=method, latency_ms=12.0, **circumstances)
        if method in beliefs:
            own = own.assign(**world.judged(sigma_m=beliefs[method] * world.sigma_m))
        else:
            own = own.assign(energy_score_m=own["error_m"])
        parts.append(own)
    return pd.concat(parts, ignore_index=True)


def training_history():
    rows = [
        (epoch, split, term, start / epoch + (0.2 if split == "validation" else 0.0))
        for epoch in range(1, 6)
        for split in ("train", "validation")
        for term, start in (("total", 9.0), ("coarse", 5.0), ("fine", 4.0), ("nll", 6.0))
    ]
    return pd.DataFrame(rows, columns=["epoch", "split", "term", "value"])


@pytest.fixture(scope="session")
def gaussian_world():
    return GaussianWorld()


@pytest.fixture(scope="session")
def fixes():
    return fixes_of_gaussians()


@pytest.fixture(scope="session")
def all_fixes():
    return fixes_of_all_methods()


@pytest.fixture(scope="session")
def history():
    return training_history()


@pytest.fixture(scope="session")
def example():
    """A posterior with two modes, and a finer one of the oracle."""
    x_m, y_m = WINDOW.centre_m
    east, north = np.meshgrid(WINDOW.x_centres_m - x_m, WINDOW.y_centres_m - y_m)
    coarse = np.exp(-((east - 20) ** 2 + north**2) / 800) + np.exp(
        -((east + 40) ** 2 + (north - 30) ** 2) / 400
    )
    fine = np.exp(-((east - 24) ** 2 + (north + 4) ** 2) / 100)
    return PosteriorExample(
        title="Two streets fit the report",
        window=WINDOW,
        masses={"network": 0.99 * coarse / coarse.sum(), "oracle": fine / fine.sum()},
        estimates_m={"network": (x_m + 18, y_m + 2), "oracle": (x_m + 24, y_m - 4)},
        truth_m=(x_m + 22, y_m - 6),
        site_m=(x_m - 60, y_m - 50),
    )


@pytest.fixture(scope="session")
def footprints():
    x0, y0, _, _ = WINDOW.bounds_m
    boxes = [
        shapely.box(x0 + i, y0 + j, x0 + i + 25, y0 + j + 20)
        for i in range(0, 200, 40)
        for j in range(0, 160, 35)
    ]
    return gpd.GeoDataFrame(geometry=boxes, crs="EPSG:32635")
