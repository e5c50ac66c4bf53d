"""City files: what a user edits, checked before anything runs.

A city file is YAML; `load_city` turns it into a frozen `City`. The tiles follow from the
bounding box and the grid alone, without opening the extract, so Dagster can list its
partitions when its definitions load.
"""

import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from pyproj import CRS, Geod, Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_utm_crs_info

from ueloc_core.city_files import (
    EXTENDS,
    NAME_PATTERN,
    base_file,
    explain,
    laid_over,
    read_city_file,
)
from ueloc_core.city_sections import (
    AblationsConfig,
    EvaluationConfig,
    GridConfig,
    RadioConfig,
    RayTracingConfig,
    Section,
    SitePlanConfig,
    SourceConfig,
    SplitsConfig,
    TerrainConfig,
    TilesConfig,
    TrainingConfig,
    WindowConfig,
)
from ueloc_core.errors import CityError
from ueloc_core.grid import BLOCK_CELLS, Tile, Window, sector_window, tiles_over
from ueloc_core.measurement.settings import MeasurementConfig
from ueloc_core.world.settings import WorldConfig

CITIES_DIR = Path(__file__).resolve().parent.parent / "cities"
GROUND_MARGIN_M = 200.0
SMALLEST_M, LARGEST_M = 1.0, 100_000.0
LARGEST_STRETCH = 0.01
LARGEST_TILES = 50_000
LARGEST_SIDE = 10_000  # of a scene's raster, and of the lattice of the ground
_SHOWN = 20
_PARTS = 8
SPLITS = ("train", "validation", "calibration", "test")


class City(Section):
    """A city: its source, geometry, radio network, the world's differences and splits.

    ``extends`` are the cities whose files this one's is laid over, the nearest first. It is no
    part of what a stage's result depends on: neither `params` nor ``model_dump`` holds it.
    """

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    extends: Annotated[tuple[str, ...], Field(exclude=True)] = ()
    title: str = ""
    source: SourceConfig
    bbox: tuple[float, float, float, float]
    crs: str = "utm"
    seed: int = 1
    schedule: str | None = None
    terrain: TerrainConfig = TerrainConfig()
    grid: GridConfig = GridConfig()
    tiles: TilesConfig = TilesConfig()
    window: WindowConfig = WindowConfig()
    radio: RadioConfig = RadioConfig()
    site_plan: SitePlanConfig = SitePlanConfig()
    ray_tracing: RayTracingConfig = RayTracingConfig()
    world: WorldConfig = WorldConfig()
    measurements: MeasurementConfig = MeasurementConfig()
    splits: SplitsConfig = SplitsConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    ablations: AblationsConfig = AblationsConfig()

    @model_validator(mode="after")
    def _check(self) -> "City":
        west, south, east, north = self.bbox
        _check_bbox(west, south, east, north)
        for key, size_m in (("tiles", self.tiles.size_m), ("window", self.window.size_m)):
            step_m = 2 * BLOCK_CELLS * self.grid.cell_m
            if size_m % step_m:
                raise ValueError(
                    f"{key}.size_m = {size_m:g} must be a multiple of {step_m:g}, "
                    f"{2 * BLOCK_CELLS} times grid.cell_m = {self.grid.cell_m:g}"
                )
        if self.terrain.step_m % self.grid.cell_m:
            raise ValueError(
                f"terrain.step_m = {self.terrain.step_m:g} must be a multiple of "
                f"grid.cell_m = {self.grid.cell_m:g}"
            )
        self._check_size()
        if self.unseen and self.evaluation.locunet:
            raise ValueError(
                "evaluation.locunet = true: LocUNet learns from the city's own reports, which "
                "training.cities leaves out"
            )
        known = set(self.tile_names)
        unknown = [
            f"splits.{split}: {name}"
            for split in SPLITS[1:]
            for name in getattr(self.splits, split)
            if name not in known
        ]
        if unknown:
            raise ValueError(
                f"unknown tiles ({_some(unknown, '; ')}); this bbox has {_some(sorted(known))}"
            )
        return self

    def _check_size(self) -> None:
        """Refuse what no computer holds, and a CRS in which a metre is not a metre here."""
        true_m = _sides_m(self.bbox)
        if min(true_m) < SMALLEST_M:
            raise ValueError(f"bbox = {list(self.bbox)} has no area: it is less than a metre wide")
        if (size := max(true_m)) > LARGEST_M:
            raise ValueError(
                f"bbox spans {size / 1000:.0f} km; a city spans {LARGEST_M / 1000:.0f} km at most"
            )
        south_west, south_east, north_east, north_west = self.area_m
        drawn_m = (
            (math.dist(south_west, south_east) + math.dist(north_west, north_east)) / 2,
            (math.dist(south_west, north_west) + math.dist(south_east, north_east)) / 2,
        )
        stretches = [abs(drawn / true - 1) for drawn, true in zip(drawn_m, true_m, strict=True)]
        if not all(stretch <= LARGEST_STRETCH for stretch in stretches):
            raise ValueError(
                f"crs = '{self.crs}' is wrong by {max(stretches):.1%} of a length in this bbox; "
                f"give 'utm' or one made for the place ({LARGEST_STRETCH:.0%} at most)"
            )
        tiles = math.prod(math.ceil(side / self.tiles.size_m) + 1 for side in self.extent_m)
        if tiles > LARGEST_TILES:
            raise ValueError(
                f"tiles.size_m = {self.tiles.size_m:g} cuts this bbox into {tiles} tiles, more "
                f"than {LARGEST_TILES}; make the tiles larger or the bbox smaller"
            )
        scene_m = self.tiles.size_m + 2 * (self.range_m + GROUND_MARGIN_M)
        for key, count in (
            ("grid.cell_m", scene_m / self.grid.cell_m),
            ("terrain.step_m", (max(self.extent_m) + scene_m) / self.terrain.step_m),
        ):
            if count > LARGEST_SIDE:
                raise ValueError(
                    f"{key} makes {count:.3g} grid cells a side with tiles.size_m = "
                    f"{self.tiles.size_m:g} and window.size_m = {self.window.size_m:g}; "
                    f"{LARGEST_SIDE} at most"
                )

    @functools.cached_property
    def crs_code(self) -> str:
        """The projected CRS, such as ``EPSG:32635``."""
        return _utm_code(self.bbox) if self.crs == "utm" else _metric_code(self.crs)

    @functools.cached_property
    def area_m(self) -> tuple[tuple[float, float], ...]:
        """Corners of the bounding box in the city's CRS [m], counter-clockwise from south-west."""
        west, south, east, north = self.bbox
        project = _transformer("EPSG:4326", self.crs_code).transform
        corners = ((west, south), (east, south), (east, north), (west, north))
        return tuple(project(*corner) for corner in corners)

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """Bounds (x0, y0, x1, y1) of the area in the city's CRS [m]."""
        xs, ys = zip(*self.area_m, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def extent_m(self) -> tuple[float, float]:
        """Width and height of the bounds [m]."""
        x0, y0, x1, y1 = self.bounds_m
        return x1 - x0, y1 - y0

    @functools.cached_property
    def tile_list(self) -> tuple[Tile, ...]:
        """All tiles, row by row from the south-west."""
        return tuple(tiles_over(self.bounds_m, self.tiles.size_m, self.grid.cell_m))

    @functools.cached_property
    def _tiles(self) -> dict[str, Tile]:
        return {tile.name: tile for tile in self.tile_list}

    @property
    def tile_names(self) -> tuple[str, ...]:
        """Names of all tiles."""
        return tuple(tile.name for tile in self.tile_list)

    @property
    def window_cells(self) -> Window:
        """The rectangle of grid cells that the tiles cover."""
        return Window.covering(
            self.bounds_m, self.grid.cell_m, round(self.tiles.size_m / self.grid.cell_m)
        )

    @functools.cached_property
    def ground_window(self) -> Window:
        """Grid cells that the ground's lattice covers: all tiles, their halos and a margin."""
        around = self.window_cells.buffered(self.range_m + GROUND_MARGIN_M)
        align = round(self.terrain.step_m / self.grid.cell_m)
        return Window.covering(around.bounds_m, self.grid.cell_m, align)

    @property
    def unseen(self) -> bool:
        """Whether its model is trained on other cities alone: then all of its tiles test it."""
        return bool(self.training.cities) and self.name not in self.training.cities

    @property
    def range_m(self) -> float:
        """Half the side of the square over which a sector is traced [m]; also the halo.

        It holds the sector's window whatever its boresight, in whole coarse blocks.
        """
        step_m = BLOCK_CELLS * self.grid.cell_m
        return math.ceil((self.window.size_m / 2 + self.window.shift_m) / step_m + 1) * step_m

    def tile(self, name: str) -> Tile:
        """The tile of a name.

        Raises
        ------
        CityError
            If the city has no such tile.
        """
        if name not in self._tiles:
            raise CityError(
                f"unknown tile '{name}'",
                where=self.name,
                remedy=f"Known: {_some(self.tile_names)}.",
            )
        return self._tiles[name]

    def scene_window(self, tile: Tile) -> Window:
        """Grid cells of a tile and its halo."""
        return tile.window.buffered(self.range_m)

    def scene_ground(self, tile: Tile) -> Window:
        """Grid cells that the ground of a scene covers: its window and a margin around it."""
        return self.scene_window(tile).buffered(GROUND_MARGIN_M)

    def trace_window(self, x_m: float, y_m: float) -> Window:
        """Square over which the sectors of a site at a point [m] are traced."""
        return Window.centred(x_m, y_m, 2 * self.range_m, self.grid.cell_m, BLOCK_CELLS)

    def sector_window(self, x_m: float, y_m: float, azimuth_deg: float) -> Window:
        """Window of a sector that stands at a point [m] and looks along an azimuth [deg]."""
        return sector_window(
            x_m,
            y_m,
            azimuth_deg,
            size_m=self.window.size_m,
            shift_m=self.window.shift_m,
            cell_m=self.grid.cell_m,
        )

    def neighbour_tiles(self, name: str) -> tuple[str, ...]:
        """Tiles whose sectors can be heard where this tile's sectors are, itself included."""
        window = self.tile(name).window
        reach = window.buffered(2 * self.range_m)
        ends = (reach.column + reach.columns, reach.row + reach.rows)
        near = tiles_over((reach.column, reach.row, *ends), window.columns, 1.0)  # in whole cells
        return tuple(tile.name for tile in near if tile.name in self._tiles)

    def split_of(self, tile_name: str) -> str:
        """The split that a tile belongs to."""
        for split in SPLITS[1:]:
            if tile_name in getattr(self.splits, split):
                return split
        return "train"

    def to_lonlat(self, x_m: Any, y_m: Any) -> tuple[Any, Any]:
        """Longitude and latitude [deg] of points in the city's CRS [m]."""
        return _transformer(self.crs_code, "EPSG:4326").transform(x_m, y_m)

    def params(self, *sections: str) -> dict[str, Any]:
        """The named sections as JSON values: what a stage's fingerprint hashes."""
        return self.model_dump(mode="json", include=set(sections))


def _check_bbox(west: float, south: float, east: float, north: float) -> None:
    box = f"bbox = [{west:g}, {south:g}, {east:g}, {north:g}] ([west, south, east, north], degrees)"
    if not all(math.isfinite(value) for value in (west, south, east, north)):
        raise ValueError(f"{box} holds a value that is not a number")
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 >= north >= -90):
        raise ValueError(f"{box} must lie within -180..180 and -80..84; is the order right?")
    if south < -80 or north > 84:
        raise ValueError(f"{box} reaches a pole; cities lie within -80..84 degrees of latitude")
    if west - east > 180:
        raise ValueError(f"{box} crosses the antimeridian; cut it into two cities at 180 degrees")
    if west >= east or south >= north:
        raise ValueError(f"{box} has no area; west < east and south < north are needed")


def _sides_m(bbox: tuple[float, float, float, float]) -> tuple[float, float]:
    """Mean width along the parallels, and height, of a bounding box on the ellipsoid [m]."""
    west, south, east, north = bbox
    geod = Geod(ellps="WGS84")
    # in parts: between far meridians the shortest way is no parallel, and around the Earth none
    parts = [west + (east - west) * part / _PARTS for part in range(_PARTS + 1)]
    south_m, north_m = (geod.line_length(parts, [lat] * len(parts)) for lat in (south, north))
    return (south_m + north_m) / 2, geod.line_length([west, west], [south, north])


def _some(names: Sequence[str], separator: str = ", ") -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - _SHOWN
    return separator.join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


@functools.cache
def _transformer(source: str, target: str) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


@functools.cache
def _utm_code(bbox: tuple[float, float, float, float]) -> str:
    lon, lat = (bbox[0] + bbox[2]) / 2, (bbox[1] + bbox[3]) / 2
    found = query_utm_crs_info("WGS 84", AreaOfInterest(lon, lat, lon, lat), contains=True)
    return f"{found[0].auth_name}:{found[0].code}"


@functools.cache
def _metric_code(text: str) -> str:
    try:
        crs = CRS.from_user_input(text)
    except Exception as error:
        raise ValueError(
            f"crs = '{text}' is not known to PROJ; give 'utm' or an EPSG code"
        ) from error
    if not crs.is_projected or crs.axis_info[0].unit_name != "metre":
        raise ValueError(f"crs = '{text}' is not projected in metres; give 'utm' or such a CRS")
    return text


def load_city(source: str | Path) -> City:
    """Read and check a city file.

    Parameters
    ----------
    source
        Name of a file in ``cities/`` (or in the folder ``UELOC_CITIES``), or a path. Its key
        ``extends`` names another city of the same folder: what this file does not say is as
        there, section by section.

    Raises
    ------
    CityError
        Naming the file, the key, the value found and what is allowed.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = cities_dir() / f"{source}.yaml"
    return _load(path)


def _load(path: Path, below: tuple[Path, ...] = ()) -> City:
    """A city by its file, which those `below` extend."""
    content = read_city_file(path)
    if (extends := content.pop(EXTENDS, None)) is not None:
        base = _load(base_file(path, extends, below), (*below, path))
        content = laid_over(base.model_dump(exclude={"name"}), content, City)
        content[EXTENDS] = (base.name, *base.extends)
    try:
        city = City.model_validate(content)
    except ValidationError as error:
        raise CityError(explain(error, City), where=str(path)) from None
    if city.name != path.stem:
        raise CityError(
            f"name = '{city.name}' differs from the file's name",
            where=str(path),
            remedy=f"Call it '{path.stem}', or rename the file.",
        )
    return city.model_copy(
        update={
            "source": _absolute(city.source, path.parent),
            "terrain": _absolute(city.terrain, path.parent),
            "site_plan": _absolute(city.site_plan, path.parent),
        }
    )


def _absolute(section: Any, folder: Path) -> Any:
    """A section whose path starts at the city file's folder."""
    if section.path is None or section.path.is_absolute():
        return section
    return section.model_copy(update={"path": (folder / section.path).resolve()})


def cities_dir() -> Path:
    """Folder of the city files: ``UELOC_CITIES``, else ``cities/`` of the project."""
    return Path(os.environ.get("UELOC_CITIES", CITIES_DIR))


def load_cities() -> dict[str, City]:
    """All city files of `cities_dir`, by name."""
    return {path.stem: load_city(path) for path in sorted(cities_dir().glob("*.yaml"))}
