"""From rows, one per report and sector, to a data set of reports.

A report is made of its serving sector and the strongest others; the reports of a terminal stand
together, by time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.measurement import report_codes
from ueloc_core.measurement.dataset import complete
from ueloc_core.measurement.report_tables import BadRow
from ueloc_core.measurement.reports import MISSING, encode_rsrp
from ueloc_core.measurement.scenarios import UNKNOWN_SCENARIO
from ueloc_core.measurement.schemas import BEAMS, SLOTS

LEVELS = tuple(report_codes.OF_SECTOR)
BEAM_COLUMNS = tuple(
    f"{name}_{number}" for name in ("beam_index", "beam_rsrp_dbm") for number in range(1, BEAMS + 1)
)
TRUTH = ("x_m", "y_m", "speed_m_s", "heading_deg")
OF_SERVING = (*report_codes.OF_SERVING, *BEAM_COLUMNS, "time_s", *TRUTH)
"""Numbers that are read from the row of the serving sector."""

_LONGEST_S = 1e8
"""Longest track: three years. More than that are two clocks."""

KEYS = ("line", "report_id", "sector_id", "serving", "track", "good")


@dataclass(frozen=True)
class ReportFile:
    """What a file holds.

    Attributes
    ----------
    reports
        The usable reports (`ueloc_core.measurement.schemas.ReportSchema`); the ground truth is
        NaN where the file has none.
    report_ids
        The user's name of each report, shape (reports,).
    bad_rows
        What was left out, by line.
    skipped
        How many rows or neighbours were left out because they are none of this network's, by
        the reason.
    """

    reports: xr.Dataset
    report_ids: list[str]
    bad_rows: list[BadRow]
    skipped: dict[str, int] = field(default_factory=dict)


def report_file(
    rows: pd.DataFrame, bad_rows: Sequence[BadRow], skipped: dict[str, int] | None = None
) -> ReportFile:
    """Reports of rows.

    Parameters
    ----------
    rows
        One row per report and sector: `KEYS` (``report_id`` and ``track`` are text, the latter
        empty where unknown; ``good`` says that the row can be used), `LEVELS`, and any of
        `OF_SERVING`, NaN where unknown.
    bad_rows
        What is already known to be wrong.
    skipped
        As in `ReportFile`.
    """
    absent = {name: np.nan for name in (*LEVELS, *OF_SERVING) if name not in rows}
    rows = rows.assign(**absent).reset_index(drop=True)
    usable, lost = _with_their_serving_sector(rows)
    chosen, left_over = _choose(usable)
    chosen = _by_track(chosen)
    report_ids = chosen.loc[chosen["slot"] == 0, "report_id"].tolist()
    return ReportFile(
        _dataset(chosen), report_ids, sorted({*bad_rows, *lost, *left_over}), skipped or {}
    )


def _with_their_serving_sector(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[BadRow]]:
    """The good rows, less those of reports whose serving sector is unusable."""
    good = rows[rows["good"]]
    named = set(rows.loc[rows["serving"], "report_id"])
    lost = named - set(good.loc[good["serving"], "report_id"])
    first = rows[rows["report_id"] != ""].drop_duplicates("report_id")
    usable = set(good["report_id"])
    problems = []
    for name, line in first[["report_id", "line"]].itertuples(index=False):
        if name not in usable:
            reason = "not located: no usable row is left in this report"
        elif name in lost:
            reason = "not located: the row of its serving sector is unusable"
        else:
            continue
        problems.append(BadRow(int(line), "report_id", str(name), reason))
    return good[~good["report_id"].isin(lost)], problems


def _choose(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[BadRow]]:
    """The rows that make up each report, its serving sector first, and those left over."""
    problems: list[BadRow] = []

    def drop(where: "pd.Series[bool]", name: str, reason: str) -> pd.DataFrame:
        for line, value in rows.loc[where, ["line", name]].itertuples(index=False):
            problems.append(BadRow(int(line), name, str(value), reason))
        return rows[~where]

    repeated = rows.sort_values("serving", ascending=False, kind="stable").duplicated(
        ["report_id", "sector_id"]
    )
    rows = drop(
        repeated.reindex(rows.index),
        "sector_id",
        "the report names this sector twice; the serving one counts, else the first",
    )
    second = rows["serving"] & rows[rows["serving"]].duplicated("report_id").reindex(
        rows.index, fill_value=False
    )
    rows = drop(second, "serving", "a second serving sector; the first one counts")
    order = pd.Series({name: i for i, name in enumerate(dict.fromkeys(rows["report_id"]))})
    rows = rows.assign(
        order=rows["report_id"].map(order).astype(np.int64), code=encode_rsrp(rows["rsrp_dbm"])
    )
    rows = rows.sort_values(
        ["order", "serving", "code", "line"], ascending=[True, False, False, True], kind="stable"
    )
    rows = rows.assign(slot=rows.groupby("order").cumcount())
    beyond = rows["slot"] >= SLOTS
    return drop(beyond, "rsrp_dbm", f"weaker than the {SLOTS} sectors that are used"), problems


def _by_track(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a number for their terminal and the time since its first report.

    Terminals stand in the order of their first rows. A report without terminal or time, or at
    the same time as another one of its terminal, cannot be put in order: it is a track of its own.
    """
    serving = rows[rows["slot"] == 0]
    tracked = (serving["track"] != "") & serving["time_s"].notna()
    tracked &= ~serving[tracked].duplicated(["track", "time_s"]).reindex(
        serving.index, fill_value=False
    )
    first_s = serving["time_s"].where(tracked).groupby(serving["track"]).transform("min")
    tracked &= serving["time_s"] - first_s <= _LONGEST_S
    name = serving["track"].where(tracked, "\0" + serving["order"].astype(str))
    number = pd.Series(pd.factorize(name)[0], index=serving.index, dtype=np.int64)
    since = serving["time_s"].where(tracked, 0.0)
    since -= since.groupby(number).transform("min")
    place = pd.DataFrame({"number": number, "since": since}).sort_values(["number", "since"])
    place = place.assign(place=np.arange(len(place)), order=serving["order"])
    placed = rows[["order"]].merge(place, on="order", how="left").set_index(rows.index)
    rows = rows.assign(
        order=placed["place"].astype(np.int64),
        track=placed["number"].astype(np.int64),
        time_s=placed["since"].astype(np.float64),
    )
    return rows.sort_values(["order", "slot"], kind="stable")


def _dataset(rows: pd.DataFrame) -> xr.Dataset:
    serving = rows[rows["slot"] == 0]
    count = len(serving)
    where = rows["order"].to_numpy(), rows["slot"].to_numpy()

    def spread(values: NDArray[Any], empty: int) -> NDArray[Any]:
        table = np.full((count, SLOTS), empty, dtype=values.dtype)
        table[where] = values
        return table

    def of_serving(name: str) -> NDArray[np.float64]:
        return serving[name].to_numpy(np.float64)

    slots = {"sector_id": spread(rows["sector_id"].to_numpy(np.int64), 0)} | {
        coded.variable: spread(coded.encode(rows[name].to_numpy(np.float64)), MISSING)
        for name, coded in report_codes.OF_SECTOR.items()
    }
    flat = {
        coded.variable: coded.encode(of_serving(name))
        for name, coded in report_codes.OF_SERVING.items()
    }
    index, level_dbm = (
        np.stack([of_serving(name) for name in names], axis=1)
        for names in (BEAM_COLUMNS[:BEAMS], BEAM_COLUMNS[BEAMS:])
    )
    beams = dict(
        zip(("beam_index", "beam_code"), report_codes.beam_codes(index, level_dbm), strict=True)
    )
    flat |= {name: of_serving(name) for name in ("x_m", "y_m", "time_s")}
    flat |= {name: of_serving(name).astype(np.float32) for name in ("speed_m_s", "heading_deg")}
    flat |= {
        "track": serving["track"].to_numpy(np.int64),
        "scenario": np.full(count, UNKNOWN_SCENARIO, dtype=np.int8),
        "selected": np.zeros(count, dtype=np.int8),
    }
    return complete(
        xr.Dataset(
            {name: (("report", "slot"), values) for name, values in slots.items()}
            | {name: (("report", "beam"), values) for name, values in beams.items()}
            | {name: ("report", values) for name, values in flat.items()}
        )
    )
