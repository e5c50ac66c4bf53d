"""Connections that stay open write what Dagster's own storages read."""

from pathlib import Path

import dagster as dg
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage


@dg.asset
def made() -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion("seven"))


def test_dagsters_own_storage_reads_the_same_databases(pipeline, home: Path):
    with pipeline.instance.open_instance(home) as instance:
        assert type(instance.event_log_storage).__name__ == "OpenEventLogStorage"
        runs = [dg.materialize([made], instance=instance).run_id for _ in range(3)]
        events = [len(instance.all_logs(run)) for run in runs]
    with dg.DagsterInstance.from_config(str(home)) as own:
        assert type(own.event_log_storage) is SqliteEventLogStorage
        assert {run.run_id for run in own.get_runs()} == set(runs)
        # the second and third database began as copies of the blank one: no event of another run
        assert [len(own.all_logs(run)) for run in runs] == events
        assert {log.run_id for log in own.all_logs(runs[2])} == {runs[2]}
        latest = own.get_latest_materialization_event(dg.AssetKey("made"))
        assert latest.asset_materialization.tags["dagster/data_version"] == "seven"


def test_a_storage_that_the_user_chose_is_left_alone(pipeline, home: Path):
    config = home / "dagster.yaml"
    folder = home / "elsewhere"
    text = f"storage:\n  sqlite:\n    base_dir: {folder}\n"
    config.write_text(config.read_text() + text)
    with pipeline.instance.open_instance(home) as instance:
        assert type(instance.event_log_storage).__name__ != "OpenEventLogStorage"
    assert folder.exists()
