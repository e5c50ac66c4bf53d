"""What Dagster is told: it loads fast, and says what everything is."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ueloc_core.errors import UelocError

PROJECT = Path(__file__).parents[2]
HEAVY = ("sionna", "mitsuba", "drjit", "torch", "geopandas", "xarray", "pandera", "pandas")
LOAD = f"""
import sys, time
started = time.perf_counter()
from pipelines.definitions import defs
defs.get_repository_def()
seconds = time.perf_counter() - started
heavy = set({HEAVY}) & set(sys.modules)
assert not heavy, heavy
print(seconds)
"""


def in_new_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_definitions_load_within_five_seconds_and_import_nothing_heavy():
    done = in_new_python(LOAD)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: nowhere\nsource: {kind: bundled}\nbbox: [25, 60, 24, 61]\n", "has no area"),
        ("name: nowhere\nsource: {kind: bundled}\n", "bbox is missing"),
        (
            "name: nowhere\nsource: {kind: bundled}\nbbox: [24.9, 60.1, 24.91, 60.11]\n"
            "schedule: at noon\n",
            "'at noon' is not a cron expression",
        ),
        (
            "name: nowhere\nsource: {kind: bundled}\nbbox: [24.9, 60.1, 24.91, 60.11]\n"
            "tile_size: 3\n",
            "tile_size",
        ),
    ],
)
def test_a_broken_city_file_is_named_with_its_key(tmp_path: Path, text: str, expected: str):
    (tmp_path / "nowhere.yaml").write_text(text)
    done = in_new_python("import pipelines.definitions", UELOC_CITIES=str(tmp_path))
    last_line = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert "CityError" in last_line
    assert "nowhere.yaml" in last_line
    assert expected in last_line


def test_a_folder_without_city_files_says_what_to_do(tmp_path: Path):
    done = in_new_python("import pipelines.definitions", UELOC_CITIES=str(tmp_path))
    assert "no city files" in done.stderr.strip().splitlines()[-1]


def test_every_asset_says_what_it_is(pipeline):
    expected_groups = {
        "geodata": {"osm_extract", "scene"},
        "radio": {"sites", "radio_map", "world_radio_map", "coverage"},
        "world": {"world_scene", "world_sites"},
        "measurement": {
            *("measurements", "measurement_set", "map_error"),
            "path_traced_measurements",
        },
        "localization": {"posterior_model", "calibration"},
        "evaluation": {"evaluation"},
    }
    groups: dict[str, set[str]] = {}
    for asset in pipeline.definitions.ASSETS:
        (spec,) = asset.specs
        groups.setdefault(spec.group_name, set()).add(spec.key.to_user_string())
        assert spec.description
        assert spec.kinds
        assert spec.owners == ["team:localization"]
        assert spec.code_version
        assert spec.automation_condition is not None
        assert all(check.blocking for check in asset.check_specs)
    assert groups == expected_groups


def test_every_stored_table_and_data_set_has_a_contract(pipeline):
    graph = pipeline.definitions.defs.resolve_asset_graph()
    checked = {key.asset_key.to_user_string() for key in graph.asset_check_keys}
    all_assets = {key.to_user_string() for key in graph.materializable_asset_keys}
    assert all_assets == checked
    for asset in ("measurement_set", "map_error", "posterior_model", "calibration"):
        assert dg.AssetCheckKey(dg.AssetKey(asset), "no_leak") in graph.asset_check_keys
    transfer = dg.AssetKey("path_traced_measurements")
    assert dg.AssetCheckKey(transfer, "test_only") in graph.asset_check_keys


def test_lineage(pipeline):
    graph = pipeline.definitions.defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.materializable_asset_keys
    }
    twin = {"radio_map", "scene", "sites"}
    assert parents["osm_extract"] == set()
    assert parents["scene"] == parents["sites"] == {"osm_extract"}
    assert parents["radio_map"] == {"scene", "sites"}
    assert parents["world_scene"] == {"osm_extract", "scene", "sites"}
    assert parents["world_sites"] == {"scene", "sites", "world_scene"}
    assert parents["world_radio_map"] == {"world_scene", "world_sites"}
    world = {"world_radio_map", "world_scene", "world_sites"}
    assert parents["measurements"] == world | {"osm_extract"}
    assert parents["measurement_set"] == {"measurements", "sites"}
    assert parents["path_traced_measurements"] == {"measurement_set", "world_scene", "world_sites"}
    assert parents["map_error"] == {"measurement_set"} | twin
    assert parents["posterior_model"] == {"measurement_set", "map_error"} | twin
    assert parents["coverage"] == twin
    assert not any("coverage" in read for read in parents.values())  # nobody waits for it
    # the locator never sees the world: reports alone come from it
    reads_the_world = {name for name, read in parents.items() if read & world}
    from_the_world = {"measurements", "path_traced_measurements"}
    assert reads_the_world == {"world_sites", "world_radio_map"} | from_the_world
    trained = {"map_error", "posterior_model", "calibration"}
    assert not any("path_traced_measurements" in parents[name] for name in trained)


def test_ray_tracing_and_training_take_turns(pipeline):
    pools = {
        asset.key.to_user_string(): asset.op.pool
        for asset in pipeline.definitions.ASSETS
        if asset.op.pool
    }
    heavy = {
        *("radio_map", "world_radio_map", "path_traced_measurements"),
        *("posterior_model", "calibration", "evaluation"),
    }
    assert set(pools) == heavy
    assert len(set(pools.values())) == 1


def test_jobs(pipeline):
    names = {job.name for job in pipeline.definitions.defs.resolve_all_job_defs()}
    assert names >= {
        "build_scenes",
        "build_worlds",
        "trace_radio_maps",
        "map_coverage",
        "simulate_measurements",
        "train_posterior",
        "evaluate",
        "regenerate_city",
    }


def test_a_tile_reads_its_neighbours_and_a_city_all_its_tiles(pipeline, quick_cities: Path):
    graph = pipeline.definitions.defs.resolve_asset_graph()
    city = pipeline.partitions.CITIES["synthetic"]
    tile = city.tile_names[0]

    def upstream(asset: str, key: str, parent: str) -> set[str]:
        node = graph.get(dg.AssetKey(asset))
        mapping = node.partition_mappings[dg.AssetKey(parent)]
        result = mapping.get_upstream_mapped_partitions_result_for_partitions(
            node.partitions_def.subset_with_partition_keys([key]),
            node.partitions_def,
            graph.get(dg.AssetKey(parent)).partitions_def,
        )
        return set(result.partitions_subset.get_partition_keys())

    near = {f"synthetic/{name}" for name in city.neighbour_tiles(tile)}
    everywhere = {f"synthetic/{name}" for name in city.tile_names}
    for parent in ("world_radio_map", "world_scene", "world_sites"):
        assert upstream("measurements", f"synthetic/{tile}", parent) == near
    assert upstream("world_scene", f"synthetic/{tile}", "sites") == near  # masts on its buildings
    assert upstream("world_scene", f"synthetic/{tile}", "osm_extract") == {"synthetic"}
    assert upstream("measurement_set", "synthetic", "measurements") == everywhere
    assert upstream("scene", f"synthetic/{tile}", "osm_extract") == {"synthetic"}


def test_an_unknown_executor_is_refused(pipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UELOC_EXECUTOR", "fast")
    with pytest.raises(UelocError, match="unknown executor 'fast'.*in_process"):
        pipeline.definitions.build_defs()


@pytest.mark.parametrize("name", ["in_process", "multiprocess"])
def test_the_executor_is_configuration(pipeline, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv("UELOC_EXECUTOR", name)
    assert pipeline.definitions.build_defs().executor.name == name


def test_code_versions_are_read_without_importing():
    from assets.stages import code_version
    from ueloc_core.radio import radio_map

    assert code_version("ueloc_core.radio.radio_map") == radio_map.CODE_VERSION
    with pytest.raises(AttributeError, match="CODE_VERSION"):
        code_version("ueloc_core.units")
    with pytest.raises(ModuleNotFoundError):
        code_version("ueloc_core.radio.nothing")
