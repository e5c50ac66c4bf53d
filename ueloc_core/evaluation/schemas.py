"""Contracts of the tables that an evaluation writes.

`FixSchema` holds one row per method and report: where a terminal was located, and where it was.
`MetricSchema` holds one row per method: the summary of its fixes. Both allow more columns, to
stratify by or to compare with; those that are known here may be missing.
"""

import numpy as np
import pandas as pd
import pandera.pandas as pa

from ueloc_core.evaluation.strata import MOBILITIES, TEST_SPLITS
from ueloc_core.measurement.scenarios import SCENARIOS

_DENSITY_COLUMNS = ["nll_nats", "hpd_level", "area90_m2"]


def _error_is_the_distance(fixes: pd.DataFrame) -> "pd.Series[bool]":
    distance_m = np.hypot(fixes["x_m"] - fixes["truth_x_m"], fixes["y_m"] - fixes["truth_y_m"])
    return pd.Series(np.abs(distance_m - fixes["error_m"]) <= 0.01 + 1e-4 * distance_m)


def _density_for_all_or_none(fixes: pd.DataFrame) -> bool:
    missing = fixes[_DENSITY_COLUMNS].isna()
    by_method = missing.groupby(fixes["method"])
    alike = missing.eq(missing["nll_nats"], axis=0).all(axis=None)
    return bool(alike and (by_method.all() == by_method.any()).all(axis=None))


def _reports_are_unique(fixes: pd.DataFrame) -> "pd.Series[bool]":
    key = [column for column in ("split", "method", "report") if column in fixes]
    return ~fixes.duplicated(key)


def _point_scores_its_error(fixes: pd.DataFrame) -> "pd.Series[bool]":
    if "energy_score_m" not in fixes:
        return pd.Series(data=True, index=fixes.index)
    excess_m = (fixes["energy_score_m"] - fixes["error_m"]).abs()
    near = excess_m <= 0.01 + 1e-4 * fixes["error_m"]
    return pd.Series(near | fixes["hpd_level"].notna() | fixes["energy_score_m"].isna())


def _likelihood_is_finite(nll_nats: "pd.Series[float]") -> "pd.Series[bool]":
    return ~nll_nats.isin([np.inf, -np.inf])


def _quantiles_rise(metrics: pd.DataFrame) -> "pd.Series[bool]":
    names = [n for n in ("median_m", "p67_m", "p80_m", "p90_m", "p95_m") if n in metrics]
    rises = metrics[names].diff(axis=1).iloc[:, 1:]
    return pd.Series((rises.isna() | (rises >= 0)).all(axis=1))


def _length_m(description: str) -> pa.Column:
    return pa.Column(np.float64, pa.Check.ge(0), description=f"{description} [m]")


def _optional(description: str, *checks: pa.Check, kind: type = np.float64) -> pa.Column:
    """A column that a table may lack, and that may be missing for some rows."""
    return pa.Column(kind, list(checks), nullable=True, required=False, description=description)


_POSITIVE = pa.Check.ge(0)
_SHARE = pa.Check.in_range(0, 1)


def _share(description: str, *, nullable: bool = False) -> pa.Column:
    return pa.Column(
        np.float64, pa.Check.in_range(0, 1), nullable=nullable, description=description
    )


FixSchema = pa.DataFrameSchema(
    {
        "method": pa.Column(str, description="How the terminal was located"),
        "report": pa.Column(np.int64, pa.Check.ge(0), description="Index of the report"),
        "sector_id": pa.Column(np.int64, pa.Check.gt(0), description="Serving sector"),
        "x_m": pa.Column(np.float64, description="Estimated easting [m]"),
        "y_m": pa.Column(np.float64, description="Estimated northing [m]"),
        "truth_x_m": pa.Column(np.float64, description="True easting [m]"),
        "truth_y_m": pa.Column(np.float64, description="True northing [m]"),
        "error_m": _length_m("Distance between estimate and truth"),
        "nll_nats": pa.Column(
            np.float64,
            pa.Check(_likelihood_is_finite, error="no true position may have zero density"),
            nullable=True,
            description="-log p(truth) with p in 1/m^2; NaN without a density [nats]",
        ),
        "hpd_level": _share(
            "Share of the posterior that is denser than the truth; NaN without a density",
            nullable=True,
        ),
        "area90_m2": pa.Column(
            np.float64,
            pa.Check.ge(0),
            nullable=True,
            description="Area of the 90% region of highest density [m^2]",
        ),
        "in_window": pa.Column(bool, description="Whether the truth lies in the sector's window"),
        "energy_score_m": _optional("Energy score; of a point its error [m]", _POSITIVE),
        "sharpness_m": _optional("Score that the posterior expects of itself [m]", _POSITIVE),
        "pit_x": _optional("Posterior mass west of the truth, NaN outside the window", _SHARE),
        "pit_y": _optional("Posterior mass south of the truth, NaN outside the window", _SHARE),
        "energy_rank": _optional("Posterior mass more central than the truth", _SHARE),
        "tarp": _optional("Posterior mass nearer to a reference point than the truth", _SHARE),
        "latency_ms": _optional("Time that the fix took [ms]", _POSITIVE),
        "line_of_sight": _optional("Share of the serving sector's paths in line of sight", _SHARE),
        "heard": pa.Column(
            np.int64,
            pa.Check.in_range(1, 8),
            required=False,
            description="Number of sectors in the report",
        ),
        "site_distance_m": _optional("Distance of the truth to the serving site [m]", _POSITIVE),
        "scenario": _optional("What the terminal reports", pa.Check.isin(SCENARIOS), kind=str),
        "mobility": _optional("How the terminal moves", pa.Check.isin(MOBILITIES), kind=str),
        "split": _optional("What is new in the test", pa.Check.isin(TEST_SPLITS), kind=str),
    },
    checks=[
        pa.Check(_error_is_the_distance, error="error_m is not the distance to the truth"),
        pa.Check(_density_for_all_or_none, error="a method lacks the density of some fixes"),
        pa.Check(_point_scores_its_error, error="the energy score of a point is not its error"),
        pa.Check(_reports_are_unique, error="a method's reports are not unique in their split"),
    ],
    name="Fixes",
)

MetricSchema = pa.DataFrameSchema(
    {
        "method": pa.Column(str, unique=True, description="How the terminals were located"),
        "n": pa.Column(np.int64, pa.Check.gt(0), description="Number of fixes"),
        "median_m": _length_m("Median error"),
        "p67_m": _length_m("67th percentile of the error"),
        "p90_m": _length_m("90th percentile of the error"),
        "mean_m": _length_m("Mean error"),
        "nll_nats": pa.Column(
            np.float64, nullable=True, description="Mean of -log p(truth), p in 1/m^2 [nats]"
        ),
        "coverage_50": _share("Share of truths in the 50% region", nullable=True),
        "coverage_90": _share("Share of truths in the 90% region", nullable=True),
        "success_5m": _share("Share of fixes within 5 m"),
        "success_10m": _share("Share of fixes within 10 m"),
        "success_20m": _share("Share of fixes within 20 m"),
        "success_50m": _share("Share of fixes within 50 m"),
        "area90_m2": pa.Column(
            np.float64,
            pa.Check.ge(0),
            nullable=True,
            description="Median area of the 90% regions [m^2]",
        ),
        "share_in_window": _share("Share of truths in the window of their sector"),
        "p80_m": _optional("80th percentile of the error [m]", _POSITIVE),
        "p95_m": _optional("95th percentile of the error [m]", _POSITIVE),
        "rms_m": _optional("Root mean square error [m]", _POSITIVE),
        "calibration_error": _optional("Largest distance of coverage from its nominal", _SHARE),
        "energy_score_m": _optional("Mean energy score [m]", _POSITIVE),
        "sharpness_m": _optional("Mean score that the posteriors expect [m]", _POSITIVE),
        "latency_p50_ms": _optional("Median time that a fix takes [ms]", _POSITIVE),
        "latency_p95_ms": _optional("95th percentile of the time that a fix takes [ms]", _POSITIVE),
    },
    checks=[pa.Check(_quantiles_rise, error="the quantiles of the error do not rise")],
    name="Metrics",
)
