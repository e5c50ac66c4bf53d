"""When something is wrong: what stops, what is said, and what stays."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import xarray as xr

from ueloc_core.errors import RadioError, SceneError

PROJECT = Path(__file__).parents[2]


def test_a_broken_contract_stops_what_is_downstream(
    trial, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from ueloc_core.radio import radio_map as maps

    write = maps.write_cube

    def impossible(cube: xr.Dataset, path: Path) -> int:
        return write(cube.assign(path_gain_db=cube.path_gain_db + 300), path)

    monkeypatch.setattr(maps, "write_cube", impossible)
    before = trial.artifact("world_radio_map", "e3014n52126").fingerprint
    trial.edit(ray_tracing={"max_depth": 1})
    assert trial.main() == 1
    error = capsys.readouterr().err
    assert "a contract between stages is broken" in error
    assert "radio_map.schema" in error
    assert "path_gain_db" in error
    assert "Traceback" not in error
    # the first tile with sectors stopped the run: no measurements were taken from such maps
    assert trial.artifact("measurements", "e3014n52126").cached
    assert trial.artifact("world_radio_map", "e3014n52127").fingerprint is not None
    assert before is not None


def test_a_stage_that_refuses_its_input_ends_with_its_own_words(
    trial, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_arguments):
        raise SceneError("no ground", where="synthetic/e1n1", remedy="Give it some.")

    monkeypatch.setattr("ueloc_core.scene.mitsuba.build_scene", refuse)
    trial.edit(radio={"frequency_ghz": 3.6})
    assert trial.main() == 1
    error = capsys.readouterr().err
    assert "error: synthetic/e1n1: no ground. Give it some." in error
    assert "Traceback" not in error
    assert len(error.splitlines()) < 10


def test_a_coverage_that_fails_stops_no_training(
    trial, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_arguments, **_named):
        raise RadioError("no picture", where="synthetic")

    monkeypatch.setattr("ueloc_core.radio.coverage.build_coverage", refuse)
    before = trial.artifact("evaluation").fingerprint
    trial.edit(measurements={"detection_threshold_dbm": -110.0})
    assert trial.main() == 1
    assert "error: synthetic: no picture" in capsys.readouterr().err
    assert trial.artifact("evaluation").fingerprint != before


def test_a_defect_shows_where_it_is_in_few_lines(
    trial, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def defect(*_arguments):
        return {}["missing"]

    monkeypatch.setattr("ueloc_core.scene.mitsuba.build_scene", defect)
    trial.edit(radio={"frequency_ghz": 3.6})
    assert trial.main() == 1
    error = capsys.readouterr().err
    assert "unexpected KeyError: 'missing'" in error
    assert "test_failures.py" in error
    assert len(error.splitlines()) < 30


def test_an_unknown_city_is_refused(trial, capsys: pytest.CaptureFixture[str], pipeline):
    assert pipeline.regenerate.main(["atlantis"]) == 1
    error = capsys.readouterr().err
    assert "no such city file" in error
    assert "synthetic" in error


def test_the_end_names_the_report_and_the_table(trial, capsys: pytest.CaptureFixture[str]):
    assert trial.main() == 0
    out = capsys.readouterr().out
    folder = trial.artifact("evaluation").path
    assert f"report: {folder / 'report.html'}" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["network"] == ["5.0", "5.0", "5.0", "100.0%"]
    assert rows["knn"] == ["5.0", "5.0", "5.0", "-"]
    assert rows["scene"] == ["6", "0", "0.0"]


def test_a_leak_between_splits_is_found(trial):
    from assets.checks import no_leak
    from ueloc_core.measurement.dataset import load_reports
    from ueloc_core.measurement.splits import split_violations

    reports = load_reports(trial.artifact("measurement_set").path)
    assert no_leak(split_violations(reports, trial.city)).passed
    test_report = int((reports.split.values == 3).argmax())
    leaky = reports.copy(deep=True)
    leaky.split[int((reports.split.values == 0).argmax())] = 3  # a terminal of a training tile
    leaky.track[test_report] = leaky.track[int((leaky.split.values == 0).argmax())]
    result = no_leak(split_violations(leaky, trial.city))
    assert not result.passed
    assert "terminals_in_two_splits" in result.description


def test_a_killed_run_blocks_nobody(trial, pipeline, home: Path):
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    job = pipeline.definitions.defs.resolve_implicit_global_asset_job_def()
    from psutil import Process

    with pipeline.instance.open_instance(home) as instance:
        owner = f"{os.uname().nodename}:{holder.pid}@{Process(holder.pid).create_time():.0f}"
        tags = {"ueloc/process": owner}
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags)
        instance.event_log_storage.initialize_concurrency_limit_to_default("cpu")
        claim = instance.event_log_storage.claim_concurrency_slot("cpu", run.run_id, "radio_map")
        assert claim.is_claimed
        assert pipeline.instance.recover_killed_runs(instance) == []  # it is still at work
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert pipeline.instance.recover_killed_runs(instance) == [run.run_id]
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        info = instance.event_log_storage.get_concurrency_info("cpu")
        assert info.active_slot_count == 0
