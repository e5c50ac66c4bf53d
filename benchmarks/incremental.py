"""Is only what changed computed again?

``python -m benchmarks.incremental [--city helsinki | --quick]`` builds a city in a fresh store,
runs again without a change, then raises one building in a copy of the extract and runs again.
Which tiles must be rebuilt is computed here from the building's outline alone, and compared with
the tiles whose scene was rebuilt. The last line is one JSON object; the exit code is 1 when
something was recomputed that should not have been, or the other way round.

``--from-store`` copies an existing store instead of building one (then ``full_s`` is null).
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
from shapely import Geometry, box

from benchmarks.quick_city import write_city_file
from benchmarks.workplace import PROJECT, Workplace, workplace
from ueloc_core.city import City
from ueloc_core.city_sections import SourceConfig
from ueloc_core.geodata.osm import load_features
from ueloc_core.geodata.sources import source_path
from ueloc_core.synthetic import edit_building_height

_RAISED_BY_M = 7.0
_HEAVY = ("sionna", "mitsuba", "drjit", "torch", "geopandas", "xarray")
_LOAD = f"""
import sys, time
started = time.perf_counter()
from pipelines.definitions import defs
defs.get_repository_def()
print(time.perf_counter() - started)
sys.exit(str([m for m in {_HEAVY} if m in sys.modules]) if set({_HEAVY}) & set(sys.modules) else 0)
"""


def tiles_of_building(city: City, outline: Geometry) -> set[str]:
    """Tiles whose tile + halo meets an outline, by geometry alone."""
    found = set()
    for tile in city.tile_list:
        x0, y0, x1, y1 = tile.window.bounds_m
        reach_m = city.range_m
        if outline.intersects(box(x0 - reach_m, y0 - reach_m, x1 + reach_m, y1 + reach_m)):
            found.add(tile.name)
    return found


def most_remote_building(city: City, features: gpd.GeoDataFrame) -> Any:
    """The building that the fewest tiles see: the sharpest test of what must be rebuilt.

    It stands beyond the reach of the test tiles where that is possible, so that their sites stay
    where they are.
    """
    buildings = features[features.kind == "building"]
    tests = set(city.splits.test)
    apart = [not tiles_of_building(city, outline) & tests for outline in buildings.geometry]
    buildings = buildings[apart] if any(apart) else buildings
    counts = [len(tiles_of_building(city, outline)) for outline in buildings.geometry]
    return buildings.iloc[counts.index(min(counts))]


def raise_building(place: Workplace, building: Any) -> None:
    """Point the city's file to a copy of its extract in which one building is higher."""
    target = place.cities / "edited.osm.pbf"
    height_m = float(building.height_m) + _RAISED_BY_M
    edit_building_height(source_path(place.city), target, str(building.osm_id), height_m)
    source = SourceConfig(kind="file", path=target)
    write_city_file(place.city.model_copy(update={"source": source}), place.cities)


def tiles_of_change(city: City, before: Any, after: Any) -> set[str]:
    """Tiles whose scene holds a feature that differs between two extracts.

    An edited height changes the heights that its neighbours were given, so one edit may change
    several features.
    """
    rows = [
        dict(zip(_rows(features), features.geometry, strict=True)) for features in (before, after)
    ]
    changed = rows[0].keys() ^ rows[1].keys()
    found = set()
    for row in changed:
        found |= tiles_of_building(city, rows[0].get(row) or rows[1][row])
    return found


def _rows(features: Any) -> list[str]:
    values = features.drop(columns="geometry").astype(str).to_numpy().tolist()
    shapes = features.geometry.to_wkb(hex=True)
    return ["|".join([*row, shape]) for row, shape in zip(values, shapes, strict=True)]


def definitions_load_s() -> float:
    """Seconds to load the definitions in a fresh interpreter.

    Raises
    ------
    SystemExit
        If loading them imports one of the heavy libraries.
    """
    done = subprocess.run(  # noqa: S603  (our own interpreter)
        [sys.executable, "-c", _LOAD], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"definitions do not load cleanly: {done.stderr.strip()}")
    return float(done.stdout)


def rewritten(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """Artifacts (``stage/partition``) that were written between two looks at the store."""
    return {name for name, written_ns in after.items() if before.get(name) != written_ns}


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.incremental", description=__doc__)
    parser.add_argument("--city", default="helsinki", help="name of a city file")
    parser.add_argument("--quick", action="store_true", help="a small made-up city instead")
    parser.add_argument("--from-store", type=Path, metavar="FOLDER", help="an existing store")
    options = parser.parse_args()
    with workplace(options.city, quick=options.quick) as place:
        full_s = None
        if options.from_store is not None:
            name = place.city.name
            shutil.copytree(options.from_store / name, place.root / "store" / name)
        else:
            full_s = place.regenerate()
        built = place.written()
        noop_s = place.regenerate()
        noop = rewritten(built, place.written())

        (extract,) = place.artifacts("osm_extract").values()
        features = load_features(extract.path)
        building = most_remote_building(place.city, features)
        raise_building(place, building)
        before = place.written()
        one_building_s = place.regenerate()
        changed = rewritten(before, place.written())
        (extract,) = place.artifacts("osm_extract").values()
        expected = tiles_of_change(place.city, features, load_features(extract.path))
    scenes = {name.removeprefix("scene/") for name in changed if name.startswith("scene/")}
    print(f"{building.osm_id}: expected {sorted(expected)}, rebuilt {sorted(scenes)}")
    if noop:
        print(f"recomputed without a change: {sorted(noop)}")
    result = {
        "full_s": full_s and round(full_s, 1),
        "noop_s": round(noop_s, 1),
        "noop_recomputed": len(noop),
        "one_building_tiles_total": len(place.city.tile_names),
        "one_building_tiles_recomputed": len(scenes),
        "one_building_s": round(one_building_s, 1),
        "definitions_load_s": round(definitions_load_s(), 2),
    }
    print(json.dumps(result))
    return int(bool(noop) or scenes != expected)


if __name__ == "__main__":
    sys.exit(main())
