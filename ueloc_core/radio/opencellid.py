"""Exports of OpenCelliD (and of Mozilla's location service): what they state of cells.

They hold no height, azimuth or tilt, and a position that is the centre of the places where
terminals heard the cell, not that of its mast.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ueloc_core.city_sections import SitePlanConfig
from ueloc_core.errors import RadioError

SIGMA_WITHOUT_RANGE_M = 500.0
"""Standard deviation of a position whose export states no range [m]: an assumption."""

EXACT_SIGMA_M = 10.0
"""That of a position that the export calls exact (``changeable`` 0) [m]: an assumption."""

_NEEDED = ("radio", "mcc", "net", "area", "cell", "unit", "lon", "lat", "range", "changeable")
_WHOLE = ("mcc", "net", "area", "cell")
_LARGEST_RANGE_M = 100_000.0
_SECTORS = 3

Problem = tuple[int, str, str, str]


def is_opencellid(names: Sequence[str]) -> bool:
    """Whether the columns of a file are those of an export."""
    return set(_NEEDED) <= set(names)


def stated_by_opencellid(
    rows: pd.DataFrame, plan: SitePlanConfig, counts: Counter[str], path: Path
) -> tuple[pd.DataFrame, list[Problem]]:
    """Rows of an export as rows of a file of cells (`ueloc_core.radio.site_files.COLUMNS`).

    Each cell is a site of its own, for each has a position of its own. Its PCI is ``unit`` where
    that is one. Its standard deviation is half its ``range``, that of a uniform disc along an
    axis; `EXACT_SIGMA_M` where it is exact; `SIGMA_WITHOUT_RANGE_M` where neither is stated. Its
    azimuth is assumed from the last digits of its number, which count the sectors of a base
    station in most networks.

    Parameters
    ----------
    rows
        Text, by the columns of an export.
    plan
        ``radios`` names the technologies that are kept; the others are counted.
    counts
        Counts that this call adds ``other_radio_<name>`` to.
    path
        The file, for errors.

    Returns
    -------
    The rows, and (line, column, value, reason) of what is wrong with them.

    Raises
    ------
    RadioError
        If no cell is of a wanted technology.
    """
    radio = rows["radio"].str.upper()
    wanted = radio.isin(plan.radios)
    others = Counter(name[:8] for name in radio[~wanted])
    counts.update({f"other_radio_{name}": count for name, count in others.items()})
    if not wanted.any():
        held = ", ".join(f"{count} {name}" for name, count in others.most_common(8))
        raise RadioError(
            f"no cell of {', '.join(plan.radios)}; the file has {held or 'no rows'}",
            where=f"{path}, column radio",
            remedy="Name those that shall count in site_plan.radios, such as [NR, LTE].",
        )
    rows = rows[wanted].reset_index(drop=True)
    problems: list[Problem] = []
    lines = rows["line"].astype(int)
    for name in _WHOLE:
        wrong = ~rows[name].str.fullmatch(r"\d{1,12}")
        found = zip(lines[wrong], rows[name][wrong], strict=True)
        problems += [(line, name, value, "not a whole number") for line, value in found]
    range_m = pd.to_numeric(rows["range"].replace("", "0"), errors="coerce")
    bad = ~(range_m.between(0, _LARGEST_RANGE_M))
    reason = f"not within 0 to {_LARGEST_RANGE_M:g} (metres)"
    found = zip(lines[bad], rows["range"][bad], strict=True)
    problems += [(line, "range", value, reason) for line, value in found]
    cell = rows["radio"].str.upper()
    for name in _WHOLE:
        cell = cell + "-" + rows[name]
    is_exact = rows["changeable"] == "0"
    pci = pd.to_numeric(rows["unit"], errors="coerce").astype(float)
    pci = pci.where(pci.between(0, 1007) & (pci % 1 == 0))
    last = pd.to_numeric(rows["cell"].str[-12:], errors="coerce").fillna(0)
    stated = pd.DataFrame(
        {
            "line": rows["line"],
            "site_id": cell,
            "sector_id": cell,
            "lon_deg": rows["lon"],
            "lat_deg": rows["lat"],
            "pci": pci.map(lambda value: "" if np.isnan(value) else f"{value:g}"),
            "position_sigma_m": np.select(
                [is_exact, range_m > 0], [EXACT_SIGMA_M, range_m / 2], SIGMA_WITHOUT_RANGE_M
            ),
            "position_sigma_assumed": True,
            "usual_azimuth_deg": (plan.azimuth_deg + 360.0 * (last % _SECTORS) / _SECTORS) % 360,
        }
    )
    stated["position_sigma_m"] = stated["position_sigma_m"].where(~bad)
    return stated, problems
