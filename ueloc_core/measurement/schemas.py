"""Contracts of the report data sets."""

from typing import Any

import numpy as np
import pandera.xarray as px
import xarray as xr

from ueloc_core.measurement.reports import CQI_LAST, SS_RSRP, SS_RSRQ, SS_SINR

SLOTS = 8
"""The serving sector and up to seven neighbours."""

BEAMS = 4
"""Beams of the serving sector in a report, the most that one CSI report holds (TS 38.214)."""


def _code(last: int) -> Any:
    return px.DataVar(dtype=np.int16, dims=("report", "slot"), checks=px.Check.in_range(-1, last))


_REPORT_VARS: dict[str, Any] = {
    "sector_id": px.DataVar(dtype=np.int64, dims=("report", "slot"), checks=px.Check.ge(0)),
    "rsrp_code": _code(SS_RSRP.last),
    "rsrq_code": _code(SS_RSRQ.last),
    "sinr_code": _code(SS_SINR.last),
    "cqi": px.DataVar(dtype=np.int8, dims=("report",), checks=px.Check.in_range(-1, CQI_LAST)),
    "x_m": px.DataVar(dtype=np.float64, dims=("report",), nullable=True),
    "y_m": px.DataVar(dtype=np.float64, dims=("report",), nullable=True),
    "track": px.DataVar(dtype=np.int64, dims=("report",)),
    "time_s": px.DataVar(dtype=np.float64, dims=("report",)),
}


def _serving_is_named(data: xr.Dataset) -> bool:
    return bool((data.sector_id.isel(slot=0) > 0).all())


def _empty_slots_are_missing(data: xr.Dataset) -> bool:
    empty = data.sector_id == 0
    return all(
        bool((data[name].where(empty, -1) == -1).all())
        for name in ("rsrp_code", "rsrq_code", "sinr_code")
    )


def _no_sector_twice(data: xr.Dataset) -> bool:
    ordered = np.sort(data.sector_id.values, axis=1)
    return not bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any())


def _neighbours_fall(data: xr.Dataset) -> bool:
    codes = data.rsrp_code.values
    return bool((np.diff(codes[:, 1:], axis=1) <= 0).all()) if codes.shape[1] > 1 else True


_REPORT_CHECKS = [
    px.Check(_serving_is_named, error="slot 0 names the serving sector"),
    px.Check(_empty_slots_are_missing, error="an empty slot has no measured value"),
    px.Check(_no_sector_twice, error="a report names a sector at most once"),
    px.Check(_neighbours_fall, error="neighbours stand by falling RSRP"),
]

ReportSchema = px.DatasetSchema(
    data_vars=_REPORT_VARS,
    sizes={"slot": SLOTS},
    checks=_REPORT_CHECKS,
    name="reports",
)
"""Reports: dims (report, slot); slot 0 is the serving sector. Ground truth is NaN where unknown."""

MeasurementSetSchema = px.DatasetSchema(
    data_vars={
        **_REPORT_VARS,
        "split": px.DataVar(dtype=np.int8, dims=("report",), checks=px.Check.in_range(-1, 3)),
    },
    sizes={"slot": SLOTS},
    checks=_REPORT_CHECKS,
    name="measurement_set",
)
"""All reports of a city with their split: index into `ueloc_core.city.SPLITS`, -1 unused."""
