"""Picture of a city's coverage: level, quality, throughput and best servers, in 50 kB."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

_PANEL_CELLS = 200  # along a side: more do not fit into 50 kB
_LIMIT_BYTES = 50_000
_COLOURS = 128
_UNKNOWN = "#dcdcdc"
_SERVERS = 18
_PANELS = (
    ("serving_rsrp_dbm", "RSRP of the best server [dBm]", "viridis", -120.0, -60.0),
    ("serving_sinr_db", "SINR of the best server [dB]", "plasma", -5.0, 30.0),
    ("throughput_mbps", "throughput [Mbit/s]", "magma", 0.0, None),
    ("best_server", "best server, and the sites", "", -0.5, _SERVERS - 0.5),
)


def draw_coverage(coverage: xr.Dataset, sectors: pd.DataFrame, path: Path) -> None:
    """Draw four layers of a coverage outdoors as a PNG of at most 50 kB.

    Parameters
    ----------
    coverage
        Layers and coords of `CoverageSchema`.
    sectors
        Rows of `SectorSchema`: where the sites stand.
    path
        File to write; the same coverage gives the same bytes.
    """
    places = coverage.outdoor == 1
    shown = coverage.isel(x=_span(places.any("y")), y=_span(places.any("x")))
    step = math.ceil(max(shown.sizes.values()) / _PANEL_CELLS)
    small = shown.isel(x=slice(None, None, step), y=slice(None, None, step))
    content = _png(small, sectors)
    while len(content) > _LIMIT_BYTES:
        small = small.isel(x=slice(None, None, 2), y=slice(None, None, 2))
        content = _png(small, sectors)
    path.write_bytes(content)


def _span(some: xr.DataArray) -> slice:
    """From the first to the last of what is true; all of it if nothing is."""
    (found,) = np.nonzero(some.values)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(None)


def _png(coverage: xr.Dataset, sectors: pd.DataFrame) -> bytes:
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes a second
    from matplotlib.colors import ListedColormap  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    paired = mpl.colormaps["tab20"](range(20))
    servers = ListedColormap([*paired[:14], *paired[16:]])  # without the greys
    x_m, y_m = coverage.x.values, coverage.y.values
    # a pixel is drawn around the middle of its grid cell, which is one out of several
    step_x_m, step_y_m = (
        float(axis[1] - axis[0]) if axis.size > 1 else coverage.attrs["cell_m"]
        for axis in (x_m, y_m)
    )
    extent_km = [
        v / 1000
        for v in (
            *(-step_x_m / 2, np.ptp(x_m) + step_x_m / 2),
            *(-step_y_m / 2, np.ptp(y_m) + step_y_m / 2),
        )
    ]
    ratio = coverage.sizes["y"] / coverage.sizes["x"]
    figure = Figure(figsize=(7, min(12.0, 1.3 + 5 * ratio)), dpi=85, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    outdoor = coverage.outdoor.values == 1
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for axes, (name, title, colours, low, high) in zip(panels, _PANELS, strict=True):
        axes.set_facecolor(_UNKNOWN)
        values = coverage[name].values
        if name == "best_server":
            values = _colour_of(values, sectors)
        image = axes.imshow(
            np.where(outdoor, values, np.nan),
            origin="lower",
            extent=extent_km,
            cmap=colours or servers,
            vmin=low,
            vmax=high,
            interpolation="nearest",
        )
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=6)
        if name == "best_server":
            east_km, north_km = (sectors.x_m - x_m[0]) / 1000, (sectors.y_m - y_m[0]) / 1000
            axes.plot(east_km, north_km, "k^", markersize=3, scalex=False, scaley=False)
        else:
            figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=6)
    figure.supxlabel("east [km]; grey: indoors, water or not known", fontsize=7)
    figure.supylabel("north [km]", fontsize=7)
    figure.suptitle("Outdoor coverage, (c) OpenStreetMap contributors", fontsize=8)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    buffer = io.BytesIO()
    image.quantize(_COLOURS).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _colour_of(best_server: NDArray[np.int64], sectors: pd.DataFrame) -> NDArray[Any]:
    """A colour's index for each sector, NaN where none serves."""
    names = np.sort(sectors.sector_id.to_numpy())
    index = np.searchsorted(names, best_server)
    return np.where(best_server > 0, 7 * index % _SERVERS, np.nan)
