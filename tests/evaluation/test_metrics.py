import json

import numpy as np
import pandas as pd
import pandera.errors
import pytest

from ueloc_core.errors import UelocError
from ueloc_core.evaluation.metrics import (
    METRICS,
    Calibration,
    Coverage,
    ErrorQuantile,
    LatencyQuantile,
    MeanEnergyScore,
    MeanError,
    NegativeLogLikelihood,
    RootMeanSquareError,
    Success,
    bootstrap_intervals,
    bootstrap_ratios,
    coverage_curve,
    diagnose_coverage,
    hpd_area_m2,
    hpd_level,
    methods_in,
    metrics_for,
    relative_to_oracle,
    stratify,
    summarise,
    summary_dict,
)
from ueloc_core.evaluation.schemas import FixSchema, MetricSchema


def test_quantiles_of_a_known_sample():
    error_m = np.arange(1.0, 101.0)
    assert ErrorQuantile(0.5).reduce(error_m) == pytest.approx(50.5)
    assert ErrorQuantile(0.9).reduce(error_m) == pytest.approx(90.1)
    assert MeanError().reduce(error_m) == pytest.approx(50.5)
    assert Success(20).reduce(error_m) == pytest.approx(0.2)
    assert RootMeanSquareError().reduce(error_m) == pytest.approx((101 * 201 / 6) ** 0.5)
    assert LatencyQuantile(0.95).name == "latency_p95_ms"
    assert LatencyQuantile(0.95).reduce(error_m) == pytest.approx(95.05)


def test_names_carry_their_unit():
    assert [m.name for m in METRICS] == [
        *("median_m", "p67_m", "p90_m", "mean_m", "nll_nats", "coverage_50", "coverage_90"),
        *("p80_m", "p95_m", "rms_m", "calibration_error"),
        *("success_5m", "success_10m", "success_20m", "success_50m"),
        *("area90_m2", "share_in_window"),
    ]


def test_a_metric_of_no_density_is_nothing():
    missing = np.full(4, np.nan)
    assert np.isnan(Coverage(0.9).reduce(missing))
    assert np.isnan(NegativeLogLikelihood().reduce(missing))


def test_metrics_reduce_the_last_axis_only():
    values = np.random.default_rng(0).random((3, 50))
    for metric in METRICS:
        one_by_one = [metric.reduce(row) for row in values]
        np.testing.assert_allclose(metric.reduce(values), one_by_one)


def test_summary_has_one_row_per_method_and_fits_its_schema(fixes):
    summary = summarise(FixSchema.validate(fixes))
    MetricSchema.validate(summary)
    assert list(summary["method"]) == ["network", "oracle", "knn", "strongest_sector"]
    oracle = fixes.loc[fixes["method"] == "oracle", "error_m"]
    assert summary.set_index("method").loc["oracle", "median_m"] == pytest.approx(oracle.median())


def test_known_methods_come_first_then_others():
    table = pd.DataFrame({"method": ["knn", "kalman", "network"]})
    assert methods_in(table) == ["network", "knn", "kalman"]


def test_summary_dict_is_json_with_null_where_there_is_no_density(fixes):
    summary = json.loads(json.dumps(summary_dict(fixes), allow_nan=False))
    assert list(summary["knn"]) == [
        *("n", "median_m", "p67_m", "p90_m", "mean_m", "nll_nats", "coverage_50", "coverage_90")
    ]
    assert summary["knn"]["nll_nats"] is None
    assert summary["strongest_sector"]["coverage_90"] is None
    assert summary["network"]["n"] == 150
    assert isinstance(summary["network"]["n"], int)
    assert summary["oracle"]["nll_nats"] < summary["network"]["nll_nats"]


def test_no_fix_is_an_error(fixes):
    with pytest.raises(UelocError, match="no fix"):
        summarise(fixes.iloc[:0])


def test_gap_and_ratio_to_the_oracle(fixes):
    table = relative_to_oracle(summarise(fixes)).set_index("method")
    assert table.loc["oracle", "gap_nats"] == 0
    assert table.loc["oracle", "median_ratio"] == 1
    assert table.loc["network", "gap_nats"] > 0
    assert table.loc["knn", "median_ratio"] > 1
    assert np.isnan(table.loc["knn", "gap_nats"])
    alone = relative_to_oracle(summarise(fixes[fixes["method"] == "knn"]))
    assert alone[["gap_nats", "median_ratio"]].isna().all(axis=None)


def test_strata_sum_to_the_whole(fixes):
    strata = stratify(fixes, "sector_id")
    whole = summarise(fixes).set_index("method")
    for method, group in strata.groupby("method"):
        assert group["n"].sum() == whole.loc[method, "n"]
        mean = (group["mean_m"] * group["n"]).sum() / group["n"].sum()
        assert mean == pytest.approx(whole.loc[method, "mean_m"])
    with pytest.raises(UelocError, match="line_of_sight"):
        stratify(fixes, "line_of_sight")


def test_bootstrap_is_seeded_and_holds_the_value(fixes):
    first = bootstrap_intervals(fixes, resamples=200, seed=3)
    pd.testing.assert_frame_equal(first, bootstrap_intervals(fixes, resamples=200, seed=3))
    assert (first["low"] <= first["value"]).all()
    assert (first["value"] <= first["high"]).all()
    assert not first.equals(bootstrap_intervals(fixes, resamples=200, seed=4))


def test_bootstrap_interval_of_a_mean_is_that_of_theory():
    rng = np.random.default_rng(0)
    error_m = rng.gamma(4.0, 5.0, size=2000)
    table = pd.DataFrame({"method": "network", "error_m": error_m})
    row = bootstrap_intervals(table, [MeanError()], resamples=2000).iloc[0]
    half_m = 1.96 * error_m.std() / np.sqrt(len(error_m))
    assert row["high"] - row["low"] == pytest.approx(2 * half_m, rel=0.1)


def test_reports_of_a_cluster_share_their_luck():
    """A mean over clusters of ten equal errors is as unsure as one over a tenth of the reports."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "method": "network",
            "error_m": np.repeat(rng.gamma(4.0, 5.0, 100), 10),
            "track": np.repeat(np.arange(100), 10),
        }
    )
    widths = {}
    for cluster in (None, "track"):
        row = bootstrap_intervals(table, [MeanError()], resamples=2000, cluster=cluster).iloc[0]
        widths[cluster] = row["high"] - row["low"]
    assert widths["track"] / widths[None] == pytest.approx(10**0.5, rel=0.1)
    half_m = 1.96 * table["error_m"].std() / 100**0.5
    assert widths["track"] == pytest.approx(2 * half_m, rel=0.1)


def test_single_reports_are_clusters_of_one(fixes):
    options = {"resamples": 50, "seed": 3}
    pd.testing.assert_frame_equal(
        bootstrap_intervals(fixes, **options),
        bootstrap_intervals(fixes, cluster="report", **options),
    )


class TestRatio:
    def paired(self, n=400, scale=1.3):
        """Errors that vary from report to report far more than between the two methods."""
        rng = np.random.default_rng(0)
        hard_m = rng.lognormal(2.0, 1.2, n)
        parts = [
            pd.DataFrame(
                {
                    "method": method,
                    "report": rng.permutation(n),
                    "error_m": factor * hard_m * rng.lognormal(0, 0.05, n),
                }
            )
            for method, factor in (("oracle", 1.0), ("network", scale))
        ]
        parts[1]["report"] = parts[0]["report"]
        return pd.concat([parts[0], parts[1].sample(frac=1, random_state=1)], ignore_index=True)

    def test_is_paired_by_report(self):
        row = bootstrap_ratios(self.paired(), [MeanError()]).iloc[0]
        assert (row["method"], row["metric"], row["n"]) == ("network", "mean_m", 400)
        assert row["low"] < 1.3 < row["high"]
        assert row["value"] == pytest.approx(1.3, rel=0.02)
        # Unpaired, each mean would be unsure by 15%.
        assert row["high"] - row["low"] < 0.05

    def test_of_a_method_to_itself_is_one(self):
        alike = self.paired()
        oracle = alike[alike["method"] == "oracle"]
        both = pd.concat([oracle, oracle.assign(method="network")])
        row = bootstrap_ratios(both, [ErrorQuantile(0.5)], resamples=50).iloc[0]
        assert (row["value"], row["low"], row["high"]) == (1.0, 1.0, 1.0)

    def test_is_over_shared_reports(self):
        table = self.paired()
        few = table[(table["method"] == "network") | (table["report"] < 100)]
        assert bootstrap_ratios(few, [MeanError()], resamples=20)["n"].tolist() == [100]
        with pytest.raises(UelocError, match="share no report"):
            bootstrap_ratios(table[table["method"] == "network"])

    def test_of_one_report_in_two_splits(self):
        table = self.paired()
        twice = pd.concat(
            [table.assign(split="test_area"), table.assign(split="test_city", error_m=1.0)]
        )
        row = bootstrap_ratios(twice, [MeanError()], resamples=20).iloc[0]
        assert row["n"] == 800


def test_scores_are_summarised_where_there_are_any(fixes, all_fixes):
    assert metrics_for(fixes) == METRICS
    summary = MetricSchema.validate(summarise(all_fixes)).set_index("method")
    own = all_fixes[all_fixes["method"] == "network"]
    assert summary.loc["network", "energy_score_m"] == pytest.approx(own["energy_score_m"].mean())
    assert summary.loc["knn", "energy_score_m"] == pytest.approx(summary.loc["knn", "mean_m"])
    assert np.isnan(summary.loc["knn", "sharpness_m"])
    with pytest.raises(KeyError, match="energy_score_m"):
        summarise(fixes, [MeanEnergyScore()])


class TestLevel:
    mass = np.array([[0.5, 0.2], [0.2, 0.1]])

    def test_rank_of_a_single_cell(self):
        assert hpd_level(self.mass, 0, 0, 0.0) == 0.0
        assert hpd_level(self.mass, 0, 0, 0.5) == pytest.approx(0.25)
        assert hpd_level(self.mass, 1, 1, 0.0) == pytest.approx(0.9)
        assert hpd_level(self.mass, 1, 1, 0.5) == pytest.approx(0.95)

    def test_tied_cells_share_their_ranks(self):
        for row, column in ((0, 1), (1, 0)):
            assert hpd_level(self.mass, row, column, 0.25) == pytest.approx(0.6)

    def test_outside_of_the_window_is_the_least_dense(self):
        mass = 0.8 * self.mass
        assert hpd_level(mass, 5, 0, 0.0) == pytest.approx(0.8)
        assert hpd_level(mass, -1, 0, 0.5) == pytest.approx(0.9)
        assert hpd_level(mass, 1, 1, 0.999) < 0.8

    def test_a_stack_is_ranked_one_by_one(self):
        rng = np.random.default_rng(0)
        stack = rng.dirichlet(np.ones(30), size=7).reshape(7, 5, 6)
        row, column, u = rng.integers(5, size=7), rng.integers(6, size=7), rng.random(7)
        expected = [hpd_level(*each) for each in zip(stack, row, column, u, strict=True)]
        np.testing.assert_allclose(hpd_level(stack, row, column, u), expected)

    def test_levels_of_an_exact_posterior_on_few_cells_are_uniform(self):
        rng = np.random.default_rng(1)
        flat = self.mass.ravel()
        cell = rng.choice(4, p=flat, size=4000)
        stack = np.broadcast_to(self.mass, (4000, 2, 2))
        levels = hpd_level(stack, *np.divmod(cell, 2), rng.random(4000))
        assert diagnose_coverage(levels) is Calibration.CALIBRATED

    def test_without_randomised_rank_coarse_cells_would_look_conservative(self):
        rng = np.random.default_rng(1)
        cell = rng.choice(4, p=self.mass.ravel(), size=4000)
        stack = np.broadcast_to(self.mass, (4000, 2, 2))
        levels = hpd_level(stack, *np.divmod(cell, 2), np.zeros(4000))
        assert diagnose_coverage(levels) is Calibration.CONSERVATIVE


def test_area_is_that_of_the_fewest_cells():
    mass = np.array([[0.5, 0.2], [0.2, 0.1]])
    assert hpd_area_m2(mass, 0.5, 4.0) == 16
    assert hpd_area_m2(mass, 0.9, 4.0) == 48
    assert hpd_area_m2(0.8 * mass, 0.9, 4.0) == 64
    np.testing.assert_array_equal(hpd_area_m2(np.stack([mass, 0.8 * mass]), 0.9, 4.0), [48, 64])


@pytest.mark.parametrize(
    ("belief", "verdict"),
    [
        (1.0, Calibration.CALIBRATED),
        (1.6, Calibration.CONSERVATIVE),
        (0.65, Calibration.OVERCONFIDENT),
    ],
)
def test_diagnosis_of_an_exact_a_wide_and_a_narrow_posterior(gaussian_world, belief, verdict):
    levels = gaussian_world.levels(belief * gaussian_world.sigma_m)
    assert diagnose_coverage(levels) is verdict


def test_levels_that_are_too_extreme_on_both_sides_are_uneven():
    levels = np.random.default_rng(0).beta(0.4, 0.4, size=2000)
    levels = np.concatenate([levels, 1 - levels])
    assert diagnose_coverage(levels) is Calibration.UNEVEN


def test_an_exact_posterior_is_rarely_called_otherwise():
    rng = np.random.default_rng(2)
    called = [diagnose_coverage(rng.random(200)) for _ in range(300)]
    assert sum(c is not Calibration.CALIBRATED for c in called) <= 10


def test_curve_of_an_exact_posterior_stays_in_its_band(gaussian_world):
    curve = coverage_curve(gaussian_world.levels(), confidence=0.999)
    assert list(curve["nominal"]) == pytest.approx(np.arange(0.05, 0.96, 0.05))
    assert curve["empirical"].between(curve["low"], curve["high"]).all()
    assert curve["empirical"].is_monotonic_increasing


def test_curve_of_a_narrow_posterior_lies_below_the_diagonal(gaussian_world):
    curve = coverage_curve(gaussian_world.levels(0.65 * gaussian_world.sigma_m))
    assert (curve["empirical"] < curve["nominal"]).all()


def test_coverage_needs_levels():
    for nothing in ([], [0.1, np.nan]):
        with pytest.raises(UelocError, match="density"):
            coverage_curve(nothing)


def test_curve_agrees_with_the_metric(gaussian_world):
    levels = gaussian_world.levels()
    curve = coverage_curve(levels).set_index("nominal")["empirical"]
    assert curve[0.9] == pytest.approx(float(Coverage(0.9).reduce(levels)))


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("error_m", 1.0, "distance"),
        ("nll_nats", np.inf, "zero density"),
        ("nll_nats", np.nan, "lacks the density"),
        ("hpd_level", 1.2, "in_range"),
        ("x_m", np.nan, "null"),
        ("sector_id", 0, "greater_than"),
    ],
)
def test_fix_schema_refuses(fixes, column, value, why):
    bad = fixes.copy()
    bad.loc[0, column] = value
    if column == "error_m":
        bad.loc[0, column] += bad.loc[0, "error_m"] + 5
    with pytest.raises(pandera.errors.SchemaError, match=why):
        FixSchema.validate(bad)


def test_fix_schema_refuses_a_report_twice(fixes):
    with pytest.raises(pandera.errors.SchemaError, match="unique"):
        FixSchema.validate(pd.concat([fixes, fixes.iloc[:1]], ignore_index=True))


@pytest.mark.parametrize(
    ("method", "column", "value", "why"),
    [
        ("knn", "energy_score_m", 1e4, "not its error"),
        ("network", "sharpness_m", -1.0, "greater_than"),
        ("network", "tarp", 1.5, "in_range"),
        ("network", "heard", 9, "in_range"),
        ("network", "mobility", "tram", "isin"),
        ("network", "split", "train", "isin"),
    ],
)
def test_fix_schema_refuses_wrong_scores_and_circumstances(all_fixes, method, column, value, why):
    bad = all_fixes.copy()
    bad.loc[bad.index[bad["method"] == method][0], column] = value
    with pytest.raises(pandera.errors.SchemaError, match=why):
        FixSchema.validate(bad)


def test_a_report_may_be_in_two_splits(fixes):
    twice = pd.concat([fixes.assign(split=s) for s in ("test_area", "test_city")])
    FixSchema.validate(twice.reset_index(drop=True))


def test_metric_schema_refuses_quantiles_that_fall(fixes):
    with pytest.raises(pandera.errors.SchemaError, match="quantiles"):
        MetricSchema.validate(summarise(fixes).assign(p67_m=0.0))
    with pytest.raises(pandera.errors.SchemaError, match="quantiles"):
        MetricSchema.validate(summarise(fixes).assign(p95_m=0.0))
    MetricSchema.validate(summarise(fixes).drop(columns=["p80_m", "p95_m", "rms_m"]))
