"""The sectors that the rows of a log mean, report by report and along each terminal's track."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ueloc_core.measurement.report_tables import BadRow
from ueloc_core.measurement.sector_matching import NO_SECTOR, Match, SectorBook

_SERVES = 1e6  # more than any level


def with_sectors(rows: pd.DataFrame, book: SectorBook) -> tuple[pd.DataFrame, list[BadRow]]:
    """The rows with the sectors that they mean, good only where one is certain.

    Serving sectors come first: their sites say where the PCIs of their neighbours are looked up.
    Where the city knows none of the file's sectors by name, PCIs count alone.

    Parameters
    ----------
    rows
        One row per report and sector: line, report_id, track, serving, good, rsrp_dbm, x_m, y_m
        (NaN where unknown), ``named`` (text that names the sector, or empty), ``named_by`` and
        ``pci_by`` (their columns in the file), and, if known, pci and time_s.
    book
        The sectors.

    Returns
    -------
    The rows with ``sector_id`` (`ueloc_core.measurement.sector_matching.NO_SECTOR` where none is
    certain), and ``by``, the column that names it; and what could not be resolved.
    """
    absent = {name: np.nan for name in ("pci", "time_s") if name not in rows}
    rows = rows.assign(**absent).reset_index(drop=True)
    pci = rows["pci"].to_numpy(np.float64)
    by_name, match = _by_name(rows, pci, book)
    anchor = _anchors(rows)
    found, why = match.sector_id, match.reason

    def resolve(which: NDArray[np.bool_], near_m: NDArray[np.float64]) -> None:
        nearest = book.by_pci(pci[which], near_m[which])
        found[which], why[which] = nearest.sector_id, nearest.reason

    resolve(~by_name & anchor, rows[["x_m", "y_m"]].to_numpy(np.float64))
    _along_the_tracks(rows, ~by_name & anchor, Match(found, why), book)
    site = pd.Series(found[anchor], index=rows.loc[anchor, "report_id"])
    serving = site.reindex(rows["report_id"]).fillna(NO_SECTOR).to_numpy(np.int64)
    resolve(~by_name & ~anchor, book.places_m(serving))
    rows = rows.assign(sector_id=found, by=rows["named_by"].where(by_name, rows["pci_by"]))
    lost = rows["good"].to_numpy(bool) & (found == NO_SECTOR)  # what is bad was told already
    shown = np.where(by_name, rows["named"], [f"{value:g}" for value in pci])
    bad_rows = [
        BadRow(int(rows["line"][row]), str(rows["by"][row]), str(shown[row]), str(why[row]))
        for row in np.flatnonzero(lost)
    ]
    return rows.assign(good=rows["good"] & ~lost), bad_rows


def _by_name(
    rows: pd.DataFrame, pci: NDArray[np.float64], book: SectorBook
) -> tuple[NDArray[np.bool_], Match]:
    """Which rows are matched by what they call their sector, and those matches."""
    match = book.by_text(rows["named"])
    stated = (rows["named"] != "").to_numpy(bool)
    known = stated & (match.sector_id != NO_SECTOR)
    by_name = stated & (known.any() | np.isnan(pci))
    reason = np.where(by_name, match.reason, "").astype(object)
    return by_name, Match(np.where(by_name, match.sector_id, NO_SECTOR), reason)


def _anchors(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """The rows that say where the reports are: the serving sector's, else the strongest one's."""
    strength = rows["rsrp_dbm"].where(rows["good"]).fillna(-_SERVES) + _SERVES * rows["serving"]
    order = np.argsort(-strength.to_numpy(np.float64), kind="stable")
    first = ~rows["report_id"].iloc[order].duplicated()
    anchors = np.zeros(len(rows), dtype=bool)
    anchors[order[first.to_numpy(bool)]] = True
    return anchors


def _along_the_tracks(
    rows: pd.DataFrame, open_rows: NDArray[np.bool_], match: Match, book: SectorBook
) -> None:
    """Match serving sectors without a stated position near the terminal's last serving site."""
    track = rows["track"].astype(str).to_list()
    order = rows.assign(row=np.arange(len(rows))).sort_values(["track", "time_s", "line"])["row"]
    unknown = open_rows & rows["x_m"].isna().to_numpy() & (match.sector_id == NO_SECTOR)
    anchored = open_rows | (match.sector_id != NO_SECTOR)
    anchored &= rows["good"].to_numpy(bool) & _anchors(rows) & (rows["track"] != "").to_numpy(bool)
    pci = rows["pci"].to_numpy(np.float64)
    last: dict[str, NDArray[np.int64]] = {}
    for row in order[anchored[order]]:
        if unknown[row] and track[row] in last:
            nearest = book.by_pci(pci[[row]], book.places_m(last[track[row]]))
            match.sector_id[row], match.reason[row] = nearest.sector_id[0], nearest.reason[0]
        if match.sector_id[row] != NO_SECTOR:
            last[track[row]] = match.sector_id[[row]]
