"""All buildings of a city: polygons, parts, heights, roofs, materials, no space filled twice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from ueloc_core.geodata.buildings import (
    MAX_AREA_M2,
    Building,
    canopy_base_m,
    clean_polygons,
    described,
    roof_material,
    wall_material,
)
from ueloc_core.geodata.heights import height_table, hidden_height_error, imputed_heights
from ueloc_core.geodata.overlaps import resolve_overlaps
from ueloc_core.geodata.parts import resolve_parts
from ueloc_core.geodata.roof_tags import direction_deg, fitted_rise_m

_ROOF_SHARE = 0.8  # of its footprint that a building must keep to keep a pitched roof
_AREAL = ("Polygon", "MultiPolygon", "GeometryCollection")


class Ground(Protocol):
    """Ground that buildings stand on."""

    def lowest_within(self, geometry: Any) -> float:
        """Lowest elevation [m] under a geometry."""


@dataclass(frozen=True)
class BuildingTable:
    """Buildings of a city, and what is told of them.

    Attributes
    ----------
    frame
        The building columns of `FeatureSchema`, with ``osm_id``.
    heights
        What heights were estimated from, see `height_table`.
    metadata
        Counts by height source, material, where the material is from, and roof shape, and the
        error of imputed heights.
    """

    frame: gpd.GeoDataFrame
    heights: pd.DataFrame
    metadata: dict[str, Any]


def build_buildings(
    raw: gpd.GeoDataFrame,
    ground: Ground,
    counts: Counter[str],
    *,
    outline_of: Mapping[str, str],
    seed: int,
) -> BuildingTable | None:
    """Buildings of the tagged geometries of a city; None where there is none.

    Parameters
    ----------
    raw
        Tags and geometries in the city's CRS [m], indexed by osm_id.
    ground
        What they stand on; a part has the datum of its outline.
    counts
        Counts of repairs that this call adds to.
    outline_of
        osm_id of the outline of a part, where a relation says so.
    seed
        Seed of the folds by which the error of imputed heights is measured.
    """
    outlines, parts = _described(raw, counts)
    if not outlines and not parts:
        return None
    whole = {building.osm_id: building.shape for building in (*outlines, *parts)}
    buildings = resolve_parts(outlines, parts, outline_of, counts)
    heights = height_table(buildings)
    datums = {b.building_id: whole[b.building_id] for b in buildings}
    ground_m = {name: ground.lowest_within(shape) for name, shape in datums.items()}
    rows, sources = _rows(buildings, heights, ground_m, counts)
    frame = resolve_overlaps(gpd.GeoDataFrame(rows, crs=raw.crs), counts)
    frame = _with_fitting_roofs(frame, whole, counts)
    kept = set(frame["osm_id"])
    metadata = {
        **{
            name: _tally(frame[column])
            for name, column in (
                ("heights", "height_source"),
                ("materials", "material"),
                ("roof_materials", "roof_material"),
                ("roof_shapes", "roof_shape"),
            )
        },
        "material_sources": {
            surface: _tally(pd.Series([by for name, by in found if name in kept], dtype=object))
            for surface, found in sources.items()
        },
        "height_error": hidden_height_error(heights, seed),
    }
    return BuildingTable(frame, heights, metadata)


def _tally(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().sort_index().items()}


def _tagged(frame: gpd.GeoDataFrame, key: str) -> Any:
    if key not in frame:
        return pd.Series(data=False, index=frame.index)
    return frame[key].notna() & (frame[key] != "no")


def _described(
    raw: gpd.GeoDataFrame, counts: Counter[str]
) -> tuple[list[Building], list[Building]]:
    """Outlines and parts as their own tags describe them."""
    is_outline = _tagged(raw, "building")
    tagged = raw[is_outline | _tagged(raw, "building:part")]
    location = tagged["location"] if "location" in tagged else pd.Series(index=tagged.index)
    underground = location.isin(["underground", "subway"])
    lines = ~tagged.geom_type.isin(_AREAL)
    counts["underground_buildings_dropped"] += int(underground.sum())
    counts["building_lines_dropped"] += int((lines & ~underground).sum())
    tagged = tagged[~underground & ~lines].sort_index()
    outlines: list[Building] = []
    parts: list[Building] = []
    records = tagged.drop(columns="geometry").to_dict("records")
    for osm_id, tags, geometry in zip(tagged.index, records, tagged.geometry, strict=True):
        counts["self_intersections_repaired"] += not geometry.is_valid
        shape = clean_polygons(geometry)
        if shape is None:
            counts["sliver_buildings_dropped"] += 1
            continue
        if shape.area > MAX_AREA_M2:  # a way that was drawn across the map by mistake
            counts["oversized_buildings_dropped"] += 1
            continue
        texts = {key: value for key, value in tags.items() if isinstance(value, str)}
        group, kind = (outlines, "building") if is_outline[osm_id] else (parts, "building_part")
        group.append(described(str(osm_id), kind, texts, shape, counts))
    return outlines, parts


def _rows(
    buildings: Sequence[Building],
    heights: pd.DataFrame,
    ground_m: Mapping[str, float],
    counts: Counter[str],
) -> tuple[list[dict[str, Any]], dict[str, list[tuple[str, str]]]]:
    """One row a building, and by surface how many materials are from a tag."""
    rows = []
    sources: dict[str, list[tuple[str, str]]] = {"walls": [], "roofs": []}
    for building, height_m, sigma_m in zip(buildings, *imputed_heights(heights), strict=True):
        standing = building
        if building.top_m is None:
            standing = _with_top(building, float(height_m), float(sigma_m))
        assert standing.top_m is not None
        span_m = standing.top_m - standing.base_m
        rise_m = fitted_rise_m(standing.roof, standing.rise_m, span_m)
        wall, wall_source = wall_material(standing.tags, counts)
        roof, roof_source = roof_material(standing.tags, standing.roof.shape, counts)
        sources["walls"].append((standing.osm_id, wall_source))
        sources["roofs"].append((standing.osm_id, roof_source))
        counts["roofs_without_room"] += standing.roof.shape != "flat" and rise_m == 0
        rows.append(
            {
                "osm_id": standing.osm_id,
                "kind": standing.kind,
                "height_m": standing.top_m,
                "height_source": standing.source,
                "height_sigma_m": standing.sigma_m,
                "min_height_m": standing.base_m,
                "material": wall,
                "building_id": standing.building_id,
                "ground_m": round(ground_m[standing.building_id], 3),
                "roof_shape": standing.roof.shape if rise_m else "flat",
                "roof_height_m": rise_m,
                "roof_direction_deg": direction_deg(standing.roof, standing.shape),
                "roof_material": roof,
                "geometry": standing.shape,
            }
        )
    return rows, sources


def _with_top(building: Building, height_m: float, sigma_m: float) -> Building:
    base_m = building.base_m or canopy_base_m(building.type, height_m, building.rise_m)
    return replace(
        building, top_m=height_m, sigma_m=sigma_m, base_m=round(base_m, 3), source="imputed"
    )


def _with_fitting_roofs(
    frame: gpd.GeoDataFrame, whole: Mapping[str, Any], counts: Counter[str]
) -> gpd.GeoDataFrame:
    """Rows whose pitched roofs stand on what is left of the footprint; the others are flat."""
    is_pitched = (frame["roof_shape"] != "flat").to_numpy()
    before = [whole[name] for name in frame["osm_id"]]
    shapes = frame.geometry.to_numpy()
    is_cut = (
        (shapely.area(shapes) < _ROOF_SHARE * shapely.area(before))
        | (shapely.get_num_geometries(shapes) > 1)
        | (_holes(shapes) > _holes(before))
    )
    flattened = is_pitched & is_cut
    counts["roofs_flattened"] += int(flattened.sum())
    is_flat = flattened | ~is_pitched
    return frame.assign(
        roof_shape=np.where(is_flat, "flat", frame["roof_shape"]),
        roof_height_m=np.where(is_flat, 0.0, frame["roof_height_m"].to_numpy(float)),
        roof_direction_deg=np.where(
            is_flat, np.nan, frame["roof_direction_deg"].to_numpy(dtype=float, na_value=np.nan)
        ),
    )


def _holes(shapes: Any) -> Any:
    parts, owners = shapely.get_parts(shapes, return_index=True)
    return np.bincount(owners, shapely.get_num_interior_rings(parts), minlength=len(shapes))
