"""Features of a city from its OpenStreetMap extract, as GeoParquet with one row group a tile."""

import hashlib
import io
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import osmium
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from ueloc_core.city import City
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.building_table import build_buildings
from ueloc_core.geodata.ground_features import areas, roads, sea
from ueloc_core.geodata.masts import read_masts, write_masts
from ueloc_core.geodata.repair import read_elements, repair, to_geometries
from ueloc_core.geodata.schemas import FeatureSchema
from ueloc_core.geodata.sources import source_label, source_path
from ueloc_core.geodata.terrain import Terrain, build_terrain, flat_terrain, save_terrain
from ueloc_core.grid import Window, tile_at

CODE_VERSION = "4"
ATTRIBUTION = "\u00a9 OpenStreetMap contributors"

logger = logging.getLogger(__name__)

_TEXT_COLUMNS = (
    *("height_source", "material", "building_id", "roof_shape", "roof_material"),
    *("road_class", "land_class"),
)
_NUMBER_COLUMNS = (
    *("height_m", "height_sigma_m", "min_height_m", "ground_m", "roof_height_m"),
    *("roof_direction_deg", "width_m"),
)
_COLUMNS = (
    *("osm_id", "kind", "tile", "height_m", "height_source", "height_sigma_m", "min_height_m"),
    *("material", "building_id", "ground_m", "roof_shape", "roof_height_m"),
    *("roof_direction_deg", "roof_material", "road_class", "width_m", "land_class", "geometry"),
)


def build_extract(city: City, out: Path) -> dict[str, Any]:
    """Read, repair and project the extract of a city, and put it on its terrain.

    Writes ``features.parquet`` (GeoParquet 1.1 in the city's CRS, one row group a tile, rows
    sorted by tile and osm_id), ``masts.parquet``, ``terrain.zarr`` and ``repairs.json`` (what
    was dropped or repaired, by kind).

    Parameters
    ----------
    city
        The city; features that touch its bounding box are kept whole.
    out
        Empty folder.

    Returns
    -------
    Counts of features, heights by source, materials, roofs, masts and repairs; the terrain; the
    error of imputed heights.

    Raises
    ------
    GeodataError
        If the extract is missing, broken, elsewhere, or holds no building of the city, or if
        its terrain is missing or broken.
    """
    path = source_path(city)
    raw, counts = _projected(city, path)
    terrain, terrain_metadata = build_terrain(city)
    table = build_buildings(
        raw,
        _Datum(terrain, city),
        counts,
        outline_of=_outlines_of_parts(path),
        seed=city.seed,
    )
    if table is None:
        raise _no_buildings(city, path)
    buildings = table.frame.set_index("osm_id").rename_axis(None)
    boxes = [shapely.box(*city.ground_window.bounds_m), shapely.Polygon(city.area_m)]
    water = sea(raw, boxes, buildings.geometry.to_numpy(), counts)
    ground = [roads(raw, counts), areas(raw, counts), water]
    features = pd.concat([buildings, *(frame for frame in ground if len(frame))])
    features = _with_tiles(gpd.GeoDataFrame(features, crs=city.crs_code), city)
    FeatureSchema.validate(features)
    _write(features, out / "features.parquet")
    masts, mast_counts = read_masts(city, path)
    write_masts(masts, out)
    save_terrain(terrain, out, city.crs_code)
    _write_overview(features, city, out, terrain)
    repairs = {kind: count for kind, count in sorted(counts.items()) if count}
    (out / "repairs.json").write_text(json.dumps(repairs, indent=1), encoding="utf-8")
    logger.info("%s: %d features, repairs %s", city.name, len(features), repairs)
    kinds = features["kind"].value_counts().sort_index()
    return {
        "source": source_label(city),
        "features": len(features),
        "buildings": len(buildings),
        "kinds": {str(kind): int(count) for kind, count in kinds.items()},
        **table.metadata,
        "terrain": terrain_metadata,
        "telecom_masts": mast_counts,
        "repairs": repairs,
        "repaired_or_dropped": sum(repairs.values()),
        "attribution": ATTRIBUTION,
    }


def known_heights(city: City) -> pd.DataFrame:
    """What the heights of a city's buildings are estimated from, see `heights.height_table`.

    Raises
    ------
    GeodataError
        As `build_extract`.
    """
    path = source_path(city)
    raw, counts = _projected(city, path)
    flat = _Datum(flat_terrain(city.ground_window, city.terrain.step_m), city)
    related = _outlines_of_parts(path)
    table = build_buildings(raw, flat, counts, outline_of=related, seed=city.seed)
    if table is None:
        raise _no_buildings(city, path)
    return table.heights


def _projected(city: City, path: Path) -> tuple[gpd.GeoDataFrame, Counter[str]]:
    """Tags and geometries of what touches the city, in its CRS, and counts of repairs."""
    elements = read_elements(path, city.bbox)
    _require_overlap(elements.extent, city, path)
    mended, counts = repair(elements)
    counts["building_points_dropped"] += elements.building_points
    try:
        raw = to_geometries(mended, counts).to_crs(city.crs_code)
    except GeodataError as error:
        raise _no_buildings(city, path) from error
    finite = np.isfinite(raw.bounds.to_numpy()).all(axis=1)  # a node may lie half the Earth away
    counts["features_beyond_projection_dropped"] += int((~finite).sum())
    raw = raw[finite]
    raw = raw[raw.intersects(shapely.Polygon(city.area_m))]
    raw.index = pd.Index([f"{element}/{number}" for element, number in raw.index])
    return raw, counts


class _Datum:
    """The lowest ground under a building; what reaches beyond the ground's edge is left out."""

    def __init__(self, terrain: Terrain, city: City) -> None:
        self._terrain = terrain
        self._box = shapely.box(*city.ground_window.bounds_m)

    def lowest_within(self, geometry: Any) -> float:
        """Lowest elevation [m] under a geometry."""
        if self._terrain.is_flat:
            return float(self._terrain.heights_m[0, 0])
        return self._terrain.lowest_within(geometry.intersection(self._box))


def _outlines_of_parts(path: Path) -> dict[str, str]:
    """osm_id of the outline of each part that a ``type=building`` relation names."""
    kinds = {"w": "way", "r": "relation"}
    found: dict[str, str] = {}
    for relation in osmium.FileProcessor(path, osmium.osm.RELATION):
        if relation.tags.get("type") != "building":
            continue
        members = [
            (f"{kinds[m.type]}/{m.ref}", m.role) for m in relation.members if m.type in kinds
        ]
        outlines = [name for name, role in members if role == "outline"]
        if len(outlines) == 1:
            found |= {name: outlines[0] for name, role in members if role == "part"}
    return found


def _write_overview(features: gpd.GeoDataFrame, city: City, out: Path, terrain: Terrain) -> None:
    from ueloc_core.geodata.overview import write_overview  # noqa: PLC0415 - imports matplotlib

    write_overview(features, city, out / "overview.png", terrain=terrain)


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
