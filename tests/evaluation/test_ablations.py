"""Ablations: what each variant changes, what it is compared with, and a small run of two."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_world import default_atlas, draw_dataset, made_up_city
from PIL import Image

from ueloc_core.city_sections import AblationName
from ueloc_core.errors import CityError, ReportError
from ueloc_core.evaluation.ablation_chart import ablation_figure
from ueloc_core.evaluation.ablation_table import (
    AblationSchema,
    ablation_markdown,
    ablation_table,
)
from ueloc_core.evaluation.ablation_variants import (
    LEVELS,
    LEVELS_AND_MAC,
    LEVELS_AND_PHY,
    REFERENCE,
    VARIANTS,
    variants_of,
    with_budget,
)
from ueloc_core.evaluation.ablations import (
    FIXES,
    AblationData,
    Work,
    build_ablations,
    parts_of,
)
from ueloc_core.evaluation.schemas import FixSchema
from ueloc_core.measurement.city_reports import CityReports
from ueloc_core.measurement.model import MapError
from ueloc_core.measurement.reduced_reports import FEATURE_VARIABLES
from ueloc_core.measurement.reports import FIELDS
from ueloc_core.measurement.scenarios import FEATURES

ERROR = MapError(core_db=1.0, tail_logit=-3.0, tail_db=10.0, unhit_dbm=-135.0, unhit_db=8.0)
BUDGET = {"epochs": 1, "reports_per_epoch": 16, "max_reports": 10}
SPLIT = np.repeat(np.arange(4), (40, 10, 30, 20))  # train, validation, calibration, test


def city_with(*variants, training=None, **budget):
    """A made-up city with a budget for ablations."""
    return made_up_city(
        training={"channels": 8, "components": 6, "batch_size": 8} | (training or {}),
        ablations=BUDGET | {"variants": variants} | budget,
    )


# -- the variants -------------------------------------------------------------------------


def test_a_city_file_and_the_variants_know_the_same_names():
    assert set(get_args(AblationName)) | {REFERENCE} == set(VARIANTS)
    assert next(iter(VARIANTS)) == REFERENCE
    assert [v.name for v in variants_of(made_up_city())] == list(VARIANTS)
    assert [v.name for v in variants_of(city_with("no_maps"))] == [REFERENCE, "no_maps"]
    assert VARIANTS[REFERENCE].changes == {}
    assert len({json.dumps(v.changes) for v in VARIANTS.values()}) == len(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_what_it_names_and_has_the_budget_of_all(name):
    city = city_with(training={"epochs": 9, "reports_per_epoch": 900})
    whole, own = (with_budget(city, VARIANTS[n]).training for n in (REFERENCE, name))
    changed = {k for k, v in own.model_dump().items() if v != getattr(whole, k)}
    assert changed == set(VARIANTS[name].training)
    assert (own.epochs, own.reports_per_epoch) == (1, 16)
    assert with_budget(city, VARIANTS[name]).evaluation.max_reports == 10


def test_a_variant_that_can_learn_nothing_is_refused():
    city = city_with("no_fine", training={"coarse_weight": 0.0, "physics_weight": 0.0})
    with pytest.raises(CityError, match=r"'no_fine' cannot be trained.*Leave 'no_fine' out"):
        with_budget(city, VARIANTS["no_fine"])


def test_layers_of_the_reports_are_those_of_their_fields():
    def of_layer(layer):
        return {f for f, names in FEATURE_VARIABLES.items() if FIELDS[names[0]].layer == layer}

    assert set(LEVELS_AND_MAC) == of_layer("mac")
    assert set(LEVELS_AND_PHY) == of_layer("phy") | {"rsrp", "ta"}
    assert set(LEVELS) < set(LEVELS_AND_MAC) & set(LEVELS_AND_PHY)
    assert set(LEVELS_AND_MAC) | set(LEVELS_AND_PHY) == set(FEATURES)


def test_each_part_has_params_of_its_own_and_follows_the_configuration():
    def params(**changes):
        return {p.name: p.params for p in parts_of(city_with(*get_args(AblationName), **changes))}

    first = params()
    assert len({json.dumps(p, sort_keys=True) for p in first.values()}) == len(first)
    assert {p.name for p in parts_of(city_with("no_maps"))} == {"full", "no_maps", "oracle"}
    trained = {name for name, p in first.items() if "training" in p}
    longer, more = params(epochs=2), params(max_reports=11)
    assert {name for name in first if longer[name] != first[name]} == trained
    assert {name for name in first if more[name] != first[name]} == set(first)
    wider = params(training={"channels": 12})
    assert {name for name in first if wider[name] != first[name]} == trained


# -- the table ----------------------------------------------------------------------------


def fixes_of(methods, n=60, seed=0):
    """Fixes whose errors are multiples of those of the whole network."""
    rng = np.random.default_rng(seed)
    error_m, nll = rng.lognormal(2, 1, n), rng.normal(6, 1, n)
    track = np.repeat(np.arange(n // 2), 2)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "method": method,
                    "report": np.arange(n),
                    "track": track,
                    "error_m": factor * error_m,
                    "energy_score_m": factor * error_m,
                    "nll_nats": nll + np.log(factor),
                    "hpd_level": rng.uniform(0, 1, n),
                }
            )
            for method, factor in methods.items()
        ],
        ignore_index=True,
    )


def test_comparisons_are_paired():
    """What is twice as far off for every report is exactly twice as far off."""
    variants = [VARIANTS[n] for n in (REFERENCE, "no_maps", "levels_only")]
    fixes = fixes_of(
        {"full": 1, "no_maps": 2, "levels_only": 1.5, "oracle": 0.5, "oracle_levels": 1.2}
    )
    table = ablation_table(variants, fixes, resamples=50)
    assert list(table["method"].drop_duplicates()) == [
        *("full", "no_maps", "levels_only", "oracle", "oracle_levels")
    ]
    by = table.set_index(["method", "metric"])
    for metric in ("median_m", "p90_m", "energy_score_m"):
        row = by.loc[("no_maps", metric)]
        assert row[["change", "change_low", "change_high"]].tolist() == pytest.approx([2.0] * 3)
        assert row["low"] < row["value"] < row["high"]
    nll = by.loc[("no_maps", "nll_nats")]
    assert nll[["change", "change_low", "change_high"]].tolist() == pytest.approx([np.log(2)] * 3)
    assert by.loc["full"]["change"].isna().all()
    assert by.loc[("levels_only", "median_m"), "oracle"] == "oracle_levels"
    assert by.loc[("oracle_levels", "median_m"), "change"] == pytest.approx(1.2)
    assert by.loc[("oracle", "median_m"), "title"] == "Oracle"
    assert by.loc[("oracle_levels", "median_m"), "title"] == "Oracle: levels alone"
    text = ablation_markdown(table).splitlines()
    assert len(text) == 2 + 3
    assert "2.00 (2.00 to 2.00)" in text[3]
    assert text[4].endswith(f"| {by.loc[('oracle_levels', 'nll_nats'), 'value']:.2f} |")


def test_the_figure_shows_every_variant_and_its_oracle():
    variants = [VARIANTS[n] for n in (REFERENCE, "no_maps", "levels_only")]
    fixes = fixes_of(
        {"full": 1, "no_maps": 2, "levels_only": 1.5, "oracle": 0.5, "oracle_levels": 1.2}
    )
    figure = ablation_figure(ablation_table(variants, fixes, resamples=50))
    left, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == [v.title for v in variants]
    dots, squares = ([line for line in left.lines if line.get_marker() == m] for m in ("o", "s"))
    assert dots[0].get_xdata() == pytest.approx([1, 2, 1.5])
    assert squares[0].get_xdata() == pytest.approx([0.5, 0.5, 1.2])
    assert right.lines[1].get_xdata() == pytest.approx(np.log([1, 2, 1.5]))


# -- a small run --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("map_error")
    (folder / "map_error.json").write_text(json.dumps(ERROR.as_dict()))
    reports = draw_dataset(default_atlas(), len(SPLIT), seed=9, scenarios={"full": 1.0})
    reports = reports.assign(split=("report", SPLIT.astype("int8")))
    of_city = CityReports(default_atlas().city, default_atlas(), reports)
    return AblationData(of_city, (of_city,), folder)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """All parts of a run of a few variants, and their figures."""
    city = city_with("levels_only", "untrained", "refined", "refined_always")
    root = tmp_path_factory.mktemp("parts")
    figures = {}
    for part in parts_of(city):
        out = root / part.name
        out.mkdir()
        network = root / REFERENCE if part.reads_network else None
        figures[part.name] = part.compute(Work(data, network), out)
    return city, root, figures


@pytest.mark.slow
def test_all_variants_are_tested_on_the_same_test_reports(run):
    city, root, figures = run
    names = ["full", "untrained", "levels_only", "refined", "refined_always"]
    names += ["oracle", "oracle_levels"]
    assert list(figures) == names
    fixes = {name: FixSchema.validate(pd.read_parquet(root / name / FIXES)) for name in names}
    test = set(np.flatnonzero(SPLIT == 3))
    for name, table in fixes.items():
        assert set(table["method"]) == {name}
        assert table["report"].tolist() == fixes["full"]["report"].tolist()
        assert len(table) == city.ablations.max_reports
        assert set(table["report"]) <= test
        assert table["nll_nats"].notna().all()
    assert figures["full"]["steps"] == figures["levels_only"]["steps"] == 2
    assert figures["untrained"]["steps"] == 0


@pytest.mark.slow
def test_a_variant_without_fields_is_another_network_and_has_another_oracle(run):
    _, root, _ = run
    names = ("full", "levels_only", "untrained")
    networks = [torch.load(root / n / "checkpoint.pt") for n in names]
    assert networks[0]["settings"] == networks[1]["settings"] == networks[2]["settings"]
    weights = [network["network"] for network in networks]
    assert all(w.keys() == weights[0].keys() for w in weights)
    curves = [pd.read_parquet(root / n / "history.parquet") for n in names[:2]]
    before, after = (c[c["split"] == "validation"].set_index("term")["value"] for c in curves)
    assert (after - before).abs()["nll"].max() > 0.1  # it learned from, and was judged by, less
    told, alone = (
        pd.read_parquet(root / name / FIXES).nll_nats for name in ("oracle", "oracle_levels")
    )
    assert not np.allclose(told, alone)
    assert told.mean() < alone.mean()  # timing, angles and beams are worth something


@pytest.mark.slow
def test_refinement_moves_points_and_leaves_posteriors(run):
    _, root, figures = run
    whole, ruled, always = (
        pd.read_parquet(root / name / FIXES) for name in ("full", "refined", "refined_always")
    )
    for other in (ruled, always):
        np.testing.assert_array_equal(other["nll_nats"], whole["nll_nats"])
    assert figures["refined_always"]["acted_share"] > 0.5
    moved = np.hypot(always.x_m - whole.x_m, always.y_m - whole.y_m)
    assert ((moved > 0) == always["refined"]).all()
    assert "rules qualified on 30 calibration reports" in figures["refined"]["rule"]


@pytest.mark.slow
def test_table_and_figure_are_written(run, tmp_path):
    city, root, figures = run
    found = build_ablations(city, {name: root / name for name in figures}, tmp_path)
    table = AblationSchema.validate(pd.read_parquet(tmp_path / "ablations.parquet"))
    assert set(table["method"]) == set(figures)
    assert (table["n"] == city.ablations.max_reports).all()
    stored = json.loads((tmp_path / "ablations.json").read_text())
    assert stored["budget"]["epochs"] == 1
    assert stored["methods"]["levels_only"]["changes"] == {"features": ["rsrp"]}
    assert stored["methods"]["full"]["steps"] == 2
    assert stored["methods"]["refined"]["rule"]
    median = stored["methods"]["full"]["metrics"]["median_m"]["value"]
    assert found["full_median_m"] == median
    assert (tmp_path / "ablations.md").read_text().count("\n") == 2 + 5
    with Image.open(tmp_path / "ablations.png") as image:
        assert image.width > 900
    assert len(FixSchema.validate(pd.read_parquet(tmp_path / FIXES))) == 7 * 10


def test_without_calibration_reports_no_rule_is_learned(data):
    reports = data.tested.reports
    none = replace(data.tested, reports=reports.isel(report=SPLIT != 2))
    with pytest.raises(ReportError, match=r"no calibration report.*leave 'refined' out"):
        replace(data, training=(none,)).known()
