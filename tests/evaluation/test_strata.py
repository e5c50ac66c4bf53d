"""Strata divide the fixes without loss, and their tables agree with the whole."""

import numpy as np
import pandas as pd
import pytest

from ueloc_core.errors import UelocError
from ueloc_core.evaluation.metrics import Coverage, MeanError, summarise
from ueloc_core.evaluation.schemas import FixSchema, MetricSchema
from ueloc_core.evaluation.strata import (
    STRATA,
    UNKNOWN,
    Stratum,
    by_stratum,
    intervals_by_stratum,
    strata_for,
)

BY_NAME = {s.name: s for s in STRATA}


@pytest.mark.parametrize(
    ("name", "values", "parts"),
    [
        ("heard", [1, 2, 3, 4, 6, 7, 8], ["1", "2-3", "2-3", "4-6", "4-6", "7-8", "7-8"]),
        (
            "line_of_sight",
            [0.0, 0.49, 0.5, 1.0, np.nan],
            ["no line of sight"] * 2 + ["line of sight"] * 2 + [UNKNOWN],
        ),
        (
            "site_distance",
            [0.0, 49.9, 50.0, 199.9, 200.0, 1e4],
            ["below 50 m", "below 50 m", "50-100 m", "100-200 m", "200-400 m", "above 400 m"],
        ),
        ("mobility", ["vehicle", None, "static"], ["vehicle", UNKNOWN, "static"]),
        ("scenario", ["full", "from_logs"], ["full", "from_logs"]),
    ],
)
def test_edges_of_the_parts(name, values, parts):
    stratum = BY_NAME[name]
    assert list(stratum.of(pd.DataFrame({stratum.column: values}))) == parts


def test_parts_keep_their_order():
    found = BY_NAME["scenario"].of(pd.DataFrame({"scenario": ["zigbee", None, "full", "aged"]}))
    assert list(found.cat.categories) == [
        *("lte_legacy", "nr_rsrp_only", "nr_rsrp_ta", "nr_beams", "full"),
        *("aged", "zigbee", UNKNOWN),
    ]


@pytest.mark.parametrize("heard", [0, 9])
def test_a_number_in_no_part_is_an_error(heard):
    with pytest.raises(UelocError, match="column 'heard'"):
        BY_NAME["heard"].of(pd.DataFrame({"heard": [3, heard]}))


def test_a_missing_column_is_an_error(fixes):
    with pytest.raises(UelocError, match="stratum 'heard'"):
        by_stratum(fixes, [BY_NAME["heard"]])


def test_every_stratum_holds_all_fixes(all_fixes):
    table = by_stratum(all_fixes)
    assert list(dict.fromkeys(table["stratum"])) == [s.name for s in STRATA]
    whole = summarise(all_fixes).set_index("method")
    for (_, method), part in table.groupby(["stratum", "method"]):
        assert part["n"].sum() == whole.loc[method, "n"]
        for name in ("mean_m", "energy_score_m", "nll_nats", "coverage_90", "success_20m"):
            mean = np.average(part[name], weights=part["n"])
            assert mean == pytest.approx(whole.loc[method, name], nan_ok=True)


def test_a_part_is_the_summary_of_its_fixes(all_fixes):
    table = by_stratum(all_fixes)
    own = table[(table["stratum"] == "heard") & (table["value"] == "2-3")]
    own = own.drop(columns=["stratum", "value"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(own, summarise(all_fixes[all_fixes["heard"].between(2, 3)]))
    MetricSchema.validate(own)


def test_fixes_without_circumstances_have_no_strata(fixes):
    assert strata_for(fixes) == ()
    table = by_stratum(fixes)
    assert table.empty
    assert list(table)[:4] == ["stratum", "value", "method", "n"]


def test_a_stratum_of_ones_own(fixes):
    stratum = Stratum("sector", "Sector", "sector_id", ("101", "102", "103"))
    table = by_stratum(fixes.assign(sector_id=fixes["sector_id"].astype(str)), [stratum])
    assert list(table["value"].unique()) == ["101", "102", "103"]


def test_intervals_hold_the_estimate_of_their_part(all_fixes):
    known = all_fixes[all_fixes["method"].isin(["network", "knn"])]
    chosen = [BY_NAME["heard"]]
    metrics = [MeanError(), Coverage(0.9)]
    found = intervals_by_stratum(known, chosen, metrics=metrics, resamples=100, seed=1)
    again = intervals_by_stratum(known, chosen, metrics=metrics, resamples=100, seed=1)
    pd.testing.assert_frame_equal(found, again)
    table = by_stratum(known, chosen).set_index(["value", "method"])
    for row in found.itertuples():
        exact = table.loc[(row.value, row.method), row.metric]
        assert row.estimate == pytest.approx(exact, nan_ok=True)
        if not np.isnan(exact):
            assert row.low <= row.estimate <= row.high
    # Fewer reports, wider intervals.
    whole = intervals_by_stratum(
        known.assign(heard=1), chosen, metrics=[MeanError()], resamples=100
    )
    network = found[(found["method"] == "network") & (found["metric"] == "mean_m")]
    all_in_one = whole[whole["method"] == "network"].iloc[0]
    assert (network["high"] - network["low"] > all_in_one["high"] - all_in_one["low"]).all()


def test_the_schema_knows_the_circumstances(all_fixes):
    FixSchema.validate(all_fixes)
    for stratum in STRATA:
        assert stratum.column in FixSchema.columns
        assert not FixSchema.columns[stratum.column].required
        bare = all_fixes.drop(columns=[s.column for s in STRATA])
        FixSchema.validate(bare)
