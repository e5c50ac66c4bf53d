"""What is computed again, and what is not."""

from pathlib import Path

import pandas as pd
import pytest
from shapely import box

from ueloc_core.synthetic import edit_building_height, edit_tags

STAGES_OF_A_TILE = (
    *("scene", "sites", "radio_map", "world_scene", "world_sites", "world_radio_map"),
    "measurements",
)


def test_the_first_run_computes_everything(built, computed):
    assert computed(built[1]) == {
        "osm_extract": 1,
        **dict.fromkeys(STAGES_OF_A_TILE, 6),
        "measurement_set": 1,
        "path_traced_measurements": 1,
        "map_error": 1,
        "posterior_model": 1,
        "calibration": 1,
        "evaluation": 1,
        "coverage": 1,
    }


def test_a_second_run_computes_nothing_and_says_so(trial, computed, pipeline):
    tallies = trial.regenerate()
    assert computed(tallies) == {}
    assert sum(tally.cached for tally in tallies.values()) == 50
    with pipeline.instance.open_instance(trial.root / "instance") as instance:
        import dagster as dg

        tile = trial.city.tile_names[0]
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey("scene"), asset_partitions=[f"synthetic/{tile}"]),
            limit=2,
        ).records
    last, first = (record.asset_materialization for record in records)
    assert last.metadata["cached"].value is True
    assert first.metadata["cached"].value is False
    assert last.metadata["seconds"].value == 0
    assert last.metadata["fingerprint"] == first.metadata["fingerprint"]
    assert last.metadata["preview"].value.startswith("![preview](data:image/png;base64,")
    version = last.tags["dagster/data_version"]
    assert version == first.tags["dagster/data_version"]
    assert version == trial.artifact("scene", tile).content


def test_an_evaluation_setting_runs_evaluation_only(trial, computed):
    trial.edit(evaluation=trial.city.evaluation.model_dump() | {"max_reports": 7})
    assert computed(trial.regenerate()) == {"evaluation": 1}


def test_a_training_setting_runs_the_model_and_what_follows(trial, computed):
    trial.edit(training={"epochs": 3})
    tallies = computed(trial.regenerate())
    # the calibration is the same again, but its inputs are not
    assert tallies == {"posterior_model": 1, "calibration": 1, "evaluation": 1}


def test_a_reading_error_leaves_the_maps_alone(trial, computed):
    trial.edit(measurements={"terminal": {"level_sigma_db": 3.0}})
    tallies = computed(trial.regenerate())
    assert {"radio_map", "coverage"}.isdisjoint(tallies)
    assert tallies["measurements"] == 6


def test_the_coverage_follows_the_maps_and_the_detection_threshold(trial):
    before = trial.artifact("coverage")
    trial.edit(measurements={"detection_threshold_dbm": -60.0})
    tallies = trial.regenerate()
    assert tallies["coverage"].computed == ["synthetic"]
    assert not tallies["radio_map"].computed
    after = trial.artifact("coverage")
    assert 0 < after.metadata["served_share"] < before.metadata["served_share"]
    for name in ("known_share", "median_rsrp_dbm"):
        assert after.metadata[name] == before.metadata[name]
    assert after.metadata["median_sectors_heard"] < before.metadata["median_sectors_heard"]


def _changed(before, after):
    """Geometries of the features that differ, before and after."""
    both = pd.concat([before, after]).assign(shape=lambda f: f.geometry.to_wkb(hex=True))
    texts = both.drop(columns="geometry").astype(str)
    return both[~texts.duplicated(keep=False)].geometry


def test_an_edited_building_rebuilds_the_tiles_that_see_it(trial, computed):
    from ueloc_core.geodata.osm import load_features

    city = trial.city
    before = load_features(trial.artifact("osm_extract").path)
    halos = {tile.name: box(*city.scene_window(tile).bounds_m) for tile in city.tile_list}
    buildings = before[(before.kind == "building") & (before.material != "glass")]
    apart = buildings[~buildings.intersects(halos[city.splits.test[0]])]
    seen_by = sum(apart.intersects(halo).astype(int) for halo in halos.values())
    building = apart.loc[seen_by.idxmin()]  # test sites stay where they are
    expected = {name for name, halo in halos.items() if building.geometry.intersects(halo)}
    assert 0 < len(expected) < len(city.tile_list)

    edited = trial.root / "cities" / "edited.osm.gz"
    edit_tags(city.source.path, edited, building.osm_id, {"building:material": "glass"})
    trial.edit(source={"kind": "file", "path": edited})
    tallies = trial.regenerate()
    assert {key.split("/")[1] for key in tallies["scene"].computed} == expected
    assert {key.split("/")[1] for key in tallies["radio_map"].computed} >= expected
    assert tallies["osm_extract"].computed


def test_an_edited_height_rebuilds_the_tiles_that_see_a_change(trial, computed):
    """An edit changes the building, and the heights that its neighbours were given."""
    from ueloc_core.geodata.osm import load_features

    city = trial.city
    before = load_features(trial.artifact("osm_extract").path)
    building = before[before.height_source == "tag"].iloc[0]
    edited = trial.root / "cities" / "higher.osm.gz"
    edit_building_height(city.source.path, edited, building.osm_id, building.height_m + 9.0)
    trial.edit(source={"kind": "file", "path": edited})
    tallies = trial.regenerate()
    changed = _changed(before, load_features(trial.artifact("osm_extract").path))
    assert len(changed) > 2
    expected = {
        tile.name
        for tile in city.tile_list
        if changed.intersects(box(*city.scene_window(tile).bounds_m)).any()
    }
    assert {key.split("/")[1] for key in tallies["scene"].computed} == expected


def test_a_rewritten_extract_of_the_same_content_stops_at_the_extract(trial, computed):
    import gzip

    source = trial.city.source.path
    copy = trial.root / "cities" / "again.osm"
    copy.write_bytes(gzip.decompress(source.read_bytes()))
    trial.edit(source={"kind": "file", "path": copy})
    assert computed(trial.regenerate()) == {"osm_extract": 1}


def test_a_damaged_artifact_is_rebuilt(trial, computed):
    tile = trial.city.tile_names[1]
    (trial.artifact("scene", tile).path / "scene.xml").unlink()
    assert computed(trial.regenerate()) == {"scene": 1}


def test_no_path_of_the_machine_is_in_the_store(trial):
    root = str(trial.root.parent).encode()
    for path in Path(trial.store.url).rglob("*"):
        if path.is_file() and path.suffix in {".json", ".xml", ".html", ".parquet"}:
            assert root not in path.read_bytes(), path


@pytest.mark.parametrize("stage", ["osm_extract", "scene"])
def test_fingerprints_do_not_depend_on_the_place(trial, built, stage: str):
    partition = "city" if stage == "osm_extract" else trial.city.tile_names[0]
    manifest = Path(built[0]) / "store" / "synthetic" / stage / partition / "current.json"
    assert trial.artifact(stage, partition).fingerprint in manifest.read_text()


def test_exact_paths_follow_the_world_and_the_reports_but_not_the_budget_of_rays(trial, computed):
    few = trial.city.ray_tracing.model_dump() | {"rays_per_site": 25_000}
    before = trial.artifact("path_traced_measurements")
    trial.edit(evaluation=trial.city.evaluation.model_dump() | {"path_traced_reports": 20})
    assert computed(trial.regenerate()) == {"path_traced_measurements": 1, "evaluation": 1}
    more = trial.artifact("path_traced_measurements")
    assert before.metadata["reports"] < more.metadata["reports"]
    # the stand-in's maps do not depend on how many rays there are, so the reports are the same
    trial.edit(ray_tracing=few)
    tallies = computed(trial.regenerate())
    assert tallies["world_radio_map"] == 6
    assert "path_traced_measurements" not in tallies
    trial.edit(ray_tracing=few | {"max_depth": 3})
    assert computed(trial.regenerate())["path_traced_measurements"] == 1


def test_exact_paths_are_of_test_tracks_alone(trial):
    from ueloc_core.measurement.dataset import load_reports

    traced = load_reports(trial.artifact("path_traced_measurements").path)
    drawn = load_reports(trial.artifact("measurement_set").path)
    split = dict(zip(drawn.track.values, drawn.split.values, strict=True))
    assert traced.sizes["report"]
    assert {split[track] for track in traced.track.values} == {3}
