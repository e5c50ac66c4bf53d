"""A whole made-up city through Dagster, with every real stage."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from ueloc_core.city import City, load_city
from ueloc_core.localization.localize import Locator
from ueloc_core.measurement.city_reports import CityReports
from ueloc_core.measurement.dataset import load_reports
from ueloc_core.provenance import Artifact, ArtifactKey, Store
from ueloc_core.radio.atlas import MapAtlas
from ueloc_core.radio.cube import load_cube

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).parents[2]


@dataclass
class Finished:
    """A city that was built by the real stages."""

    root: Path
    modules: SimpleNamespace
    tallies: dict[str, Any]
    reads: dict[str, set[str]]

    @property
    def city(self) -> City:
        return load_city("synthetic")

    @property
    def store(self) -> Store:
        return Store(str(self.root / "store"))


class _Recorder:
    """Wraps cities so that it is known which of their settings a stage reads."""

    def __init__(self) -> None:
        self.reads: dict[str, set[str]] = {}

    def watch(self, patch: pytest.MonkeyPatch, stage: str, function: str) -> None:
        module, _, name = function.rpartition(".")
        real = getattr(importlib.import_module(module), name)

        def watched(city: City, *arguments: Any, **named: Any) -> Any:
            found = self.reads.setdefault(stage, set())
            swapped = [_with_watched_city(argument, found) for argument in (city, *arguments)]
            return real(*swapped, **named)

        patch.setattr(function, watched)


def _watched_city(city: City, found: set[str]) -> City:
    class Section:
        def __init__(self, name: str, value: Any) -> None:
            self._name, self._value = name, value

        def __getattr__(self, key: str) -> Any:
            derived = getattr(type(self._value), key, None)
            if isinstance(derived, property):
                return derived.fget(self)
            found.add(f"{self._name}.{key}")
            return getattr(self._value, key)

    class Watched(City):
        def __getattribute__(self, key: str) -> Any:
            if key == "crs_code":
                found.add("crs")
                return city.crs_code
            value = super().__getattribute__(key)
            if key in City.model_fields and key not in {"name", "title", "schedule", "extends"}:
                if hasattr(type(value), "model_fields"):
                    return Section(key, value)
                found.add(key)
            return value

    return Watched.model_construct(**{key: getattr(city, key) for key in City.model_fields})


def _with_watched_city(argument: Any, found: set[str]) -> Any:
    if isinstance(argument, City):
        return _watched_city(argument, found)
    if isinstance(argument, list):
        return [_with_watched_city(one, found) for one in argument]
    if isinstance(argument, MapAtlas):
        return replace(argument, city=_watched_city(argument.city, found))
    if isinstance(argument, CityReports):
        watched = {name: getattr(argument, name) for name in ("city", "atlas")}
        return replace(argument, **{n: _with_watched_city(v, found) for n, v in watched.items()})
    return argument


STAGES = {
    "osm_extract": "ueloc_core.geodata.osm.build_extract",
    "scene": "ueloc_core.scene.mitsuba.build_scene",
    "sites": "ueloc_core.radio.sites.build_sites",
    "radio_map": "ueloc_core.radio.radio_map.build_radio_map",
    "coverage": "ueloc_core.radio.coverage.build_coverage",
    "measurements": "ueloc_core.measurement.tracks.build_measurements",
    "measurement_set": "ueloc_core.measurement.splits.build_measurement_set",
    "path_traced_measurements": "ueloc_core.measurement.path_traced.build_path_traced",
    "map_error": "ueloc_core.measurement.map_error.build_map_error",
    "posterior_model": "ueloc_core.localization.training.build_posterior_model",
    "calibration": "ueloc_core.evaluation.calibration.build_calibration",
    "evaluation": "ueloc_core.evaluation.evaluate.build_evaluation",
}


@pytest.fixture(scope="module")
def finished(
    quick_cities: Path, pipeline: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Finished]:
    root = tmp_path_factory.mktemp("end_to_end")
    (root / "instance").mkdir()
    shutil.copy(PROJECT / "instance" / "dagster.yaml", root / "instance")
    recorder = _Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UELOC_CITIES", str(quick_cities))
        for stage, function in STAGES.items():
            recorder.watch(patch, stage, function)
        tallies = pipeline.regenerate.regenerate(
            "synthetic", store_url=str(root / "store"), home=root / "instance", quiet=True
        )
        yield Finished(root, pipeline, tallies, recorder.reads)


def test_every_stage_of_every_partition_was_computed(finished: Finished):
    tiles = len(finished.city.tile_names)
    counts = {name: len(tally.computed) for name, tally in finished.tallies.items()}
    of_tiles = {"scene", "sites", "radio_map", "measurements"}
    of_tiles |= {"world_scene", "world_sites", "world_radio_map"}
    assert counts == {name: tiles if name in of_tiles else 1 for name in counts}


def test_every_contract_was_checked_and_kept(finished: Finished):
    graph = finished.modules.definitions.defs.resolve_asset_graph()
    on_demand = {asset.key for asset in finished.modules.definitions.ON_DEMAND}
    checks = [key for key in graph.asset_check_keys if key.asset_key not in on_demand]
    with finished.modules.instance.open_instance(finished.root / "instance") as instance:
        for key in checks:
            (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
            assert record.status.value == "SUCCEEDED", key
    assert len(checks) == 19


def test_parameters_of_the_fingerprint_cover_what_a_stage_reads(finished: Finished):
    for stage, reads in finished.reads.items():
        partition = "city"
        if not (Path(finished.store.url) / "synthetic" / stage / "city").exists():
            partition = finished.city.tile_names[0]
        folder = Path(finished.store.url) / "synthetic" / stage / partition
        params = json.loads((folder / "current.json").read_text())["params"]
        # an extract's path is no parameter: the content of the file is an input, and so is that
        # of the training cities
        hidden = {
            name
            for name in reads
            if not name.startswith("source.")
            and name != "training.cities"
            and name.partition(".")[0] not in params
            and name.partition(".")[2] not in params
        }
        assert not hidden, f"{stage} reads {sorted(hidden)}, which its fingerprint leaves out"

    assert "ray_tracing.rays_per_site" in finished.reads["radio_map"]  # it does watch
    assert "training.epochs" in finished.reads["posterior_model"]


def test_the_world_differs_from_the_twin(finished: Finished):
    city, store = finished.city, finished.store
    tile = next(
        name
        for name in city.tile_names
        if store.require(ArtifactKey(city.name, "radio_map", name)).metadata["sectors"]
    )
    twin, world = (
        load_cube(store.require(ArtifactKey(city.name, stage, tile)).path)
        for stage in ("radio_map", "world_radio_map")
    )
    assert (twin.sector.values == world.sector.values).all()
    assert not twin.path_gain_db.equals(world.path_gain_db)
    assert abs(float((twin.path_gain_db - world.path_gain_db).median())) < 1


def test_the_evaluation_compares_all_methods(finished: Finished):
    folder = finished.store.require(ArtifactKey("synthetic", "evaluation")).path
    splits = json.loads((folder / "summary.json").read_text())["splits"]
    assert set(splits) == {"test_area", "path_traced", "tracks"}
    assert set(splits["tracks"]) == {"network", "network_track", "oracle", "oracle_track"}
    summary = splits["test_area"]
    assert set(summary) == {
        *("network", "network_refined", "oracle", "grid_bayes_twin", "knn", "trilateration"),
        *("weighted_centroid", "strongest_sector"),
    }
    assert {row["n"] for row in summary.values()} == {20}
    assert summary["oracle"]["median_m"] < summary["strongest_sector"]["median_m"]
    fixes = pd.read_parquet(folder / "fixes.parquet").query("split == 'test_area'")
    assert fixes.groupby("method").report.nunique().eq(20).all()
    report = (folder / "report.html").read_text()
    assert "OpenStreetMap" in report
    assert 'src="http' not in report


def test_a_city_is_located_by_a_network_that_never_saw_it(finished: Finished):
    """The real stages over two cities: it learns from the one and is evaluated on the other."""
    regenerate = finished.modules.regenerate.regenerate
    tallies = regenerate(
        "elsewhere_unseen",
        store_url=finished.store.url,
        home=finished.root / "instance",
        quiet=True,
    )
    assert tallies["radio_map"].cached == len(finished.city.tile_names)
    assert tallies["posterior_model"].computed == ["elsewhere_unseen"]

    def artifact(city: str, stage: str) -> Artifact:
        return finished.store.require(ArtifactKey(city, stage))

    for stage in ("map_error", "posterior_model", "calibration"):
        assert artifact("elsewhere_unseen", stage).metadata["cities"] == ["synthetic"]
    learned = [artifact(city, "map_error") for city in ("elsewhere_unseen", "synthetic")]
    assert learned[0].content == learned[1].content  # of the same reports, with the same seed
    evaluation = artifact("elsewhere_unseen", "evaluation")
    splits = json.loads((evaluation.path / "summary.json").read_text())["splits"]
    assert set(splits) == {"test_city", "path_traced", "tracks"}
    known = json.loads((artifact("synthetic", "evaluation").path / "summary.json").read_text())
    assert set(splits["test_city"]) == set(known["splits"]["test_area"])
    fixes = pd.read_parquet(evaluation.path / "fixes.parquet").query("split == 'test_city'")
    own = load_reports(artifact("elsewhere_unseen", "measurement_set").path, ("split",))
    assert fixes.report.nunique() == 20
    assert set(own.split.values[fixes.report.unique()]) - {3}  # tiles that would train test too
    located = Locator.load(load_city("elsewhere_unseen"), finished.store).locate(
        load_reports(artifact("elsewhere_unseen", "path_traced_measurements").path).isel(
            report=slice(3)
        )
    )
    assert len(located) == 3


def test_processes_of_their_own_find_the_same_in_the_store(finished: Finished):
    """The multiprocess executor, as the UI uses it."""
    tile = f"synthetic/{finished.city.tile_names[-1]}"
    tags = json.dumps({"dagster/partition": tile})
    command = ["dagster", "job", "execute", "-m", "pipelines.definitions", "-j", "build_scenes"]
    done = in_new_process(finished, "-m", *command, "--tags", tags)
    assert done.returncode == 0, done.stderr
    with finished.modules.instance.open_instance(finished.root / "instance") as instance:
        for stage in ("scene", "sites"):
            selected = dg.AssetRecordsFilter(dg.AssetKey(stage), asset_partitions=[tile])
            last, first = instance.fetch_materializations(selected, limit=2).records
            assert last.asset_materialization.metadata["cached"].value is True
            version = last.asset_materialization.tags["dagster/data_version"]
            assert version == first.asset_materialization.tags["dagster/data_version"]


def test_without_a_change_the_command_line_computes_nothing(finished: Finished):
    done = in_new_process(finished, "-m", "pipelines.regenerate", "synthetic")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert {name: rows[name][1] for name in finished.tallies} == dict.fromkeys(
        finished.tallies, "0"
    )
    assert len(rows["network"]) == 4


def in_new_process(finished: Finished, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "UELOC_CITIES": os.environ["UELOC_CITIES"],
        "UELOC_STORE": finished.store.url,
        "DAGSTER_HOME": str(finished.root / "instance"),
        "UELOC_EXECUTOR": "multiprocess",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
