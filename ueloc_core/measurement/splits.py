"""All reports of a city, split by space.

A track belongs to the split of the tile that owns the site serving its first report. Tracks of
the other splits that come within the guard band of a more protected split's labels with any
report are not used; no training, validation or calibration report stands on (or within the guard
band of) a test tile. The most protected split keeps all of its tracks, so its population is the
natural one, but for those whose place is unknown or beyond the city's tiles: no label is there.

The set is stored split by split, the tracks of each in random order, so that any part of a split
is a random sample of it (`ueloc_core.measurement.random_reads`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pyproj import Transformer
from scipy.ndimage import distance_transform_edt

from ueloc_core.city import SPLITS, City
from ueloc_core.errors import ReportError
from ueloc_core.grid import Window
from ueloc_core.measurement.data_card import data_card, draw_data_card, write_data_card
from ueloc_core.measurement.dataset import load_reports, write_reports
from ueloc_core.radio.sites import load_sectors

CODE_VERSION = "2"
UNUSED = -1
SEPARATED_BY = ("x_m", "y_m", "track", "split")
"""Variables of a measurement set that tell whether splits are apart."""

_PROTECTED_FIRST = ("test", "calibration", "validation", "train")
_STREAM = 10  # of the city's seed: the order of the tracks


def build_measurement_set(
    city: City, folders: Mapping[str, Path], sites: Mapping[str, Path], out: Path
) -> dict[str, Any]:
    """Gather the reports of all tiles, assign splits, write ``reports.zarr`` and its data card.

    Parameters
    ----------
    city
        The city and its splits.
    folders
        Folder of each tile's measurements, by tile name. A tile holds whole tracks.
    sites
        Folder of each tile's sites: the windows of their sectors, for the data card.
    out
        Folder to write to.

    Raises
    ------
    ReportError
        If a split that is needed has no report, or two tiles hold reports of one track.
    """
    reports = _gather(city, folders)
    drawn = reports.split.values.copy()
    reports["split"].values = apply_guard(
        city, reports.x_m.values, reports.y_m.values, drawn, reports.track.values
    )
    used = _counts(reports.split.values)
    empty = [name for name in SPLITS if not used[name]]
    if empty:
        raise ReportError(
            f"no report is left for {', '.join(empty)}",
            where=f"{city.name}: splits",
            remedy="Give these splits tiles where sites stand, or lower splits.guard_m.",
        )
    before = _counts(drawn)
    reports = _in_order(reports, city.seed)
    write_reports(reports, out)
    card = data_card(reports, _windows(city, sites), out)
    write_data_card(card, out)
    draw_data_card(reports, out / "data_card.png")
    return {
        **card,
        "unused": int((reports.split.values == UNUSED).sum()),
        **{f"{name}_reports": used[name] for name in SPLITS},
        **{f"{name}_kept_share": used[name] / max(before[name], 1) for name in SPLITS},
    }


def apply_guard(
    city: City,
    x_m: NDArray[np.float64],
    y_m: NDArray[np.float64],
    split: NDArray[np.int8],
    track: NDArray[np.int64] | None = None,
) -> NDArray[np.int8]:
    """Splits with the tracks that come too near to a more protected one set to -1.

    Parameters
    ----------
    city
        Gives the grid, the test tiles and ``splits.guard_m``.
    x_m, y_m
        Positions [m], shape (report,); tracks with a NaN, or beyond the tiles, are not used.
    split
        Index into `SPLITS` by the tile that owns the track, shape (report,).
    track
        The terminal of each report, shape (report,); each report is a track of its own without.
    """
    ground = city.window_cells
    terminal = np.arange(len(split)) if track is None else np.unique(track, return_inverse=True)[1]
    on_ground = _on_ground(ground, x_m, y_m)
    row, column = np.zeros((2, len(split)), dtype=np.int64)
    row[on_ground], column[on_ground] = ground.indices(x_m[on_ground], y_m[on_ground])

    def whole(broken: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """All reports of the tracks of some."""
        return np.isin(terminal, terminal[broken])

    result = split.copy()
    result[whole(~on_ground)] = UNUSED
    protected = _test_ground(city, ground)
    for name in _PROTECTED_FIRST:
        index = SPLITS.index(name)
        if name != "test":
            near = _within(protected, city.splits.guard_m, ground.cell_m)
            result[whole((result == index) & near[row, column])] = UNUSED
        mine = result == index
        protected[row[mine], column[mine]] = True
    return result


def split_violations(reports: xr.Dataset, city: City) -> dict[str, int]:
    """What breaks the separation of the splits; empty when nothing does.

    Counts terminals that are in two splits, grid cells that hold labels of two splits, reports of
    other splits that stand on a test tile, and labels that are unknown or beyond the tiles.
    """
    split = reports.split.values
    ground = city.window_cells
    used = split != UNUSED
    tracks = np.unique(np.stack([reports.track.values[used], split[used]]), axis=1)
    placed = _on_ground(ground, reports.x_m.values, reports.y_m.values)
    label = used & placed
    row, column = ground.indices(reports.x_m.values[label], reports.y_m.values[label])
    cells = np.unique(np.stack([row * ground.columns + column, split[label]]), axis=1)
    on_test = _test_ground(city, ground)[row, column]
    found = {
        "grid_cells_in_two_splits": int(cells.shape[1] - len(np.unique(cells[0]))),
        "terminals_in_two_splits": int(tracks.shape[1] - len(np.unique(tracks[0]))),
        "others_on_test_tiles": int(((split[label] != SPLITS.index("test")) & on_test).sum()),
        "labels_off_the_tiles": int((used & ~placed).sum()),
    }
    return {name: count for name, count in found.items() if count}


def training_violations(city: City, sets: Iterable[tuple[City, xr.Dataset]]) -> dict[str, int]:
    """What of the ground on which a city is tested reaches its model; empty when nothing does.

    Its own set must be split (`split_violations`). Of the other cities, reports that train,
    validate or calibrate are counted that stand on a grid cell with a test label, on a test
    tile, or within the guard band of either. An unseen city is tested on all of its tiles.

    Parameters
    ----------
    city
        The city whose model it is.
    sets
        The cities that train it, with their measurement sets (`SEPARATED_BY`).
    """
    sets = list(sets)
    found = {}
    for own in (reports for other, reports in sets if other.name == city.name):
        found = split_violations(own, city)
    for other, standing in _on_tested_ground(city, sets):
        found[f"reports_of_{other.name}_on_tested_ground"] = int(standing.sum())
    return {name: count for name, count in found.items() if count}


def off_tested_ground(city: City, sets: Iterable[tuple[City, xr.Dataset]]) -> list[xr.Dataset]:
    """Measurement sets of the cities that train a city, without what stands where it is tested.

    A city that trains itself may be trained on the same ground with other sites or in another
    world. Tracks of such a city that come onto tested ground, or within its guard band, are not
    used (split -1). The sets of an unseen city are left as they are: nobody may share its ground.

    Parameters are those of `training_violations`.

    Returns
    -------
    list
        The sets in their order.
    """
    sets = list(sets)
    kept = {other.name: reports for other, reports in sets}
    for other, standing in () if city.unseen else _on_tested_ground(city, sets):
        reports = kept[other.name]
        track = reports.track.values
        split = np.where(np.isin(track, track[standing]), UNUSED, reports.split.values)
        kept[other.name] = reports.assign(split=("report", split.astype(np.int8)))
    return list(kept.values())


def _on_tested_ground(
    city: City, sets: Sequence[tuple[City, xr.Dataset]]
) -> Iterator[tuple[City, NDArray[np.bool_]]]:
    """Of each other city, which reports are used and stand where this one is tested."""
    ground = city.window_cells.buffered(city.splits.guard_m)
    tested = np.zeros(ground.shape, dtype=bool)
    if city.unseen:
        tested[city.window_cells.slices_in(ground)] = True
    for own in (reports for other, reports in sets if other.name == city.name):
        tested = _test_ground(city, ground)
        x_m, y_m = own.x_m.values, own.y_m.values
        test = (own.split.values == SPLITS.index("test")) & _on_ground(ground, x_m, y_m)
        tested[ground.indices(x_m[test], y_m[test])] = True
    tested = _within(tested, city.splits.guard_m, ground.cell_m)
    for other, reports in sets:
        if other.name != city.name or city.unseen:
            yield other, _standing_on(tested, ground, city, other, reports)


def _standing_on(
    tested: NDArray[np.bool_], ground: Window, city: City, other: City, reports: xr.Dataset
) -> NDArray[np.bool_]:
    """Reports of another city that are used and stand on tested cells of this one's ground."""
    split = reports.split.values
    x_m, y_m = reports.x_m.values, reports.y_m.values
    if other.crs_code != city.crs_code:
        project = Transformer.from_crs(other.crs_code, city.crs_code, always_xy=True)
        x_m, y_m = project.transform(x_m, y_m)
    used = (split != UNUSED) & (split != SPLITS.index("test"))
    found = used & _on_ground(ground, x_m, y_m)
    found[found] = tested[ground.indices(x_m[found], y_m[found])]
    return np.asarray(found)


def _gather(city: City, folders: Mapping[str, Path]) -> xr.Dataset:
    """The reports of all tiles with the split of their tile."""
    parts: list[xr.Dataset] = []
    first_tile: dict[int, str] = {}
    for name in sorted(folders):
        part = load_reports(folders[name])
        split = np.full(part.sizes["report"], SPLITS.index(city.split_of(name)), dtype=np.int8)
        parts.append(part.assign(split=("report", split)))
        for track in np.unique(part.track.values).tolist():
            if track in first_tile:
                raise ReportError(
                    f"track {track} has reports in {first_tile[track]} and in {name}",
                    where=f"{city.name}: measurements",
                    remedy="Materialize the measurements again.",
                )
            first_tile[track] = name
    return xr.concat(parts, dim="report", combine_attrs="override")


def _windows(city: City, sites: Mapping[str, Path]) -> dict[int, Window]:
    """Window of each sector of some tiles: the frame in which what it serves is located."""
    columns = ("sector_id", "x_m", "y_m", "azimuth_deg")
    windows = {}
    for table in map(load_sectors, sites.values()):
        for sector, *place in zip(*(table[name].tolist() for name in columns), strict=True):
            windows[int(sector)] = city.sector_window(*place)
    return windows


def _in_order(reports: xr.Dataset, seed: int) -> xr.Dataset:
    """Split by split, the tracks of each in random order, the reports of a track as they are."""
    track, terminal = np.unique(reports.track.values, return_inverse=True)
    place = np.random.default_rng([seed, _STREAM]).permutation(len(track))
    return reports.isel(report=np.lexsort((place[terminal], reports.split.values)))


def _on_ground(
    ground: Window, x_m: NDArray[np.float64], y_m: NDArray[np.float64]
) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = ground.bounds_m
    return np.asarray((x_m >= x0) & (x_m < x1) & (y_m >= y0) & (y_m < y1))


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
