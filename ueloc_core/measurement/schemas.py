"""Contracts of the report data sets: the range of each variable, and what holds between them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandera.xarray as px
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.measurement.report_variables import (
    BEAMS,
    FLAGS,
    RAY_TRACED,
    SLOTS,
    SPLIT,
    VARIABLES,
    Variable,
    feature_values,
    flags_of_codes,
)
from ueloc_core.measurement.scenarios import max_neighbours, reported

__all__ = ["BEAMS", "SLOTS", "MeasurementSetSchema", "ReportSchema"]

_PER_SLOT = ("rsrp_code", "rsrq_code", "sinr_code")
_LAST_DIFFERENTIAL = 15  # TS 38.133, table 10.1.6.1-2


def _in_range(variable: Variable) -> Callable[[xr.DataArray], bool]:
    def check(data: xr.DataArray) -> bool:
        values = data.values
        nothing = np.isnan(values) if np.isnan(variable.missing) else values == variable.missing
        return bool((nothing | ((values >= variable.lowest) & (values <= variable.highest))).all())

    return check


def _contract(name: str, variable: Variable) -> Any:
    bounds = f"{name} is from {variable.lowest:g} to {variable.highest:g}"
    missing = "" if np.isnan(variable.missing) else f", or {int(variable.missing)} for missing"
    return px.DataVar(
        dtype=variable.dtype,
        dims=variable.dims,
        nullable=bool(np.isnan(variable.missing)),
        checks=px.Check(_in_range(variable), error=f"{bounds}{missing}"),
    )


def _every_report_has_its_time(data: xr.Dataset) -> bool:
    return bool(np.isfinite(data.time_s.values).all() and (data.track.values >= 0).all())


def _serving_is_named(data: xr.Dataset) -> bool:
    return bool((data.sector_id.values[:, 0] > 0).all())


def _filled_from_the_front(data: xr.Dataset) -> bool:
    filled = data.sector_id.values > 0
    return not bool((filled[:, 1:] & ~filled[:, :-1]).any())


def _empty_slots_are_missing(data: xr.Dataset) -> bool:
    empty = data.sector_id.values == 0
    codes = all((data[name].values[empty] == -1).all() for name in _PER_SLOT)
    return bool(codes and all(np.isnan(data[name].values[empty]).all() for name in RAY_TRACED))


def _no_sector_twice(data: xr.Dataset) -> bool:
    ordered = np.sort(data.sector_id.values, axis=1)
    return not bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any())


def _neighbours_fall(data: xr.Dataset) -> bool:
    return bool((np.diff(data.rsrp_code.values[:, 1:], axis=1) <= 0).all())


def _beams_are_named_once(data: xr.Dataset) -> bool:
    ordered = np.sort(data.beam_index.values, axis=1)
    return not bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any())


def _beams_have_codes(data: xr.Dataset) -> bool:
    return bool(((data.beam_index.values >= 0) == (data.beam_code.values >= 0)).all())


def _strongest_beam_first(data: xr.Dataset) -> bool:
    """Differential codes count down from the first beam, so they rise; nothing comes after none."""
    there, weaker = data.beam_index.values >= 0, data.beam_code.values[:, 1:]
    gap = there[:, 1:] & ~there[:, :-1]
    rising = (np.diff(weaker, axis=1) >= 0) | ~there[:, 2:]
    return bool(not gap.any() and rising.all() and (weaker <= _LAST_DIFFERENTIAL).all())


def _present_agrees(data: xr.Dataset) -> bool:
    return bool((data.present.values == flags_of_codes(data)).all())


def _scenario_is_kept(data: xr.Dataset) -> bool:
    """Scenario -1 is unknown, and may report anything."""
    scenario = data.scenario.values
    known = scenario >= 0
    for feature in FLAGS:
        _, there = feature_values(data, feature)
        somewhere = there if there.ndim == 1 else there.any(axis=1)
        if (somewhere & known & ~reported(feature)[scenario]).any():
            return False
    neighbours = (data.sector_id.values > 0).sum(axis=1) - 1
    return bool((neighbours <= max_neighbours()[scenario])[known].all())


def _tracks_stand_together(data: xr.Dataset) -> bool:
    track = data.track.values
    return int(_starts(track).sum()) == len(np.unique(track))


def _times_rise(data: xr.Dataset) -> bool:
    first, time_s = _starts(data.track.values), data.time_s.values
    rises = first[1:] | (np.diff(time_s) > 0)
    return bool((time_s[first] == 0).all() and rises.all())


def _tracks_have_one(name: str) -> Callable[[xr.Dataset], bool]:
    def check(data: xr.Dataset) -> bool:
        values, first = data[name].values, _starts(data.track.values)
        return bool((first[1:] | (values[1:] == values[:-1])).all())

    return check


def _places_are_whole(data: xr.Dataset) -> bool:
    return bool((np.isnan(data.x_m.values) == np.isnan(data.y_m.values)).all())


def _used_places_are_known(data: xr.Dataset) -> bool:
    return bool(np.isfinite(data.x_m.values[data.split.values >= 0]).all())


def _starts(track: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where another terminal's reports begin, shape (report,)."""
    return np.concatenate([np.ones(min(len(track), 1), dtype=bool), track[1:] != track[:-1]])


def _rule(check: Callable[[xr.Dataset], bool], error: str) -> Any:
    return px.Check(check, error=error)


_RULES = [
    _rule(_every_report_has_its_time, "every report has a track and a time"),
    _rule(_serving_is_named, "slot 0 names the serving sector"),
    _rule(_filled_from_the_front, "no slot is filled after an empty one"),
    _rule(_empty_slots_are_missing, "an empty slot has no value"),
    _rule(_no_sector_twice, "a report names a sector at most once"),
    _rule(_neighbours_fall, "neighbours stand by falling RSRP"),
    _rule(_beams_are_named_once, "a report names a beam at most once"),
    _rule(_beams_have_codes, "a beam and its code are there or missing together"),
    _rule(_strongest_beam_first, "the strongest beam is the first, and the others follow by level"),
    _rule(_present_agrees, "`present` agrees with the codes"),
    _rule(_scenario_is_kept, "nothing is reported that the terminal's scenario lacks"),
    _rule(_tracks_stand_together, "the reports of a track stand together"),
    _rule(_times_rise, "the times of a track start at 0 and rise"),
    _rule(_tracks_have_one("mobility"), "a track has one kind of mobility"),
    _rule(_tracks_have_one("scenario"), "a track has one scenario"),
    _rule(_places_are_whole, "x_m and y_m are known or unknown together"),
]
_DATA_VARS = {name: _contract(name, variable) for name, variable in VARIABLES.items()}

ReportSchema = px.DatasetSchema(
    data_vars=_DATA_VARS,
    sizes={"slot": SLOTS, "beam": BEAMS},
    checks=_RULES,
    name="reports",
)
"""Reports: dims (report, slot, beam); slot 0 is the serving sector. Truth is NaN where unknown."""

MeasurementSetSchema = px.DatasetSchema(
    data_vars={**_DATA_VARS, "split": _contract("split", SPLIT)},
    sizes={"slot": SLOTS, "beam": BEAMS},
    checks=[
        *_RULES,
        _rule(_tracks_have_one("split"), "a track has one split"),
        _rule(_used_places_are_known, "reports of a split have a known place"),
    ],
    name="measurement_set",
)
"""All reports of a city with their split: index into `ueloc_core.city.SPLITS`, -1 unused."""
