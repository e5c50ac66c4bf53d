"""What starts by itself: schedule, sensor, backfill and conditions."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from ueloc_core.synthetic import edit_building_height


def test_a_city_has_the_schedule_of_its_file(pipeline):
    defs = pipeline.definitions.defs
    schedule = defs.resolve_schedule_def("regenerate_synthetic")
    assert schedule.cron_schedule == "0 3 * * 0"
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    (request,) = schedule.evaluate_tick(
        dg.build_schedule_context(repository_def=defs.get_repository_def())
    ).run_requests
    assert request.partition_key == "synthetic"
    assert schedule.job_name == "regenerate_city"


def test_a_changed_extract_asks_for_its_city(pipeline, trial):
    repository = pipeline.definitions.defs.get_repository_def()
    sensor = pipeline.definitions.defs.resolve_sensor_def("changed_extracts")

    def tick(cursor: str | None) -> dg.SensorResult:
        context = dg.build_sensor_context(cursor=cursor, repository_def=repository)
        return sensor.evaluate_tick(context)

    first = tick(None)
    assert first.run_requests == []  # it takes note
    same = tick(first.cursor)
    assert same.run_requests == []
    source = trial.city.source.path
    edited = source.with_name("edited.osm.gz")
    edit_building_height(source, edited, "relation/1", 31.0)
    shutil.move(edited, source)
    changed = tick(same.cursor)
    (request,) = changed.run_requests
    assert request.partition_key == "synthetic"
    assert tick(changed.cursor).run_requests == []


def test_an_unreadable_extract_does_not_stop_the_sensor(pipeline, trial):
    trial.city.source.path.unlink()
    sensor = pipeline.definitions.defs.resolve_sensor_def("changed_extracts")
    result = sensor.evaluate_tick(
        dg.build_sensor_context(repository_def=pipeline.definitions.defs.get_repository_def())
    )
    assert result.run_requests == []


def test_regenerate_city_submits_one_backfill_of_all_its_partitions(pipeline, home: Path):
    defs = pipeline.definitions.defs
    job = defs.resolve_job_def("regenerate_city")
    with pipeline.instance.open_instance(home) as instance:
        for _ in range(2):  # the second finds the first in progress
            assert job.execute_in_process(instance=instance, partition_key="synthetic").success
        (backfill,) = instance.get_backfills()
        assert backfill.title == "Regenerate synthetic"
        target = backfill.asset_backfill_data.target_subset
    keys = pipeline.partitions.TILE_KEYS["synthetic"]
    assert set(target.get_partitions_subset(dg.AssetKey("scene")).get_partition_keys()) == set(keys)
    assert target.get_partitions_subset(dg.AssetKey("evaluation")).get_partition_keys() == {
        "synthetic"
    }
    assert len(target.asset_keys) == 15


@pytest.mark.filterwarnings("default")  # Dagster calls its own evaluation a beta
def test_a_new_extract_asks_for_the_tiles(pipeline, trial):
    defs = pipeline.definitions.build_defs(trial.store.url, executor="in_process")
    with pipeline.instance.open_instance(trial.root / "instance") as instance:
        seen = dg.evaluate_automation_conditions(defs, instance)
        calm = dg.evaluate_automation_conditions(defs, instance, cursor=seen.cursor)
        assert calm.total_requested == 0
        source = trial.city.source.path
        edited = source.with_name("edited.osm.gz")
        edit_building_height(source, edited, "relation/1", 31.0)
        shutil.move(edited, source)
        job = defs.resolve_implicit_global_asset_job_def()
        job.execute_in_process(
            instance=instance,
            partition_key="synthetic",
            asset_selection=[dg.AssetKey("osm_extract")],
        )
        after = dg.evaluate_automation_conditions(defs, instance, cursor=calm.cursor)
    tiles = set(pipeline.partitions.TILE_KEYS["synthetic"])
    assert after.get_requested_partitions(dg.AssetKey("scene")) == tiles
