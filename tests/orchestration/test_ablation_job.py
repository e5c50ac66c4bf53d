"""The job `ablate`: asked for on its own, part by part, and nothing twice."""

import functools
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from ueloc_core.evaluation import ablations
from ueloc_core.provenance import ArtifactKey

BUDGET = {"epochs": 1, "reports_per_epoch": 16, "max_reports": 12}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parts that were computed, by stand-ins that read their data."""
    names: list[str] = []

    def quick(part, work, out: Path):
        names.append(part.name)
        reports = work.data.tested.reports
        assert [of.city.name for of in work.data.training] == ["synthetic"]
        assert work.data.training[0] is work.data.tested
        assert (work.data.map_error_folder / "map_error.json").is_file()
        if part.reads_network:
            assert (work.network / "checkpoint.pt").read_text() == "full"
        (out / "checkpoint.pt").write_text(part.name)
        count = part.city.ablations.max_reports
        error_m = np.linspace(1.0, 2.0, count) * len(part.name)
        fixes = pd.DataFrame(
            {
                "method": part.name,
                "report": np.arange(count),
                "track": reports.track.values[:count],
                "sector_id": 1,
                "x_m": error_m,
                "y_m": 0.0,
                "truth_x_m": 0.0,
                "truth_y_m": 0.0,
                "error_m": error_m,
                "energy_score_m": error_m,
                "nll_nats": 2.0,
                "hpd_level": 0.5,
                "area90_m2": 100.0,
                "in_window": True,
            }
        )
        fixes.to_parquet(out / ablations.FIXES, index=False)
        (out / ablations.FIGURES).write_text("{}")
        return {}

    table = functools.partial(ablations.ablation_table, resamples=20)
    monkeypatch.setattr(ablations, "ablation_table", table)
    for part in (ablations.TrainedPart, ablations.RefinedPart, ablations.OraclePart):
        monkeypatch.setattr(part, "compute", quick)
    return names


def edit(trial, *variants: str, **budget: int) -> None:
    trial.edit(ablations={**BUDGET, **budget, "variants": variants})


def run(pipeline, trial, *, fails: bool = False) -> dict[str, dg.MetadataValue]:
    """Execute the job; metadata of its materialization."""
    defs = pipeline.definitions.build_defs(trial.store.url, executor="in_process")
    with pipeline.instance.open_instance(trial.root / "instance") as instance:
        result = defs.resolve_job_def("ablate").execute_in_process(
            instance=instance, partition_key="synthetic", raise_on_error=not fails
        )
    assert result.success is not fails
    if fails:
        return {}
    assert all(check.passed for check in result.get_asset_check_evaluations())
    assert len(result.get_asset_check_evaluations()) == 2
    (event,) = result.get_asset_materialization_events()
    return dict(event.materialization.metadata)


def test_the_second_run_computes_nothing(pipeline, trial, asked):
    edit(trial, "no_maps", "levels_only", "refined")
    first = run(pipeline, trial)
    every = ["full", "no_maps", "levels_only", "refined", "oracle", "oracle_levels"]
    assert asked == first["parts_computed"].value == every
    assert first["cached"].value is False
    assert first["table"].value.startswith("| variant | median [m] |")
    assert "No map" in first["table"].value
    assert first["preview"].value.startswith("![ablations](data:image/png")
    second = run(pipeline, trial)
    assert second["cached"].value is True
    assert second["parts_computed"].value == []
    assert asked == every


def test_a_run_that_was_stopped_goes_on_with_the_part_that_it_lacks(
    pipeline, trial, asked, monkeypatch: pytest.MonkeyPatch
):
    edit(trial, "no_maps")
    with monkeypatch.context() as patch:
        patch.delattr(ablations.OraclePart, "compute")
        run(pipeline, trial, fails=True)
    assert asked == ["full", "no_maps"]
    assert trial.store.current(ArtifactKey("synthetic", "ablations")) is None
    assert run(pipeline, trial)["parts_computed"].value == ["oracle"]


def test_a_changed_configuration_asks_for_what_depends_on_it(pipeline, trial, asked):
    edit(trial, "no_maps")
    fingerprints = {run(pipeline, trial)["fingerprint"].value}

    def computed() -> list[str]:
        found = run(pipeline, trial)
        assert found["cached"].value is False
        fingerprints.add(found["fingerprint"].value)
        return found["parts_computed"].value

    edit(trial, "no_maps", "no_physics")  # one more: the others stay
    assert computed() == ["no_physics"]
    edit(trial, "no_maps", "no_physics", epochs=2)  # an oracle is not trained
    assert computed() == ["full", "no_maps", "no_physics"]
    edit(trial, "no_maps", "no_physics", epochs=2, max_reports=11)
    assert computed() == ["full", "no_maps", "no_physics", "oracle"]
    assert len(fingerprints) == 4
    trial.edit(measurements={"dropout_probability": 0.04})
    again = run(pipeline, trial)
    assert again["parts_computed"].value == ["full", "no_maps", "no_physics", "oracle"]
    assert again["cached"].value is True  # the same fixes came out: the table stands


def test_a_damaged_part_is_computed_again(pipeline, trial, asked):
    edit(trial)
    run(pipeline, trial)
    shutil.rmtree(trial.artifact("ablations", "oracle").path)
    assert run(pipeline, trial)["parts_computed"].value == ["oracle"]


def test_the_command_line_prints_the_table(
    pipeline, trial, asked, capsys: pytest.CaptureFixture[str]
):
    from pipelines.ablate import main

    edit(trial, "no_maps")
    arguments = ["synthetic", "--store", str(trial.root / "store")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "| No map |" in out
    assert f"figure and tables: {trial.artifact('ablations').path}" in out
    (trial.artifact("map_error").path.parent / "current.json").unlink()
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "error: " in error
    assert "synthetic/map_error/city has not been computed" in error


def test_nothing_asks_for_it_but_a_person(pipeline, trial, asked):
    """Neither the regeneration of a city, nor a backfill, nor a changed input."""
    edit(trial, "no_maps")
    assert "ablations" not in trial.regenerate()
    assert asked == []
    (asset,) = pipeline.definitions.ON_DEMAND
    (spec,) = asset.specs
    assert spec.automation_condition is None
    assert spec.group_name == "evaluation"
    assert spec.description
    assert spec.kinds
    assert spec.owners
    graph = pipeline.definitions.defs.resolve_asset_graph()
    parents = {key.to_user_string() for key in graph.get(spec.key).parent_keys}
    assert parents == {"map_error", "measurement_set", "radio_map", "scene", "sites"}
    assert graph.get(spec.key).child_keys == set()
    assert all(graph.get(key).blocking for key in graph.get(spec.key).check_keys)
