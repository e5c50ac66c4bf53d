"""The data card of a report data set: what is in it, as numbers and as one figure.

Shares of what a feature scenario lacks and of what was lost are kept apart: a feature counts as
lost where the terminal's scenario reports it (any feature where the scenario is unknown).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ueloc_core.grid import Window
from ueloc_core.measurement.dataset import present_flags, stored_bytes
from ueloc_core.measurement.report_variables import MOBILITIES, SLOTS
from ueloc_core.measurement.reports import CQI_LAST, decode_rsrp, decode_sinr
from ueloc_core.measurement.scenarios import FEATURES, SCENARIOS, reported

Card = dict[str, float | int | None]

_QUANTILES = (5, 25, 50, 75, 95)
_IN_SIGHT = 0.5  # share of the grid cell's points that see the antenna
_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#bbbbbb"  # Okabe and Ito
_UNKNOWN = "unknown"


def data_card(
    reports: xr.Dataset,
    windows: Mapping[int, Window] | None = None,
    folder: Path | None = None,
) -> Card:
    """What is in a report data set, by stable names; None where it is not known.

    Parameters
    ----------
    reports
        As `ReportSchema`.
    windows
        Window of each ``sector_id``: for the share of the terminals that stand outside of the
        serving one.
    folder
        Where the reports are stored: for their size.

    Returns
    -------
    Counts of reports and tracks (by mobility and scenario as well), shares in 0..1, quantiles of
    the serving RSRP [dBm], mean interval [s], bytes a report.
    """
    count = int(reports.sizes["report"])
    starts = _starts(reports)
    card: Card = {"reports": count, "tracks": int(starts.sum())}
    for name, labels in (("mobility", MOBILITIES), ("scenario", SCENARIOS)):
        for label, code in _labelled(labels):
            mine = reports[name].values == code
            card[f"reports/{name}/{label}"] = int(mine.sum())
            card[f"tracks/{name}/{label}"] = int((mine & starts).sum())
    level_dbm = _serving_rsrp_dbm(reports)
    card["mean_sectors_heard"] = _mean(_heard(reports))
    card |= {f"serving_rsrp_p{q:02d}_dbm": _quantile(level_dbm, q) for q in _QUANTILES}
    missing = _missing(reports)
    card |= {f"missing_share/{feature}": _mean(m) for feature, (m, _) in missing.items()}
    card |= {f"lost_share/{feature}": _mean(m[has]) for feature, (m, has) in missing.items()}
    indoor = reports["indoor"].values
    sight = reports["rt_line_of_sight"].values[:, 0]
    return card | {
        "indoor_share": _mean(indoor[indoor >= 0] == 1),
        "outside_window_share": None if windows is None else _outside_share(reports, windows),
        "serving_line_of_sight_share": _mean(sight[~np.isnan(sight)] > _IN_SIGHT),
        "mean_report_interval_s": _mean(_intervals_s(reports)),
        "handover_share": _mean(_handovers(reports)),
        "bytes_per_report": stored_bytes(folder) / count if folder and count else None,
    }


def write_data_card(card: Card, folder: Path) -> None:
    """Write ``data_card.json``."""
    (folder / "data_card.json").write_text(json.dumps(card, indent=1))


def draw_data_card(reports: xr.Dataset, path: Path) -> None:
    """Draw `data_card_figure` into a PNG file; the same reports give the same bytes."""
    data_card_figure(reports).savefig(path, dpi=80, metadata={"Software": None})


def data_card_figure(reports: xr.Dataset) -> Figure:
    """The distributions of a report data set, in one figure of small panels."""
    figure = Figure(figsize=(10, 9), layout="constrained")
    panels = iter(figure.subplots(4, 3).flat)
    serving, some_sinr = _serving_rsrp_dbm(reports), decode_sinr(reports["sinr_code"].values[:, 0])
    _histogram(next(panels), serving, "serving SS-RSRP [dBm]", np.arange(-157.0, -29, 2))
    _bars(next(panels), _heard(reports), "sectors heard", np.arange(1, SLOTS + 1))
    _histogram(next(panels), some_sinr, "serving SS-SINR [dB]", np.arange(-23.0, 41, 1))
    cqi = reports["cqi"].values
    _bars(next(panels), cqi[cqi >= 0], "CQI", np.arange(CQI_LAST + 1))
    _counted(next(panels), _there(reports, "ta_code"), "timing advance [steps]")
    _counted(next(panels), _there(reports, "ta_offset_ns", "ta_offset"), "timing offset [ns]")
    rate = _there(reports, "throughput_kbps", "throughput") / 1000.0
    _histogram(next(panels), rate, "throughput [Mbit/s]", None)
    speed = reports["speed_m_s"].values[reports["mobility"].values != 0]
    _histogram(next(panels), speed, "speed of those that move [m/s]", None)
    _histogram(next(panels), _intervals_s(reports), "time between reports [s]", None)
    _named_counts(next(panels), reports, "mobility", MOBILITIES)
    _named_counts(next(panels), reports, "scenario", SCENARIOS)
    _missing_panel(next(panels), reports)
    count, tracks = reports.sizes["report"], int(_starts(reports).sum())
    figure.suptitle(
        f"{reports.attrs.get('city', 'reports')}: {count:,} reports of {tracks:,} terminals"
    )
    return figure


# -- what is counted ----------------------------------------------------------------------------


def _starts(reports: xr.Dataset) -> NDArray[np.bool_]:
    """The first report of each track; those of a track stand together."""
    track = reports["track"].values
    return np.concatenate([np.ones(min(len(track), 1), dtype=bool), track[1:] != track[:-1]])


def _heard(reports: xr.Dataset) -> NDArray[np.int64]:
    return np.asarray((reports["sector_id"].values > 0).sum(axis=1))


def _serving_rsrp_dbm(reports: xr.Dataset) -> NDArray[np.float64]:
    return decode_rsrp(reports["rsrp_code"].values[:, 0])


def _intervals_s(reports: xr.Dataset) -> NDArray[np.float64]:
    """Times between consecutive reports of a track [s]."""
    return np.asarray(np.diff(reports["time_s"].values)[~_starts(reports)[1:]])


def _handovers(reports: xr.Dataset) -> NDArray[np.bool_]:
    """Whether another sector serves than in the report before, for all but first reports."""
    serving = reports["sector_id"].values[:, 0]
    return np.asarray((serving[1:] != serving[:-1])[~_starts(reports)[1:]])


def _missing(reports: xr.Dataset) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Where each feature is missing, and where the scenario has it or is unknown.

    One value a report; for the features of a slot, one a filled slot.
    """
    filled = reports["sector_id"].values > 0
    scenario = reports["scenario"].values
    found = {}
    for feature, there in present_flags(reports).items():
        promised = (scenario < 0) | reported(feature)[scenario]
        if there.ndim == 2:
            there = there[filled]  # noqa: PLW2901
            promised = np.broadcast_to(promised[:, None], filled.shape)[filled]
        found[feature] = (~there, promised)
    return found


def _outside_share(reports: xr.Dataset, windows: Mapping[int, Window]) -> float | None:
    """Share of the reports outside of the serving window, of those with both known."""
    serving = reports["sector_id"].values[:, 0]
    x_m, y_m = reports["x_m"].values, reports["y_m"].values
    known = np.isfinite(x_m) & np.isfinite(y_m) & np.isin(serving, list(windows))
    inside = np.zeros(len(serving), dtype=bool)
    for sector in np.unique(serving[known]).tolist():
        mine = known & (serving == sector)
        inside[mine] = windows[sector].contains(x_m[mine], y_m[mine])
    return _mean(~inside[known])


def _there(reports: xr.Dataset, name: str, feature: str = "ta") -> NDArray[Any]:
    return np.asarray(reports[name].values[present_flags(reports)[feature]])


def _labelled(names: tuple[str, ...]) -> list[tuple[str, int]]:
    return [*((name, code) for code, name in enumerate(names)), (_UNKNOWN, -1)]


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if values.size else None


def _quantile(values: NDArray[np.float64], percent: int) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.percentile(known, percent)) if known.size else None


# -- panels -------------------------------------------------------------------------------------


def _panel(draw: Callable[..., None]) -> Callable[..., None]:
    """A panel that says so where there is nothing to draw, and shows shares in percent."""

    def drawn(axes: Axes, values: NDArray[Any], title: str, *more: Any) -> None:
        axes.set_xlabel(title, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
        if not known.size:
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color="#777777")
            axes.set(xticks=[], yticks=[])
            return
        draw(axes, known, *more)
        axes.set_ylabel("reports [%]", fontsize=7)

    return drawn


@_panel
def _histogram(axes: Axes, values: NDArray[Any], edges: NDArray[np.float64] | None) -> None:
    """Histogram with the median; without edges, up to the 99th percentile."""
    if edges is None:
        edges = np.linspace(min(0.0, values.min()), max(np.percentile(values, 99), 1e-9), 41)
    share = np.full(len(values), 100 / len(values))
    shown = values.clip(edges[0], edges[-1])  # the ends hold what lies beyond
    axes.hist(shown, bins=edges.tolist(), weights=share, color=_BLUE)
    median = float(np.median(values))
    axes.axvline(median, color="#333333", linewidth=1)
    axes.set_title(f"median {median:.3g}", fontsize=7, loc="right", pad=2)
    inside = np.flatnonzero(np.histogram(shown, edges)[0])
    axes.set_xlim(edges[inside[0]], edges[inside[-1] + 1])


@_panel
def _bars(axes: Axes, values: NDArray[Any], places: NDArray[np.int64]) -> None:
    counts = np.array([(values == place).sum() for place in places])
    axes.bar(places, 100 * counts / len(values), color=_BLUE, width=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"mean {values.mean():.3g}", fontsize=7, loc="right", pad=2)


@_panel
def _counted(axes: Axes, values: NDArray[Any]) -> None:
    """Histogram of whole numbers: bins of whole numbers between the 0.5th and 99.5th percentile."""
    low, high = np.floor(np.percentile(values, [0.5, 99.5]))
    step = max(1, int((high - low) // 40))
    edges = np.arange(low - 0.5, high + step, step)
    share = np.full(len(values), 100 / len(values))
    axes.hist(values.clip(low, edges[-1] - 0.5), bins=edges.tolist(), weights=share, color=_BLUE)
    axes.set_title(f"median {np.median(values):.3g}", fontsize=7, loc="right", pad=2)


def _named_counts(axes: Axes, reports: xr.Dataset, name: str, names: tuple[str, ...]) -> None:
    labels = [(label, code) for label, code in _labelled(names)]
    codes = reports[name].values
    shown = [(label, int((codes == code).sum())) for label, code in labels]
    shown = [(label, count) for label, count in shown if count or label != _UNKNOWN]
    places = np.arange(len(shown))
    axes.barh(places, [count for _, count in shown], color=_BLUE)
    axes.set_yticks(places, [label for label, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel(f"reports by {name}", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _missing_panel(axes: Axes, reports: xr.Dataset) -> None:
    """Share of each feature that is lost, and that the scenarios lack."""
    missing = _missing(reports).values()
    places = np.arange(len(FEATURES))
    everywhere = [100 * (_mean(m) or 0.0) for m, _ in missing]
    lost = [100 * (_mean(m & has) or 0.0) for m, has in missing]
    axes.barh(places, everywhere, color=_GREY, label="not reported in the scenario")
    axes.barh(places, lost, color=_ORANGE, label="lost")
    axes.set_yticks(places, FEATURES)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("reports without it [%]", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=6, loc="upper right", frameon=False)
