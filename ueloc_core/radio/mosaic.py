"""The radio maps of a whole city as one data set over its grid, read as they are indexed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from ueloc_core.city import City
from ueloc_core.errors import RadioError
from ueloc_core.geodata.georeference import grid_coordinates
from ueloc_core.grid import Window
from ueloc_core.radio.cube import open_cube, window_of
from ueloc_core.radio.cube_layers import DIMS

_OF_SECTOR = ("sector", "column", "row", "element_power_dbm")


def open_mosaic(
    city: City, radio_maps: Mapping[str, Path], window: Window | None = None
) -> xr.Dataset:
    """Compose the cubes of a city's tiles over one grid; nothing is read until it is indexed.

    A part that is indexed reads the shards of the sectors whose windows it meets, and of these
    the chunks that it meets. Every access reads again: call ``load`` on a part that is used more
    than once.

    Parameters
    ----------
    city
        The city.
    radio_maps
        Folder of each tile's cube by tile name.
    window
        Grid cells to cover; the rectangle of the city's tiles by default.

    Returns
    -------
    Dims (sector, y, x), sectors sorted by ``sector_id``, row 0 in the south: all layers of the
    cubes, NaN (counts: 0) outside of a sector's own window. Coords ``x`` and ``y`` [m] are the
    centres of the grid cells; ``column``, ``row``, ``columns`` and ``rows`` are each sector's own
    window, ``tile`` is the tile that owns it, ``spatial_ref`` the CF grid mapping.

    Raises
    ------
    StoreError
        If a store is missing or corrupt, here or when a part is read.
    RadioError
        If the city has no sector, or its tiles' cubes do not belong together.
    """
    cubes = {name: open_cube(radio_maps[name]) for name in sorted(radio_maps)}
    cubes = {name: cube for name, cube in cubes.items() if cube.sizes["sector"]}
    if not cubes:
        raise RadioError("no sector stands in this city", where=city.name)
    _check_alike(city, cubes)
    places = [(name, i) for name, cube in cubes.items() for i in range(cube.sizes["sector"])]
    places.sort(key=lambda place: int(cubes[place[0]].sector[place[1]]))
    windows = [window_of(cubes[name], i) for name, i in places]
    over = city.window_cells if window is None else window
    first = next(iter(cubes.values()))
    variables = {}
    for name, variable in first.variables.items():
        if variable.dims == DIMS:
            sources = [
                _Source(cubes[tile].variables[name], i, own)
                for (tile, i), own in zip(places, windows, strict=True)
            ]
            array = indexing.LazilyIndexedArray(_MosaicArray(sources, over))
            variables[name] = xr.Variable(DIMS, array, variable.attrs)
    alike = {
        k: v for k, v in first.attrs.items() if all(c.attrs.get(k) == v for c in cubes.values())
    }
    return xr.Dataset(
        variables,
        coords={
            **grid_coordinates(city.crs_code, over),
            **_sector_coordinates(cubes, places, windows),
        },
        attrs=alike | {"title": f"radio maps of {city.title or city.name}"},
    )


def own_window(mosaic: xr.Dataset, index: int) -> Window:
    """Window over which a sector of a mosaic was traced; it may reach beyond the mosaic."""
    column, row, columns, rows = (
        int(mosaic[name][index]) for name in ("column", "row", "columns", "rows")
    )
    return Window(column, row, columns, rows, float(mosaic.attrs["cell_m"]))


def covered_window(mosaic: xr.Dataset) -> Window:
    """Grid cells that a mosaic, or a part of one without gaps, covers."""
    cell_m = float(mosaic.attrs["cell_m"])
    column, row = (round(float(mosaic[axis][0]) / cell_m - 0.5) for axis in ("x", "y"))
    return Window(column, row, mosaic.sizes["x"], mosaic.sizes["y"], cell_m)


def part_over(mosaic: xr.Dataset, window: Window) -> xr.Dataset:
    """The part of a mosaic over a window inside of it, of the sectors whose own windows meet it."""
    over = zip(("column", "row"), ("columns", "rows"), strict=True)
    meets = np.ones(mosaic.sizes["sector"], dtype=bool)
    for first, count in over:
        low, size = mosaic[first].values, mosaic[count].values
        meets &= low < getattr(window, first) + getattr(window, count)
        meets &= low + size > getattr(window, first)
    rows, columns = window.slices_in(covered_window(mosaic))
    return mosaic.isel(sector=np.flatnonzero(meets), y=rows, x=columns)


@dataclass(frozen=True)
class _Source:
    """One sector in the cube that holds it."""

    variable: xr.Variable
    index: int
    window: Window


class _MosaicArray(BackendArray):
    """One layer of many sectors over one window."""

    def __init__(self, sources: Sequence[_Source], window: Window) -> None:
        self.shape = (len(sources), *window.shape)
        self.dtype = sources[0].variable.dtype
        self._sources = sources
        self._window = window

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        asked = [np.arange(size)[k] for size, k in zip(self.shape, key, strict=True)]
        sectors, rows, columns = (positions.ravel() for positions in asked)
        unknown = np.nan if np.issubdtype(self.dtype, np.floating) else 0
        values = np.full((sectors.size, rows.size, columns.size), unknown, dtype=self.dtype)
        for k, sector in enumerate(sectors):
            source = self._sources[sector]
            row, in_row = _inside(rows + self._window.row - source.window.row, source.window.rows)
            column, in_column = _inside(
                columns + self._window.column - source.window.column, source.window.columns
            )
            if row.size and column.size:
                block = source.variable[source.index, _span(row), _span(column)].values
                met = block[np.ix_(row - row.min(), column - column.min())]
                values[k][np.ix_(in_row, in_column)] = met
        return values.reshape([size for positions in asked for size in positions.shape])


def _inside(index: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices that an axis has, and where they stand."""
    (where,) = np.nonzero((index >= 0) & (index < size))
    return index[where], where


def _span(index: NDArray[np.int64]) -> slice:
    return slice(int(index.min()), int(index.max()) + 1)


def _check_alike(city: City, cubes: Mapping[str, xr.Dataset]) -> None:
    """Cubes that are not of one city, one belief and one set of layers are not one map."""
    names = [int(sector) for cube in cubes.values() for sector in cube.sector.values]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RadioError(
            f"sector {twice[0]} stands in two tiles",
            where=city.name,
            remedy="Materialize sites and radio_map of all tiles again.",
        )
    (first_tile, first), *others = cubes.items()
    for tile, cube in cubes.items():
        for key, wanted in (("crs", city.crs_code), ("cell_m", city.grid.cell_m)):
            if cube.attrs[key] != wanted:
                _refuse(f"{key} is {cube.attrs[key]}, the city's is {wanted}", city, tile)
    for tile, cube in others:
        if set(cube.data_vars) != set(first.data_vars):
            odd = ", ".join(sorted(map(str, set(cube.data_vars) ^ set(first.data_vars))))
            _refuse(f"it and {first_tile} have different layers ({odd})", city, tile)
        if cube.attrs.get("belief") != first.attrs.get("belief"):
            _refuse(f"it and {first_tile} are of different beliefs", city, tile)


def _refuse(problem: str, city: City, tile: str) -> None:
    raise RadioError(
        problem, where=f"{city.name}/{tile}", remedy="Materialize the tile's radio_map again."
    )


def _sector_coordinates(
    cubes: Mapping[str, xr.Dataset], places: Sequence[tuple[str, int]], windows: Sequence[Window]
) -> dict[str, Any]:
    def collected(name: str) -> tuple[Any, ...]:
        values = [cubes[tile][name].values[i] for tile, i in places]
        return "sector", np.array(values), cubes[places[0][0]][name].attrs

    def sizes(name: str, long_name: str) -> tuple[Any, ...]:
        values = [getattr(window, name) for window in windows]
        return "sector", values, {"long_name": long_name, "units": "grid cells"}

    return {
        **{name: collected(name) for name in _OF_SECTOR},
        "columns": sizes("columns", "width of the sector's own window"),
        "rows": sizes("rows", "height of the sector's own window"),
        "tile": (
            "sector",
            [tile for tile, _ in places],
            {"long_name": "tile that owns the sector", "units": "1"},
        ),
    }
