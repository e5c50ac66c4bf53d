"""Features on the ground of a city: roads, land use, water, the sea."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from ueloc_core.geodata.buildings import clean_polygons, rounded
from ueloc_core.geodata.coastline import sea_polygons
from ueloc_core.geodata.tags import parse_length_m

_LINES = ("LineString", "MultiLineString")
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


def _column(frame: gpd.GeoDataFrame, name: str) -> pd.Series:
    return frame[name] if name in frame else pd.Series(None, index=frame.index, dtype=object)


def _tagged(frame: gpd.GeoDataFrame, key: str) -> Any:
    values = _column(frame, key)
    return values.notna() & (values != "no")


def roads(raw: gpd.GeoDataFrame, counts: Counter[str]) -> gpd.GeoDataFrame:
    """Roads with class and width, without tunnels; see `sea` for the arguments."""
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


def areas(raw: gpd.GeoDataFrame, counts: Counter[str]) -> gpd.GeoDataFrame:
    """Land use and water that are areas; see `sea` for the arguments."""
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


def sea(
    raw: gpd.GeoDataFrame,
    boxes: Sequence[Any],
    buildings: Sequence[Any],
    counts: Counter[str],
) -> gpd.GeoDataFrame:
    """The sea as one feature of water at most, named by the first of its coastlines.

    Parameters
    ----------
    raw
        Tags and geometries in the city's CRS [m], indexed by osm_id.
    boxes, buildings
        Polygons [m] to fill and footprints, see `sea_polygons`.
    counts
        Counts that this call adds to.
    """
    is_coast = (_column(raw, "natural") == "coastline") & raw.geom_type.isin(_LINES)
    coasts = raw[is_coast & ~_tagged(raw, "highway")].sort_index()
    shape = sea_polygons(coasts.geometry.to_numpy(), boxes, buildings, counts)
    shapes = [] if shape is None else [shape]
    return gpd.GeoDataFrame(
        {"kind": ["water"] * len(shapes), "land_class": ["sea"] * len(shapes)},
        geometry=shapes,
        index=coasts.index[: len(shapes)],
        crs=raw.crs,
    )
