"""Contracts of the tables that an evaluation writes.

`FixSchema` holds one row per method and report: where a terminal was located, and where it was.
`MetricSchema` holds one row per method: the summary of its fixes. Both allow more columns, to
stratify by or to compare with.
"""

import numpy as np
import pandas as pd
import pandera.pandas as pa

_DENSITY_COLUMNS = ["nll_nats", "hpd_level", "area90_m2"]


def _error_is_the_distance(fixes: pd.DataFrame) -> "pd.Series[bool]":
    distance_m = np.hypot(fixes["x_m"] - fixes["truth_x_m"], fixes["y_m"] - fixes["truth_y_m"])
    return pd.Series(np.abs(distance_m - fixes["error_m"]) <= 0.01 + 1e-4 * distance_m)


def _density_for_all_or_none(fixes: pd.DataFrame) -> bool:
    missing = fixes[_DENSITY_COLUMNS].isna()
    by_method = missing.groupby(fixes["method"])
    alike = missing.eq(missing["nll_nats"], axis=0).all(axis=None)
    return bool(alike and (by_method.all() == by_method.any()).all(axis=None))


def _likelihood_is_finite(nll_nats: "pd.Series[float]") -> "pd.Series[bool]":
    return ~nll_nats.isin([np.inf, -np.inf])


def _quantiles_rise(metrics: pd.DataFrame) -> "pd.Series[bool]":
    return (metrics["median_m"] <= metrics["p67_m"]) & (metrics["p67_m"] <= metrics["p90_m"])


def _length_m(description: str) -> pa.Column:
    return pa.Column(np.float64, pa.Check.ge(0), description=f"{description} [m]")


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
    },
    checks=[
        pa.Check(_error_is_the_distance, error="error_m is not the distance to the truth"),
        pa.Check(_density_for_all_or_none, error="a method lacks the density of some fixes"),
    ],
    unique=["method", "report"],
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
    },
    checks=[pa.Check(_quantiles_rise, error="the quantiles of the error do not rise")],
    name="Metrics",
)
