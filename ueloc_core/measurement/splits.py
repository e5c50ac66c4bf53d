"""All reports of a city, split by space.

A report belongs to the split of the tile that owns its serving site. Reports of the other
splits that stand within the guard band of a more protected split's labels are not used; no
training, validation or calibration report stands on (or within the guard band of) a test tile.
The most protected split keeps all of its reports, so its population is the natural one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from ueloc_core.city import SPLITS, City
from ueloc_core.errors import ReportError
from ueloc_core.grid import Window
from ueloc_core.measurement.dataset import load_reports, write_reports

CODE_VERSION = "1"
UNUSED = -1

_PROTECTED_FIRST = ("test", "calibration", "validation", "train")


def build_measurement_set(city: City, folders: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Gather the reports of all tiles, assign splits, write ``reports.zarr``.

    Parameters
    ----------
    city
        The city and its splits.
    folders
        Folder of each tile's measurements, by tile name.
    out
        Folder to write to.

    Raises
    ------
    ReportError
        If a split that is needed has no report.
    """
    names = sorted(folders)
    parts = [load_reports(folders[name]) for name in names]
    split = np.concatenate(
        [
            np.full(p.sizes["report"], SPLITS.index(city.split_of(n)))
            for n, p in zip(names, parts, strict=True)
        ]
    ).astype(np.int8)
    reports = xr.concat(parts, dim="report", combine_attrs="override")
    drawn = _counts(split)
    split = apply_guard(city, reports.x_m.values, reports.y_m.values, split)
    reports["split"] = ("report", split)
    used = _counts(split)
    empty = [name for name in SPLITS if not used[name]]
    if empty:
        raise ReportError(
            f"no report is left for {', '.join(empty)}",
            where=f"{city.name}: splits",
            remedy="Give these splits tiles where sites stand, or lower splits.guard_m.",
        )
    write_reports(reports, out)
    return {
        "reports": int(reports.sizes["report"]),
        "unused": int((split == UNUSED).sum()),
        **{f"{name}_reports": used[name] for name in SPLITS},
        **{f"{name}_kept_share": used[name] / max(drawn[name], 1) for name in SPLITS},
    }


def apply_guard(
    city: City,
    x_m: NDArray[np.float64],
    y_m: NDArray[np.float64],
    split: NDArray[np.int8],
) -> NDArray[np.int8]:
    """Splits with the reports that stand too near to a more protected one set to -1.

    Parameters
    ----------
    city
        Gives the grid, the test tiles and ``splits.guard_m``.
    x_m, y_m
        Positions [m], shape (report,).
    split
        Index into `SPLITS` by the tile of the serving site, shape (report,).
    """
    ground = city.window_cells
    row, column = ground.indices(x_m, y_m)
    result = split.copy()
    protected = _test_ground(city, ground)
    for name in _PROTECTED_FIRST:
        index = SPLITS.index(name)
        if name != "test":
            near = _within(protected, city.splits.guard_m, ground.cell_m)
            result[(result == index) & near[row, column]] = UNUSED
        mine = result == index
        protected[row[mine], column[mine]] = True
    return result


def split_violations(reports: xr.Dataset, city: City) -> dict[str, int]:
    """What breaks the separation of the splits; empty when nothing does.

    Counts terminals that are in two splits, grid cells that hold labels of two splits, and
    reports of other splits that stand on a test tile.
    """
    split = reports.split.values
    ground = city.window_cells
    row, column = ground.indices(reports.x_m.values, reports.y_m.values)
    used = split != UNUSED
    cells = np.unique(np.stack([row[used] * ground.columns + column[used], split[used]]), axis=1)
    tracks = np.unique(np.stack([reports.track.values[used], split[used]]), axis=1)
    test = SPLITS.index("test")
    on_test = _test_ground(city, ground)[row, column]
    found = {
        "grid_cells_in_two_splits": int(cells.shape[1] - len(np.unique(cells[0]))),
        "terminals_in_two_splits": int(tracks.shape[1] - len(np.unique(tracks[0]))),
        "others_on_test_tiles": int((used & (split != test) & on_test).sum()),
    }
    return {name: count for name, count in found.items() if count}


def _test_ground(city: City, ground: Window) -> NDArray[np.bool_]:
    mask = np.zeros(ground.shape, dtype=bool)
    for name in city.splits.test:
        mask[city.tile(name).window.slices_in(ground)] = True
    return mask


def _within(mask: NDArray[np.bool_], distance_m: float, cell_m: float) -> NDArray[np.bool_]:
    if not mask.any():
        return mask.copy()
    return np.asarray(distance_transform_edt(~mask, sampling=cell_m) <= distance_m)


def _counts(split: NDArray[np.int8]) -> dict[str, int]:
    return {name: int((split == index).sum()) for index, name in enumerate(SPLITS)}
