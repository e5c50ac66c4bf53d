"""Stand-ins for the slow stages: the wiring is under test here, the stages have their own tests.

They write real files of the right form in no time, so the contracts between the stages hold.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ueloc_core.city import City, load_city
from ueloc_core.provenance import ArtifactKey, Store
from ueloc_core.radio.ray_tracing import CellMap, SiteMaps
from ueloc_core.radio.ray_tracing.reference import PathTable
from ueloc_core.units import SPEED_OF_LIGHT_M_S, db_to_linear, free_space_gain_db, linear_to_db


def free_space(work):
    """Friis and a smooth antenna instead of rays; ray sets differ by a few percent."""
    for unit in work:
        plane = unit.grid
        x_m, y_m = (
            corner_m + plane.cell_m * (np.arange(count) + 0.5) - mast_m
            for corner_m, count, mast_m in zip(
                plane.corner_m, (plane.columns, plane.rows), unit.mast_m[:2], strict=True
            )
        )
        east_m, north_m = np.meshgrid(x_m, y_m)
        distance_m = np.hypot(np.hypot(east_m, north_m), unit.mast_m[2])
        friis = db_to_linear(free_space_gain_db(distance_m, unit.frequency_hz))
        spread = 1 + 0.02 * np.sin(unit.ray_set.seed)
        seen = np.ones(plane.shape, dtype=np.float32)
        maps = []
        for sector in unit.sectors:
            off = np.arctan2(east_m, north_m) - np.radians(sector.azimuth_deg)
            gain_db = linear_to_db(friis * (1.1 + np.cos(off)) * spread)
            delay_ns = distance_m / SPEED_OF_LIGHT_M_S * 1e9
            layers = dict.fromkeys((field.name for field in fields(CellMap)), 0.5 * seen)
            layers |= {"path_gain_db": gain_db.astype(np.float32), "ray_hits": seen}
            layers |= dict.fromkeys(("first_arrival_ns", "mean_delay_ns"), delay_ns)
            maps.append(CellMap(**layers))
        yield SiteMaps(maps, seen, seen)


def straight_paths(work):
    """The straight line instead of a solver's paths, as `free_space` instead of rays."""
    for unit in work:
        way_m = unit.positions_m - np.array(unit.mast_m)
        length_m = np.linalg.norm(way_m, axis=1)
        direction = (way_m / length_m[:, None]).astype(np.float32)
        azimuth = np.arctan2(way_m[:, 0], way_m[:, 1])
        friis = db_to_linear(free_space_gain_db(length_m, unit.frequency_hz))
        pattern = [1.1 + np.cos(azimuth - np.radians(s.azimuth_deg)) for s in unit.sectors]
        none = np.zeros(len(way_m), dtype=np.uint8)
        yield PathTable(
            positions=len(way_m),
            position=np.arange(len(way_m)),
            gain=(friis * np.array(pattern)).astype(np.float32),
            delay_ns=length_m / SPEED_OF_LIGHT_M_S * 1e9,
            departure=direction,
            arrival=direction,
            reflections=none,
            refractions=none,
            scatterings=none,
            diffractions=none,
        )


def quick_map_error(city, sets, out):
    for name in ("map_error", "plain_error"):
        (out / f"{name}.json").write_text(json.dumps({"core_db": 1.0}))
    return {"core_db": 1.0, "cities": _names(sets)}


def quick_model(city, sets, map_error_folder, out, progress=None, resume=None):
    (out / "checkpoint.pt").write_text(f"{city.training.epochs} {_names(sets)}")
    rows = {"epoch": [0], "split": ["train"], "term": ["total"], "value": [1.0]}
    pd.DataFrame(rows).to_parquet(out / "history.parquet")
    _picture(out / "curves.png")
    return {"epochs": city.training.epochs, "cities": _names(sets)}


def quick_calibration(city, sets, map_error_folder, model_folder, out):
    for name in ("calibration", "refinement"):
        (out / f"{name}.json").write_text(json.dumps({"temperature": 1.0}))
    return {"temperature": 1.0, "cities": _names(sets)}


def quick_evaluation(city, atlas, reports, folders, out, progress=None, tuning=None):
    from ueloc_core.evaluation.evaluate import split_name
    from ueloc_core.evaluation.metrics import METHODS, summarise, summary_dict
    from ueloc_core.evaluation.schemas import FixSchema

    n = min(8, city.evaluation.max_reports)
    density = {"nll_nats": 2.0, "hpd_level": 0.5, "area90_m2": 100.0}
    fixes = pd.concat(
        pd.DataFrame(
            {
                "method": method,
                "report": np.arange(n),
                "sector_id": 1,
                "x_m": 3.0,
                "y_m": 4.0,
                "truth_x_m": 0.0,
                "truth_y_m": 0.0,
                "error_m": 5.0,
                **(density if method in METHODS[:2] else dict.fromkeys(density, np.nan)),
                "in_window": True,
            }
        )
        for method in METHODS
    ).reset_index(drop=True)
    fixes = FixSchema.validate(fixes.assign(split=split_name(city)))
    fixes.to_parquet(out / "fixes.parquet")
    summarise(fixes).to_parquet(out / "metrics.parquet")
    (out / "summary.json").write_text(
        json.dumps({"splits": {split_name(city): summary_dict(fixes)}})
    )
    (out / "report.html").write_text("<!doctype html>")
    (out / "figures").mkdir()
    _picture(out / "figures" / "error_cdf.png")
    return {"reports": n, "tuned_on": city.name if tuning is None else tuning.city.name}


def _names(sets: Any) -> list[str]:
    """The cities that train; each came with its own reports and maps."""
    assert all(one.reports.attrs["crs"] == one.city.crs_code for one in sets)
    assert all(one.atlas.city == one.city for one in sets)
    return [one.city.name for one in sets]


def _picture(path: Path) -> None:
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    figure.savefig(path)


STAND_INS = {
    "ueloc_core.radio.radio_map.trace": free_space,
    "ueloc_core.measurement.path_propagation.site_paths": straight_paths,
    "ueloc_core.measurement.map_error.build_map_error": quick_map_error,
    "ueloc_core.localization.training.build_posterior_model": quick_model,
    "ueloc_core.evaluation.calibration.build_calibration": quick_calibration,
    "ueloc_core.evaluation.evaluate.build_evaluation": quick_evaluation,
}


def use_stand_ins(patch: pytest.MonkeyPatch) -> None:
    for name, function in STAND_INS.items():
        patch.setattr(name, function)


@dataclass
class Trial:
    """City files, a store and an instance that a test may spoil."""

    root: Path
    modules: SimpleNamespace

    @property
    def city(self) -> City:
        return load_city(self.root / "cities" / "synthetic.yaml")

    @property
    def store(self) -> Store:
        return Store(str(self.root / "store"))

    def artifact(self, stage: str, partition: str = "city", city: str = "synthetic") -> Any:
        return self.store.require(ArtifactKey(city, stage, partition))

    def edit(self, **sections: Any) -> None:
        """Replace keys of the city's file."""
        from benchmarks.quick_city import write_city_file

        content = self.city.model_dump() | sections
        write_city_file(City.model_validate(content), self.root / "cities")

    def regenerate(self, city: str = "synthetic") -> dict[str, Any]:
        return self.modules.regenerate.regenerate(
            city,
            store_url=str(self.root / "store"),
            home=self.root / "instance",
            quiet=True,
        )

    def main(self) -> int:
        return self.modules.regenerate.main(["synthetic", "--store", str(self.root / "store")])


@pytest.fixture(scope="session")
def built(
    quick_cities: Path,
    pipeline: SimpleNamespace,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any]]:
    """A city that was built once, and what that took."""
    root = tmp_path_factory.mktemp("built")
    shutil.copytree(quick_cities, root / "cities")
    (root / "instance").mkdir()
    config = Path(__file__).parents[2] / "instance" / "dagster.yaml"
    shutil.copy(config, root / "instance")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UELOC_CITIES", str(root / "cities"))
        use_stand_ins(patch)
        return root, Trial(root, pipeline).regenerate()


@dataclass(frozen=True)
class Grown:
    """The built city, then its variant and an unseen city brought up to date: what each took."""

    trial: Trial
    mismatch: dict[str, Any]
    unseen: dict[str, Any]


@pytest.fixture(scope="session")
def grown(
    built: tuple[Path, dict[str, Any]],
    pipeline: SimpleNamespace,
    tmp_path_factory: pytest.TempPathFactory,
) -> Grown:
    """A copy of the built city with more cities in its store; to be looked at only."""
    root = tmp_path_factory.mktemp("grown") / "trial"
    shutil.copytree(built[0], root)
    trial = Trial(root, pipeline)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UELOC_CITIES", str(root / "cities"))
        use_stand_ins(patch)
        trial.edit(source={"kind": "file", "path": root / "cities" / "synthetic.osm.gz"})
        tallies = [trial.regenerate(name) for name in ("synthetic_osm", "elsewhere_unseen")]
    return Grown(trial, *tallies)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins instead of the slow stages."""
    use_stand_ins(monkeypatch)


@pytest.fixture
def trial(
    built: tuple[Path, dict[str, Any]],
    pipeline: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Trial:
    """A copy of the built city, with the environment set to it."""
    root = tmp_path / "trial"
    shutil.copytree(built[0], root)
    extract = root / "cities" / "synthetic.osm.gz"
    use_stand_ins(monkeypatch)
    monkeypatch.setenv("UELOC_CITIES", str(root / "cities"))
    monkeypatch.setenv("UELOC_STORE", str(root / "store"))
    monkeypatch.setenv("DAGSTER_HOME", str(root / "instance"))
    copy = Trial(root, pipeline)
    copy.edit(source={"kind": "file", "path": extract})
    return copy


@pytest.fixture
def computed() -> Callable[[dict[str, Any]], dict[str, int]]:
    """What was computed, by stage; stages that computed nothing are left out."""

    def count(tallies: dict[str, Any]) -> dict[str, int]:
        return {name: len(t.computed) for name, t in tallies.items() if t.computed}

    return count
