"""Variants of a city: what they borrow, who trains them, and what is said where they fail."""

import json
import shutil
from dataclasses import replace

import dagster as dg
import pytest

from benchmarks.quick_city import write_city_file
from ueloc_core.city import load_city
from ueloc_core.errors import StoreError
from ueloc_core.provenance import TAKEN_OVER

OF_THE_TWIN = ("scene", "sites", "radio_map")
LEARNED = ("map_error", "posterior_model", "calibration")


def upstream(pipeline, asset, key, parent):
    """Partitions of a parent that one partition of an asset reads."""
    graph = pipeline.definitions.defs.resolve_asset_graph()
    node = graph.get(dg.AssetKey(asset))
    mapping = node.partition_mappings.get(dg.AssetKey(parent), dg.IdentityPartitionMapping())
    result = mapping.get_upstream_mapped_partitions_result_for_partitions(
        node.partitions_def.subset_with_partition_keys([key]),
        node.partitions_def,
        graph.get(dg.AssetKey(parent)).partitions_def,
    )
    return set(result.partitions_subset.get_partition_keys())


# ---- borrowing ----


def test_a_mismatch_costs_what_differs(grown, computed):
    """The twin is the base's; the world and what follows from it is computed."""
    trial, found = grown.trial, computed(grown.mismatch)
    tiles = trial.city.tile_names
    assert not {*OF_THE_TWIN, "osm_extract", "coverage"} & set(found)
    world = ("world_scene", "world_sites", "world_radio_map")
    assert {found[stage] for stage in world} == {len(tiles)}
    assert found["evaluation"] == 1
    assert grown.mismatch["radio_map"].cached == len(tiles)
    for stage in OF_THE_TWIN:
        for tile in tiles:
            own, base = (trial.artifact(stage, tile, c) for c in ("synthetic_osm", "synthetic"))
            assert own.metadata[TAKEN_OVER] == "synthetic"
            assert own.content == base.content
            assert TAKEN_OVER not in base.metadata
            files = [path for path in base.path.rglob("*") if path.is_file()]
            assert all(f.samefile(own.path / f.relative_to(base.path)) for f in files)
    assert TAKEN_OVER not in trial.artifact("evaluation", city="synthetic_osm").metadata


def test_dagster_says_who_computed_it(grown, pipeline):
    """In its own metadata; the data version is the base's."""
    tile = grown.trial.city.tile_names[0]
    with pipeline.instance.open_instance(grown.trial.root / "instance") as instance:
        chosen = dg.AssetRecordsFilter(
            dg.AssetKey("scene"), asset_partitions=[f"synthetic_osm/{tile}"]
        )
        (record,) = instance.fetch_materializations(chosen, limit=1).records
    metadata = record.asset_materialization.metadata
    assert metadata[TAKEN_OVER].value == "synthetic"
    assert metadata["cached"].value is True
    assert metadata["seconds"].value == 0
    version = record.asset_materialization.tags["dagster/data_version"]
    assert version == grown.trial.artifact("scene", tile).content


# ---- training on other cities ----


def test_lineage_shows_who_trains_whom(pipeline):
    tiles = pipeline.partitions.TILE_KEYS
    for stage in LEARNED:
        for city in ("synthetic", "elsewhere", "synthetic_osm"):
            assert upstream(pipeline, stage, city, "measurement_set") == {city}
            assert upstream(pipeline, stage, city, "radio_map") == set(tiles[city])
        for parent, keys in (("measurement_set", ["synthetic"]), ("scene", tiles["synthetic"])):
            assert upstream(pipeline, stage, "elsewhere_unseen", parent) == set(keys)
    for stage in ("posterior_model", "calibration"):
        assert upstream(pipeline, stage, "elsewhere_unseen", "map_error") == {"elsewhere_unseen"}
    read = upstream(pipeline, "evaluation", "elsewhere_unseen", "measurement_set")
    assert read == {"elsewhere_unseen", "synthetic"}
    own = {"elsewhere_unseen"}
    assert upstream(pipeline, "evaluation", "elsewhere_unseen", "posterior_model") == own
    assert upstream(pipeline, "evaluation", "elsewhere", "measurement_set") == {"elsewhere"}


def test_an_unseen_city_learns_from_the_others_alone(grown):
    """They are brought up to date first: here nothing is left to do for them but to be read."""
    trial, tallies = grown.trial, grown.unseen
    done = {key for tally in tallies.values() for key in tally.computed}
    assert {key.partition("/")[0] for key in done} == {"elsewhere_unseen"}
    assert tallies["radio_map"].cached == len(trial.city.tile_names)
    assert tallies["measurement_set"].cached == 1
    assert tallies["posterior_model"].cached == 0
    for stage in LEARNED:
        result = trial.artifact(stage, city="elsewhere_unseen")
        assert result.metadata["cities"] == ["synthetic"]
        foreign = {name for name in result.inputs if name.startswith("synthetic/")}
        assert "synthetic/measurement_set" in foreign
        assert set(result.inputs) - foreign <= {"map_error", "posterior_model"}
    evaluated = trial.artifact("evaluation", city="elsewhere_unseen")
    assert {"measurement_set", "synthetic/measurement_set"} <= set(evaluated.inputs)
    assert evaluated.metadata["tuned_on"] == "synthetic"
    splits = json.loads((evaluated.path / "summary.json").read_text())["splits"]
    assert set(splits) == {"test_city"}


def test_what_an_unseen_city_follows(grown, stand_ins, tmp_path, monkeypatch, computed):
    """Not its own reports, but those of the cities that train it."""
    root = tmp_path / "trial"
    shutil.copytree(grown.trial.root, root)
    trial = replace(grown.trial, root=root)
    monkeypatch.setenv("UELOC_CITIES", str(root / "cities"))
    assert computed(trial.regenerate("elsewhere_unseen")) == {}

    city = load_city("elsewhere_unseen")
    tracks = city.measurements.tracks.model_copy(update={"tracks_per_hectare": 150.0})
    measured = city.measurements.model_copy(update={"tracks": tracks})
    write_city_file(city.model_copy(update={"measurements": measured}), root / "cities")
    before = {stage: trial.artifact(stage, city=city.name) for stage in LEARNED}
    found = computed(trial.regenerate(city.name))
    assert found["measurement_set"] == found["evaluation"] == 1
    for stage, old in before.items():
        assert trial.artifact(stage, city=city.name).content == old.content
        of_the_others = {n: v for n, v in old.inputs.items() if "/" in n}
        assert of_the_others.items() <= trial.artifact(stage, city=city.name).inputs.items()

    trial.edit(measurements={"terminal": {"level_sigma_db": 3.0}})
    tallies = trial.regenerate(city.name)
    tiles = trial.modules.partitions.TILE_KEYS["synthetic"]
    assert set(tallies["measurements"].computed) == set(tiles)
    assert tallies["posterior_model"].computed == [city.name]  # that of the other is not asked for
    model = trial.artifact("posterior_model", city=city.name)
    assert model.fingerprint != before["posterior_model"].fingerprint


def test_a_city_that_nobody_measured_is_named_with_the_remedy(trial, pipeline):
    """From the Dagster UI, say, where nothing is brought up to date by itself."""
    shutil.rmtree(trial.root / "store" / "synthetic" / "measurement_set")
    defs = pipeline.definitions.build_defs(trial.store.url, executor="in_process")
    with pipeline.instance.open_instance(trial.root / "instance") as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        with pytest.raises(StoreError, match="elsewhere_unseen is trained on synthetic") as caught:
            job.execute_in_process(
                instance=instance,
                partition_key="elsewhere_unseen",
                asset_selection=[dg.AssetKey("map_error")],
            )
    assert "make demo CITY=elsewhere_unseen" in caught.value.remedy


def test_the_command_line_names_a_city_without_a_file(trial, capsys):
    (trial.root / "cities" / "lost.yaml").write_text(
        "name: lost\nextends: elsewhere\ntraining: {cities: [synthetic, atlantis]}\n"
    )
    assert trial.modules.regenerate.main(["lost"]) == 1
    error = capsys.readouterr().err
    assert "lost.yaml: training.cities: 'atlantis' has no city file" in error
    assert "Traceback" not in error


def test_definitions_name_a_city_without_a_file(tmp_path):
    from test_definitions import in_new_python

    box = "source: {kind: bundled}\nbbox: [24.935, 60.164, 24.953, 60.179]\n"
    (tmp_path / "here.yaml").write_text(f"name: here\n{box}training: {{cities: [nowhere]}}\n")
    done = in_new_python("import pipelines.definitions", UELOC_CITIES=str(tmp_path))
    last_line = done.stderr.strip().splitlines()[-1]
    assert "here.yaml: training.cities: 'nowhere' has no city file" in last_line


def test_a_backfill_holds_what_trains_the_city(pipeline):
    graph = pipeline.definitions.defs.resolve_asset_graph()
    tiles = pipeline.partitions.TILE_KEYS
    target = pipeline.backfill.partitions_of(graph, "elsewhere_unseen")

    def keys(name):
        return set(target.get_partitions_subset(dg.AssetKey(name)).get_partition_keys())

    both = {*tiles["elsewhere_unseen"], *tiles["synthetic"]}
    assert keys("measurements") == keys("radio_map") == keys("world_scene") == both
    assert keys("osm_extract") == keys("measurement_set") == {"elsewhere_unseen", "synthetic"}
    for stage in (*LEARNED, "path_traced_measurements", "evaluation", "coverage"):
        assert keys(stage) == {"elsewhere_unseen"}
    own = pipeline.backfill.partitions_of(graph, "synthetic")
    assert set(own.get_partitions_subset(dg.AssetKey("scene")).get_partition_keys()) == set(
        tiles["synthetic"]
    )


def test_nothing_computes_variants_by_itself(pipeline, trial):
    names = {s.name for s in pipeline.definitions.defs.schedules}
    assert names == {"regenerate_synthetic"}
    repository = pipeline.definitions.defs.get_repository_def()
    sensor = pipeline.definitions.defs.resolve_sensor_def("changed_extracts")
    result = sensor.evaluate_tick(dg.build_sensor_context(repository_def=repository))
    assert "synthetic_osm" not in result.cursor
    assert "elsewhere" in result.cursor


# ---- what is tested is not learned ----


def test_a_leak_into_training_stops_it(trial, capsys, monkeypatch):
    """A variant that trains on its base too, but tests on other tiles than the base does.

    What stands on its tested ground is set aside; the check does not take that for granted.
    """
    monkeypatch.setattr(
        "ueloc_core.measurement.splits.off_tested_ground", lambda _, sets: [s for _, s in sets]
    )
    (trial.root / "cities" / "synthetic_osm.yaml").write_text(
        "name: synthetic_osm\nextends: synthetic\nworld: {level: osm}\n"
        "training: {cities: [synthetic_osm, synthetic]}\n"
        "splits: {test: [e3014n52127], validation: [e3015n52127]}\n"
    )
    assert trial.modules.regenerate.main(["synthetic_osm", "--store", trial.store.url]) == 1
    error = capsys.readouterr().err
    assert "a contract between stages is broken" in error
    assert "map_error.no_leak: reports_of_synthetic_on_tested_ground" in error
    with pytest.raises(StoreError, match="posterior_model/city has not been computed"):
        trial.artifact("posterior_model", city="synthetic_osm")
