"""Pictures of a tile's radio maps: each sector's RSRP in small, and the layers of one sector."""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ATTRIBUTION = "(c) OpenStreetMap contributors"

# layer, title, lower and upper end of the colours (None: from the values), colour map
_PANELS: tuple[tuple[str, str, float | None, float | None, str], ...] = (
    ("rsrp_dbm", "RSRP [dBm]", -130, -60, "viridis"),
    ("path_gain_se_db", "standard error [dB]", 0, 4, "magma"),
    ("line_of_sight", "line of sight [share]", 0, 1, "cividis"),
    ("first_arrival_ns", "first arrival [ns]", 0, None, "turbo"),
    ("delay_spread_ns", "delay spread [ns]", 0, 300, "turbo"),
    ("departure_azimuth_deg", "azimuth of departure [deg]", 0, 360, "twilight"),
    ("arrival_azimuth_deg", "azimuth of arrival [deg]", 0, 360, "twilight"),
    ("arrival_spread_deg", "azimuth spread of arrival [deg]", 0, 90, "turbo"),
)


def write_preview(cube: xr.Dataset, path: Path) -> None:
    """Draw each sector's RSRP in small.

    Parameters
    ----------
    cube
        The tile's cube.
    path
        PNG file to write.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    count = cube.sizes["sector"]
    columns = max(1, min(6, count))
    rows = max(1, math.ceil(count / columns))
    figure = Figure(figsize=(1.4 * columns, 1.5 * rows + 0.3), dpi=60, layout="constrained")
    for index in range(count):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(
            cube.rsrp_dbm.values[index][::2, ::2],
            origin="lower",
            vmin=-130,
            vmax=-60,
            cmap="viridis",
        )
        axes.set_title(str(int(cube.sector[index])), fontsize=6)
        axes.set_axis_off()
    shown = "-130 to -60 dBm" if count else "(no sector stands here)"
    figure.suptitle(f"RSRP {shown}, {_ATTRIBUTION}", fontsize=6)
    _write(figure, path)


def write_layers(cube: xr.Dataset, index: int, path: Path) -> None:
    """Draw the layers of one sector: level and error, sight, delays and azimuths.

    Parameters
    ----------
    cube
        The tile's cube.
    index
        Which sector.
    path
        PNG file to write.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows, columns = 2, len(_PANELS) // 2
    figure = Figure(figsize=(3.4 * columns, 3.2 * rows + 0.5), dpi=90, layout="constrained")
    half_m = cube.sizes["x"] * float(cube.attrs["cell_m"]) / 2
    for number, (layer, title, low, high, colours) in enumerate(_PANELS):
        axes = figure.add_subplot(rows, columns, number + 1)
        values = cube[layer].values[index]
        image = axes.imshow(
            values,
            origin="lower",
            extent=(-half_m, half_m, -half_m, half_m),
            cmap=colours,
            vmin=low,
            vmax=_upper(values) if high is None else high,
            interpolation="nearest",
        )
        figure.colorbar(image, ax=axes, shrink=0.8)
        axes.set_title(title, fontsize=10)
        axes.tick_params(labelsize=7)
    sector = int(cube.sector[index])
    figure.suptitle(f"sector {sector}, metres from its site, {_ATTRIBUTION}", fontsize=10)
    _write(figure, path)


def _upper(values: "NDArray[np.floating[Any]]") -> float:
    """The value that one in fifty exceeds."""
    known = values[np.isfinite(values)]
    return float(np.quantile(known, 0.98)) if known.size else 1.0


def _write(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    path.write_bytes(buffer.getvalue())
