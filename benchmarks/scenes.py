"""Are scenes true to their extract, closed, free of overlaps, and how well are heights estimated?

``python -m benchmarks.scenes [extract ...]`` builds the extract and the scenes of all tiles of
Helsinki and of each OpenStreetMap file that is named (monaco.osm.gz is the city of
``cities/monaco.yaml``; a file without a city file is taken whole). SRTM tiles come from
``UELOC_DEM``. The last line is one JSON object: ``{"cities": {name: {...}}}``.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import geopandas as gpd
import numpy as np
import osmium
import shapely
import trimesh
from tqdm import tqdm

from ueloc_core.city import City, cities_dir, load_city
from ueloc_core.city_sections import SourceConfig, TerrainConfig
from ueloc_core.errors import GeodataError, UelocError
from ueloc_core.geodata.osm import build_extract, load_features
from ueloc_core.geodata.repair import read_elements
from ueloc_core.geodata.schemas import BUILDING_KINDS
from ueloc_core.geodata.sources import source_path
from ueloc_core.geodata.terrain import Terrain, load_terrain
from ueloc_core.grid import Tile
from ueloc_core.provenance import digest_folder
from ueloc_core.scene.mitsuba import build_scene

LARGEST_OVERLAP_M2 = 1.0
_COLUMNS = (
    *("buildings_in", "meshes_out", "watertight_share", "overlapping_pairs", "height_median_m"),
    *("height_p90_m", "city_median_rule_median_m", "city_median_rule_p90_m", "coverage_90"),
    *("extract_s", "scene_s_per_km2", "mb_per_km2", "byte_identical"),
)


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenes", description=__doc__)
    parser.add_argument("extracts", nargs="*", type=Path, metavar="extract")
    parser.add_argument("--flat", action="store_true", help="leave out the terrain")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    try:
        cities = [load_city("helsinki"), *(city_of(path.resolve()) for path in options.extracts)]
        for city in cities:
            level = city.model_copy(update={"terrain": TerrainConfig()})
            found[city.name] = measured(level if options.flat else city)
    except UelocError as error:
        sys.exit(f"error: {error}")
    width = max(map(len, _COLUMNS))
    print(f"{'':{width}}" + "".join(f"{name:>17}" for name in found))
    for column in _COLUMNS:
        print(f"{column:{width}}" + "".join(f"{_shown(f[column]):>17}" for f in found.values()))
    print(json.dumps({"cities": found}))
    good = all(
        f["watertight_share"] == 1 and f["overlapping_pairs"] == 0 and f["byte_identical"]
        for f in found.values()
    )
    return int(not good)


def city_of(path: Path) -> City:
    """The city of an extract: of its name, else one around all that the file holds."""
    name = path.name.partition(".")[0]
    source = SourceConfig(kind="file", path=path)
    if (cities_dir() / f"{name}.yaml").is_file():
        return load_city(name).model_copy(update={"source": source})
    if not path.is_file():
        raise GeodataError("no such extract", where=str(path))
    box = osmium.io.Reader(str(path)).header().box()
    if not box.valid():
        locations = [(n.lon, n.lat) for n in osmium.FileProcessor(path, osmium.osm.NODE)]
        west, south = np.min(locations, axis=0)
        east, north = np.max(locations, axis=0)
    else:
        west, south = box.bottom_left.lon, box.bottom_left.lat
        east, north = box.top_right.lon, box.top_right.lat
    bbox = tuple(map(float, (west, south, east, north)))
    return City.model_validate({"name": name.lower(), "source": source, "bbox": bbox})


def measured(city: City) -> dict[str, Any]:
    """Build a city's extract and all its scenes, and look at what came out."""
    with TemporaryDirectory(prefix="ueloc-scenes-") as name:
        root = Path(name)
        (root / "extract").mkdir()
        started = time.perf_counter()
        metadata = build_extract(city, root / "extract")
        extract_s = time.perf_counter() - started
        terrain = load_terrain(root / "extract")
        spent_s, watertight = 0.0, {}
        for tile in tqdm(city.tile_list, desc=city.name, unit="tile", disable=None):
            spent_s += _scene(city, tile, terrain, root, root / tile.name)
            watertight |= closed(root / tile.name, set(watertight))
        again = city.tile_list[len(city.tile_list) // 2]
        _scene(city, again, terrain, root, root / "again")
        identical = digest_folder(root / "again") == digest_folder(root / again.name)
        sizes = sum(
            path.stat().st_size
            for tile in city.tile_list
            for path in (root / tile.name).rglob("*")
            if path.is_file()
        )
        features = load_features(root / "extract")
    area_km2 = len(city.tile_list) * (city.tiles.size_m / 1000) ** 2
    error = metadata["height_error"]
    rule = "city_median_rule"
    return {
        "tiles": len(city.tile_list),
        "buildings_in": buildings_in(city),
        "meshes_out": len(watertight),
        "watertight_share": float(np.mean(list(watertight.values()))),
        "overlapping_pairs": overlapping_pairs(features),
        "heights": metadata["heights"],
        "roof_shapes": metadata["roof_shapes"],
        "heights_known": error["known"],
        "height_median_m": error["median_m"],
        "height_p90_m": error["p90_m"],
        "city_median_rule_median_m": error[f"{rule}_median_m"],
        "city_median_rule_p90_m": error[f"{rule}_p90_m"],
        "coverage_90": error["coverage_90"],
        "ground_lowest_m": metadata["terrain"]["lowest_m"],
        "ground_highest_m": metadata["terrain"]["highest_m"],
        "extract_s": round(extract_s, 1),
        "scene_s_per_km2": round(spent_s / area_km2, 2),
        "mb_per_km2": round(sizes / 1e6 / area_km2, 2),
        "byte_identical": bool(identical),
        "repairs": metadata["repairs"],
    }


def _scene(city: City, tile: Tile, terrain: Terrain, root: Path, out: Path) -> float:
    """Build the scene of a tile; returns the seconds."""
    out.mkdir()
    started = time.perf_counter()
    features = load_features(root / "extract", city.scene_window(tile))
    build_scene(city, tile, features, terrain, out)
    return time.perf_counter() - started


def buildings_in(city: City) -> int:
    """Outlines and parts of buildings that the extract holds within reach of the city."""
    elements = read_elements(source_path(city), city.bbox)
    groups = (*elements.ways.values(), *elements.relations.values())
    return sum(
        any(element.tags.get(key, "no") != "no" for key in ("building", "building:part"))
        for element in groups
    )


def closed(scene: Path, known: set[str]) -> dict[str, bool]:
    """Whether the stored surface of each building is closed, of those not looked at before."""
    buildings = gpd.read_parquet(scene / "buildings.parquet")
    meshes = {
        path.name: trimesh.load_mesh(path, process=False)
        for path in (scene / "meshes").glob("*.ply")
    }
    found = {}
    for row in buildings[~buildings.osm_id.isin(known)].itertuples():
        corners = []
        for role in ("wall", "roof"):
            mesh = meshes[getattr(row, f"{role}_mesh")]
            first, count = getattr(row, f"{role}_first"), getattr(row, f"{role}_faces")
            corners.append(mesh.vertices[mesh.faces[first : first + count]])
        # polygons that touch share corners in plan, so each is looked at by itself
        triangles = np.vstack(corners).astype(np.float32)
        found[row.osm_id] = _edges_pair(triangles) and _volume_m3(triangles) > 0
    return found


def _edges_pair(triangles: np.ndarray) -> bool:
    """Whether each directed edge is met as often as its reverse."""
    _, index = np.unique(triangles.reshape(-1, 3), axis=0, return_inverse=True)
    faces = index.reshape(-1, 3)
    edges = np.vstack([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ahead = np.sort(edges[:, 0] * len(index) + edges[:, 1])
    back = np.sort(edges[:, 1] * len(index) + edges[:, 0])
    return bool(np.array_equal(ahead, back))


def _volume_m3(triangles: np.ndarray) -> float:
    a, b, c = np.moveaxis(triangles.astype(np.float64) - triangles.mean(axis=(0, 1)), 1, 0)
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def overlapping_pairs(features: gpd.GeoDataFrame) -> int:
    """Pairs of buildings that share more than a square metre and some height, pair by pair."""
    buildings = features[features["kind"].isin(BUILDING_KINDS)].reset_index(drop=True)
    shapes = buildings.geometry.to_numpy()
    base = (buildings["ground_m"] + buildings["min_height_m"]).to_numpy()
    top = (buildings["ground_m"] + buildings["height_m"]).to_numpy()
    left, right = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    once = left < right
    left, right = left[once], right[once]
    shared_m = np.minimum(top[left], top[right]) - np.maximum(base[left], base[right])
    shared_m2 = shapely.area(shapely.intersection(shapes[left], shapes[right]))
    return int(((shared_m > 1e-3) & (shared_m2 > LARGEST_OVERLAP_M2)).sum())


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
