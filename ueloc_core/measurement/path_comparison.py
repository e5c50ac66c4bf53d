"""How far levels over exact paths lie from those of maps, on the same places and sectors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ueloc_core.measurement.path_propagation import Propagation
from ueloc_core.measurement.reports import decode_rsrp

_SHOWN_DB = 30.0  # differences beyond stand in the last bins
_BIN_DB = 2.0
_IN_SIGHT = 0.5
_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#777777"  # Okabe and Ito


@dataclass(frozen=True)
class Comparison:
    """Levels of the sectors that served n map-drawn reports.

    Attributes
    ----------
    mapped_dbm
        By the world's map, shape (n,); NaN where it holds none.
    mean_dbm, coherent_dbm
        By the paths: sum of their gains, and of their fields; NaN where no path arrives.
    in_sight
        Whether the paths include a direct one.
    reported_db
        Reported serving level over paths less that of the map-drawn report [dB], of the reports
        that both data sets hold.
    """

    mapped_dbm: NDArray[np.float64]
    mean_dbm: NDArray[np.float64]
    coherent_dbm: NDArray[np.float64]
    in_sight: NDArray[np.bool_]
    reported_db: NDArray[np.float64]

    @property
    def summary(self) -> dict[str, float | None]:
        """Median and root mean square of the differences [dB], paths less maps.

        ``mean_gain`` compares the paths' power with the map's, ``level`` the coherent level with
        the map's (no terminal, no shadowing), ``reported`` what both data sets report; the last
        holds the draws of both terminals.
        """
        lost = np.isfinite(self.mapped_dbm) & np.isnan(self.coherent_dbm)
        found = {"serving_without_path_share": float(lost.mean()) if len(lost) else None}
        for name, difference in (
            ("mean_gain", self.mean_dbm - self.mapped_dbm),
            ("level", self.coherent_dbm - self.mapped_dbm),
            ("reported", self.reported_db),
        ):
            known = difference[np.isfinite(difference)]
            median = float(np.median(known)) if known.size else None
            square = float(np.sqrt((known**2).mean())) if known.size else None
            found |= {f"{name}_difference_median_db": median, f"{name}_difference_rms_db": square}
        return found


def compare(
    mapped: xr.Dataset, traced: xr.Dataset, index: NDArray[np.int64], paths: Propagation
) -> Comparison:
    """Compare reports over paths with the map-drawn reports of the same tracks.

    Parameters
    ----------
    mapped
        Map-drawn reports, the rows of `paths`.
    traced
        Reports over paths.
    index
        Row in `mapped` of each report of `traced`.
    paths
        What the paths say at the rows of `mapped`.
    """
    serving = np.searchsorted(paths.sectors.sector_id.to_numpy(), mapped.sector_id.values[:, 0])
    at = np.arange(len(serving)), serving
    reference_dbm = paths.reference_dbm[serving]
    levels = [decode_rsrp(data.rsrp_code.values[:, 0]) for data in (traced, mapped)]
    return Comparison(
        mapped_dbm=mapped.rt_path_gain_db.values[:, 0] + reference_dbm,
        mean_dbm=paths.layers["path_gain_db"][at] + reference_dbm,
        coherent_dbm=paths.level_dbm[at].astype(np.float64),
        in_sight=paths.layers["line_of_sight"][at] > _IN_SIGHT,
        reported_db=levels[0] - levels[1][index],
    )


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Draw `comparison_figure` into a PNG file; the same levels give the same bytes."""
    comparison_figure(comparison).savefig(path, dpi=80, metadata={"Software": None})


def comparison_figure(comparison: Comparison) -> Figure:
    """Histogram of the differences, and levels of paths against levels of maps."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _histogram(left, comparison)
    _scatter(right, comparison)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure


def _histogram(axes: Axes, comparison: Comparison) -> None:
    edges = np.arange(-_SHOWN_DB, _SHOWN_DB + _BIN_DB, _BIN_DB)
    for values, name, style in (
        (comparison.mean_dbm, "powers added", {"color": _BLUE, "alpha": 0.55}),
        (comparison.coherent_dbm, "fields added", {"color": _ORANGE, "histtype": "step"}),
    ):
        difference = values - comparison.mapped_dbm
        known = difference[np.isfinite(difference)]
        if known.size:
            share = np.full(len(known), 100 / len(known))
            label = f"{name}, median {np.median(known):.1f} dB"
            shown = known.clip(edges[0], edges[-1])
            axes.hist(shown, bins=edges.tolist(), weights=share, label=label, linewidth=2, **style)
    axes.axvline(0.0, color=_GREY, linewidth=1)
    axes.set_ylim(top=1.25 * axes.get_ylim()[1])  # room for the legend
    axes.set_xlabel("level over paths less level of the map [dB]", fontsize=9)
    axes.set_ylabel("reports [%]", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _scatter(axes: Axes, comparison: Comparison) -> None:
    known = np.isfinite(comparison.mapped_dbm) & np.isfinite(comparison.coherent_dbm)
    for chosen, name, colour in (
        (comparison.in_sight, "in sight", _BLUE),
        (~comparison.in_sight, "not in sight", _ORANGE),
    ):
        part = known & chosen
        levels = comparison.mapped_dbm[part], comparison.coherent_dbm[part]
        axes.plot(*levels, ".", markersize=4, color=colour, label=f"{name} ({part.sum()})")
    if known.any():
        both = np.concatenate([comparison.mapped_dbm[known], comparison.coherent_dbm[known]])
        ends = [float(both.min()), float(both.max())]
        axes.plot(ends, ends, color=_GREY, linewidth=1)
    axes.set_xlabel("serving sector's level by the map [dBm]", fontsize=9)
    axes.set_ylabel("its level over paths [dBm]", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
