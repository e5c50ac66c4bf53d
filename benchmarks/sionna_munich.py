"""How far is our Munich from the one that is bundled with Sionna RT?

``python -m benchmarks.sionna_munich EXTRACT`` builds the scene of an OpenStreetMap extract of
central Munich in the frame of the bundled scene, and compares footprints, heights, and the path
gain of the same masts through the same rays. The last line is one JSON object.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import trimesh
from rasterio import Affine
from rasterio.features import rasterize

from benchmarks.scenes import city_of
from ueloc_core.city import City
from ueloc_core.geodata.osm import build_extract, load_features
from ueloc_core.geodata.schemas import BUILDING_KINDS
from ueloc_core.geodata.terrain import load_terrain
from ueloc_core.radio.antennas import antenna_named
from ueloc_core.radio.ray_tracing import (
    Interactions,
    Plane,
    RayScene,
    RaySet,
    Sector,
    SiteTracer,
    bundled_scene,
)
from ueloc_core.scene.mitsuba import build_scene

FRAME = "+proj=tmerc +lat_0=48.138 +lon_0=11.5758 +datum=WGS84 +units=m +no_defs"
HALF_M = 560.0  # both scenes are whole within this of the origin
CELL_M, MAST_M, TERMINAL_M, FREQUENCY_HZ = 4.0, 45.0, 1.5, 3.5e9
MASTS_M = ((0.0, 20.0), (-260.0, -180.0), (250.0, 210.0), (-180.0, 260.0))
RAYS = (RaySet(2_000_000, 1), RaySet(2_000_000, 2))
LEAST_DB = -130.0

Raster = np.ndarray


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sionna_munich", description=__doc__)
    parser.add_argument("extract", type=Path)
    options = parser.parse_args()
    content = city_of(options.extract.resolve()).model_dump()
    unused = {"splits": {}, "terrain": {}, "tiles": {"size_m": 2048}, "window": {"size_m": 2048}}
    city = City.model_validate({**content, **unused, "crs": FRAME})
    theirs_file = bundled_scene("munich")
    with TemporaryDirectory(prefix="ueloc-munich-") as name:
        scene, features, origin_m = _ours(city, Path(name))
        ours, theirs = heights_of_features(features), heights_of_meshes(theirs_file.parent)
        result = {"footprints": footprints(ours, theirs), "heights": heights(ours, theirs)}
        outdoors = _pooled((ours > 0) | (theirs > 0)) == 0
        for diffraction in (False, True):
            result["diffraction" if diffraction else "no_diffraction"] = gains(
                (scene, origin_m), (theirs_file, (0.0, 0.0)), outdoors, diffraction=diffraction
            )
    for name, figures in result.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    print(json.dumps(result))


def _ours(city: City, root: Path) -> tuple[Path, gpd.GeoDataFrame, tuple[float, float]]:
    """Our scene's file, its buildings, and the place of its origin in the frame [m]."""
    (root / "extract").mkdir()
    (root / "scene").mkdir()
    build_extract(city, root / "extract")
    tile = next(tile for tile in city.tile_list if tile.owns(1.0, 1.0))
    features = load_features(root / "extract", city.scene_window(tile))
    build_scene(city, tile, features, load_terrain(root / "extract"), root / "scene")
    buildings = features[features["kind"].isin(BUILDING_KINDS)]
    return root / "scene" / "scene.xml", buildings, tile.window.bounds_m[:2]


def _raster(shapes: list[tuple[Any, float]]) -> Raster:
    """Heights [m] on a grid of a metre, row 0 in the north; later shapes cover earlier ones."""
    size = round(2 * HALF_M)
    transform = Affine(1.0, 0, -HALF_M, 0, -1.0, HALF_M)
    return rasterize(shapes, (size, size), transform=transform, fill=0, dtype="float32")


def heights_of_features(buildings: gpd.GeoDataFrame) -> Raster:
    """Tops of our buildings."""
    ranked = buildings.sort_values("height_m")
    return _raster(list(zip(ranked.geometry, ranked["height_m"], strict=True)))


def heights_of_meshes(folder: Path) -> Raster:
    """Tops of the bundled buildings: their triangles seen from above."""
    shapes = []
    for path in sorted((folder / "meshes").glob("*.ply")):
        if "ground" in path.stem.lower() or "plane" in path.stem.lower():
            continue
        mesh = trimesh.load_mesh(path, process=False)
        corners = mesh.triangles
        a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        plan_m2 = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
        for triangle in corners[plan_m2 > 0.01]:
            top_m = float(triangle[:, 2].mean())
            if top_m > 0.5:
                shapes.append((shapely.Polygon(triangle[:, :2]), top_m))
    return _raster(sorted(shapes, key=lambda shape: shape[1]))


def footprints(ours: Raster, theirs: Raster) -> dict[str, float]:
    """Agreement of where buildings stand, as they lie and after the best shift of one of them."""
    a, b = ours > 0, theirs > 0
    reach = 8
    spectrum = np.fft.rfft2(a.astype(float)) * np.conj(np.fft.rfft2(b.astype(float)))
    overlap = np.fft.irfft2(spectrum, a.shape)
    steps = np.arange(-reach, reach + 1)
    near = overlap[np.ix_(steps, steps)]
    row, column = np.unravel_index(np.argmax(near), near.shape)
    down, east = int(steps[row]), int(steps[column])
    moved = np.roll(b, (down, east), axis=(0, 1))
    return {
        "iou": _iou(a, b),
        "best_shift_east_m": float(east),
        "best_shift_north_m": float(-down),
        "iou_after_shift": _iou(a, moved),
        "theirs_within_ours": round(float((a & moved).sum() / moved.sum()), 3),
        "built_share_ours": round(float(a.mean()), 3),
        "built_share_theirs": round(float(b.mean()), 3),
    }


def _iou(a: Raster, b: Raster) -> float:
    return round(float((a & b).sum() / (a | b).sum()), 3)


def heights(ours: Raster, theirs: Raster) -> dict[str, float]:
    """Difference of tops where both have a building, ours less theirs [m]."""
    both = (ours > 0) & (theirs > 0)
    difference = ours[both] - theirs[both]
    return {
        "median_m": round(float(np.median(difference)), 2),
        "median_abs_m": round(float(np.median(np.abs(difference))), 2),
        "p90_abs_m": round(float(np.quantile(np.abs(difference), 0.9)), 2),
    }


def _pooled(built: Raster) -> Raster:
    """Number of built square metres of each grid cell, row 0 in the south."""
    step = round(CELL_M)
    size = built.shape[0] // step
    return built[::-1].reshape(size, step, size, step).sum(axis=(1, 3))


def gains(
    ours: tuple[Path, tuple[float, float]],
    theirs: tuple[Path, tuple[float, float]],
    outdoors: Raster,
    *,
    diffraction: bool,
) -> dict[str, float]:
    """Path gain of the same masts through the same rays, over what is outdoors in both."""
    size = outdoors.shape[0]
    isotropic = Sector(antenna_named("iso"), 0.0, 0.0)
    maps, indoors = [], []
    for file, (x, y) in (ours, theirs):
        scene = RayScene(file, FREQUENCY_HZ)
        tracer = SiteTracer(scene, Interactions(max_depth=3, diffraction=diffraction))
        plane = Plane((-HALF_M - x, -HALF_M - y), size, size, CELL_M, TERMINAL_M)
        found = [
            [tracer.maps((u - x, v - y, MAST_M), [isotropic], plane, rays) for u, v in MASTS_M]
            for rays in RAYS
        ]
        indoors.append(float((found[0][0].outdoor_share[outdoors] < 1).mean()))
        maps.append(
            [
                np.stack([np.nan_to_num(m.sectors[0].path_gain_db, nan=-300.0) for m in of_set])
                for of_set in found
            ]
        )
    maps = [[gain[:, outdoors] for gain in of_scene] for of_scene in maps]
    between = _difference(maps[0][0], maps[1][0])
    noise = [_difference(*of_scene) for of_scene in maps]
    return {
        **between,
        "other_rays_ours_rms_db": noise[0]["rms_db"],
        "other_rays_theirs_rms_db": noise[1]["rms_db"],
        "other_rays_one_only": noise[0]["one_only"],
        "taken_for_indoors_ours": round(indoors[0], 4),
        "taken_for_indoors_theirs": round(indoors[1], 4),
    }


def _difference(a: Raster, b: Raster) -> dict[str, float]:
    heard = a > LEAST_DB, b > LEAST_DB
    both, either = heard[0] & heard[1], heard[0] | heard[1]
    difference = (a - b)[both]
    return {
        "median_db": round(float(np.median(difference)), 2),
        "median_abs_db": round(float(np.median(np.abs(difference))), 2),
        "rms_db": round(float(np.sqrt(np.mean(difference**2))), 2),
        "one_only": round(1 - float(both.sum() / either.sum()), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
