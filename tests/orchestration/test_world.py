"""The world of a city through Dagster: free where nothing differs, and never seen by the twin."""

from ueloc_core.provenance import digest_folder

TWIN = ("scene", "sites", "radio_map")


def test_by_default_the_world_is_the_twin(trial):
    for tile in trial.city.tile_names:
        for world, twin in (("world_scene", "scene"), ("world_sites", "sites")):
            copy, original = trial.artifact(world, tile), trial.artifact(twin, tile)
            assert copy.content == original.content == digest_folder(copy.path)
            assert copy.metadata["same_as_twin"]


def test_a_world_that_differs_is_traced_anew_and_the_twin_is_not(trial, computed):
    city = trial.city
    before = {
        (stage, tile): trial.artifact(stage, tile) for stage in TWIN for tile in city.tile_names
    }
    coverage = trial.artifact("coverage")
    trial.edit(world={"level": "osm"})
    tallies = computed(trial.regenerate())
    for stage in ("world_scene", "world_sites", "measurements"):
        assert tallies[stage] == len(city.tile_names)
    assert tallies["measurement_set"] == 1
    assert not {*TWIN, "coverage", "osm_extract"} & set(tallies)
    for (stage, tile), artifact in before.items():
        after = trial.artifact(stage, tile)
        assert after.fingerprint == artifact.fingerprint
        assert after.content == artifact.content == digest_folder(after.path)
    assert trial.artifact("coverage").content == coverage.content
    differ = [
        trial.artifact("world_scene", tile).content != before["scene", tile].content
        for tile in city.tile_names
    ]
    assert all(differ)
    # what the city's stages read is of the twin; of the world they see the reports alone
    for stage in ("map_error", "posterior_model", "calibration", "evaluation"):
        read = trial.artifact(stage).inputs
        of_maps = {name for name in read if "/" in name}
        assert {name.partition("/")[0] for name in of_maps} == {"context", "sectors", "radio_map"}
        from assets.inputs import content_of

        for tile in city.tile_names:
            twin = before["radio_map", tile], before["sites", tile], before["scene", tile]
            assert read[f"radio_map/{tile}"] == content_of(twin[0], "radio_map.zarr")
            assert read[f"sectors/{tile}"] == content_of(twin[1], "sectors.parquet")
            assert read[f"context/{tile}"] == content_of(twin[2], "context.zarr")


def test_amounts_of_antennas_leave_the_worlds_buildings_alone(trial, computed):
    trial.edit(world={"power_db": 1.0})
    tallies = computed(trial.regenerate())
    assert "world_scene" not in tallies
    assert tallies["world_sites"] == len(trial.city.tile_names)
    assert not {*TWIN, "coverage"} & set(tallies)
    first = [trial.artifact("world_sites", tile).content for tile in trial.city.tile_names]
    trial.edit(world={"power_db": 2.0})
    assert computed(trial.regenerate())["world_sites"] == len(trial.city.tile_names)
    second = [trial.artifact("world_sites", tile).content for tile in trial.city.tile_names]
    assert first != second
