"""The world's sectors of a tile: the same identities, antennas that are not quite as recorded.

A mast on a roof goes where its building goes and stands as high above its roof as before. One
beside buildings stays outside of them. All sectors of a site move together.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.geodata.terrain import Terrain, load_terrain
from ueloc_core.radio.schemas import SectorSchema
from ueloc_core.radio.sites import load_sectors
from ueloc_core.world.draws import capped_normals, stream
from ueloc_core.world.scenes import CHANGES, same_buildings
from ueloc_core.world.settings import AntennaAmounts

CODE_VERSION = "1"

_EDGE_M = 0.5  # between a mast and the edge of its roof, or the wall beside it
_LEAST_ABOVE_M = 0.5  # of an antenna above roof or ground
_LEVEL_RANGE_DBM = (-10.0, 80.0)  # of `SectorSchema`
_TIE_M = 0.01
_AROUND_M = 200.0  # in which the way out of a block of buildings is looked for


@dataclass(frozen=True)
class Roofs:
    """What stands in a scene, and what became of it.

    Attributes
    ----------
    twin, world
        ``buildings.parquet`` of both scenes, indexed by osm_id.
    shift_m
        Shift (east, north) of the twin's buildings by osm_id [m]; one that is not there did not
        move.
    """

    twin: gpd.GeoDataFrame
    world: gpd.GeoDataFrame
    shift_m: dict[str, tuple[float, float]]

    @classmethod
    def load(cls, twin: Path, world: Path) -> "Roofs":
        """Read the buildings of a tile's two scenes."""
        before, after = (
            gpd.read_parquet(folder / "buildings.parquet").set_index("osm_id")
            for folder in (twin, world)
        )
        path = world / CHANGES
        if not path.exists():  # the world's scene is the twin's
            return cls(before, after, {})
        rows = pd.read_parquet(path, columns=["osm_id", "dx_m", "dy_m"])
        shifts = {name: (dx, dy) for name, dx, dy in rows.itertuples(index=False)}
        return cls(before, after, shifts)


def same_sectors(city: City) -> bool:
    """Whether the world's sectors are the twin's."""
    return same_buildings(city) and city.world.antennas == AntennaAmounts()


def build_world_sites(
    city: City, sites: Path, twin: Path, world: Path, out: Path
) -> dict[str, Any]:
    """Perturb the sectors that a tile owns; write ``sectors.parquet``.

    Parameters
    ----------
    city
        How far the world lies from the twin.
    sites
        Where `build_sites` wrote.
    twin, world
        The tile's two scenes.
    out
        Folder to write to.

    Returns
    -------
    Numbers of sites and sectors, of sites on roofs, and root mean squares of the differences.
    """
    before = load_sectors(sites)
    after = world_sectors(city, before, Roofs.load(twin, world), load_terrain(world))
    after.to_parquet(out / "sectors.parquet", index=False)
    first = before.groupby("site_id").first()
    moved = after.groupby("site_id").first()
    return {
        "same_as_twin": False,
        "level": city.world.level,
        "amounts": asdict(city.world.antennas),
        "sites": len(first),
        "sectors": len(after),
        "position_rms_m": _rms(np.hypot(moved.x_m - first.x_m, moved.y_m - first.y_m)),
        "elevation_rms_m": _rms(moved.elevation_m - first.elevation_m),
        "azimuth_rms_deg": _rms((after.azimuth_deg - before.azimuth_deg + 180) % 360 - 180),
        "downtilt_rms_deg": _rms(after.downtilt_deg - before.downtilt_deg),
        "power_rms_db": _rms(after.power_dbm - before.power_dbm),
    }


def world_sectors(
    city: City, sectors: pd.DataFrame, roofs: Roofs, terrain: Terrain
) -> pd.DataFrame:
    """Sectors of one tile as they are in the world, as `SectorSchema`, in the same order.

    What is drawn for a site or a sector depends on the city's seed and its identity alone.

    Parameters
    ----------
    city
        Gives seed and amounts.
    sectors
        The twin's sectors.
    roofs
        The buildings around them in both scenes.
    terrain
        The ground.
    """
    if sectors.empty:
        return sectors
    amounts = city.world.antennas
    of_sites = [
        _on_its_place(city, of_site, roofs, terrain)
        for _, of_site in sectors.groupby("site_id", sort=True)
    ]
    placed = pd.concat(of_sites).loc[sectors.index]
    draws = np.array([_of_sector(city.seed, name) for name in placed.sector_id])
    lon_deg, lat_deg = city.to_lonlat(placed.x_m.tolist(), placed.y_m.tolist())
    lowest, highest = _LEVEL_RANGE_DBM
    world = placed.assign(
        azimuth_deg=(placed.azimuth_deg + amounts.azimuth_deg * draws[:, 0]) % 360.0 % 360.0,
        downtilt_deg=np.clip(placed.downtilt_deg + amounts.downtilt_deg * draws[:, 1], -90, 90),
        power_dbm=np.clip(placed.power_dbm + amounts.power_db * draws[:, 2], lowest, highest),
        lon_deg=lon_deg,
        lat_deg=lat_deg,
    )
    validated: pd.DataFrame = SectorSchema.validate(world)
    return validated


def _of_sector(seed: int, sector_id: int) -> NDArray[np.float64]:
    """Standard normals of a sector's azimuth, downtilt and power."""
    return stream(seed, "sector", int(sector_id)).standard_normal(3)


def _on_its_place(
    city: City, of_site: pd.DataFrame, roofs: Roofs, terrain: Terrain
) -> pd.DataFrame:
    """The sectors of one site on the site's place in the world."""
    amounts = city.world.antennas
    rng = stream(city.seed, "site", int(of_site.site_id.iloc[0]))
    off_m = capped_normals(rng, 2) * amounts.position_m / np.sqrt(2)
    up_m = float(rng.standard_normal()) * amounts.antenna_height_m
    place = of_site[["x_m", "y_m"]].iloc[0].to_numpy(float)
    elevation_m = of_site.elevation_m.to_numpy(float)
    carrier = _carrier(roofs.twin, place, float(elevation_m.min()))
    if carrier is not None and carrier in roofs.world.index:
        shift = np.array(roofs.shift_m.get(carrier, (0.0, 0.0)))
        footprint = roofs.world.geometry.loc[carrier]
        place = _within(footprint, place + shift + off_m, is_still=not (shift + off_m).any())
        floor_m = _top_m(roofs.world, carrier)
        rise_m = floor_m - _top_m(roofs.twin, carrier)
    else:
        ground_m = float(terrain.height_at(*place))
        place = _outside(roofs, place, place + off_m)
        floor_m = float(terrain.height_at(*place))
        rise_m = floor_m - ground_m
    floor_m = max(floor_m, _highest_over(roofs.world, place, elevation_m + rise_m + up_m))
    above_m = elevation_m + rise_m - floor_m
    least_m = np.where(above_m > _TIE_M, np.minimum(above_m, _LEAST_ABOVE_M), _LEAST_ABOVE_M)
    raised_m = np.maximum(elevation_m + rise_m + up_m, floor_m + least_m)
    if not (rise_m or up_m) and (above_m > _TIE_M).all():
        raised_m = elevation_m  # to the last bit
    return of_site.assign(
        x_m=place[0],
        y_m=place[1],
        elevation_m=raised_m,
        height_m=raised_m - float(terrain.height_at(*place)),
    )


def _carrier(
    buildings: gpd.GeoDataFrame, place: NDArray[np.float64], elevation_m: float
) -> str | None:
    """osm_id of the highest roof under an antenna, None where it stands on the ground."""
    over = _over(buildings, place)
    tops = over["ground_m"] + over["height_m"]
    under = tops[tops <= elevation_m + _TIE_M]
    return None if under.empty else str(under.sort_index(kind="stable").idxmax())


def _over(buildings: gpd.GeoDataFrame, place: NDArray[np.float64]) -> gpd.GeoDataFrame:
    """Buildings and parts whose footprints hold a point."""
    hit = buildings.sindex.query(shapely.Point(place), predicate="intersects")
    return buildings.iloc[np.sort(hit)]


def _top_m(buildings: gpd.GeoDataFrame, name: str) -> float:
    row = buildings.loc[name]
    return float(row["ground_m"] + row["height_m"])


def _highest_over(
    buildings: gpd.GeoDataFrame, place: NDArray[np.float64], elevation_m: NDArray[np.float64]
) -> float:
    """Elevation [m] of the highest top over a point that an antenna would stand in or above.

    What is raised above the antenna does not count.
    """
    over = _over(buildings, place)
    base_m = over["ground_m"] + np.where(over["min_height_m"] > 0, over["min_height_m"], -np.inf)
    floor_m = -np.inf
    for base, top in sorted(zip(base_m, over["ground_m"] + over["height_m"], strict=True)):
        if base <= max(float(elevation_m.max()), floor_m + _LEAST_ABOVE_M):
            floor_m = max(floor_m, float(top))
    return floor_m


def _within(footprint: Any, place: NDArray[np.float64], *, is_still: bool) -> NDArray[np.float64]:
    """The point of a roof, off its edge, that is nearest to a place."""
    point = shapely.Point(place)
    if is_still and footprint.intersects(point):
        return place
    inner = footprint.buffer(-_EDGE_M)
    inner = footprint.buffer(-_TIE_M) if inner.is_empty else inner
    inner = footprint.representative_point() if inner.is_empty else inner
    return _nearest(inner, point)


def _outside(
    roofs: Roofs, twin: NDArray[np.float64], place: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The point outside of all footprints, off their walls, that is nearest to a place.

    A mast that the twin has in a passage under a raised part stays there.
    """
    if len(_over(roofs.twin, twin)):
        return twin
    world, point = roofs.world, shapely.Point(place)
    clear_m = _EDGE_M if (place != twin).any() else 0.0
    if not len(world.sindex.query(point, predicate="dwithin", distance=clear_m)):
        return place
    near = world.geometry.to_numpy()[world.sindex.query(point.buffer(_AROUND_M))]
    walls = shapely.union_all(shapely.buffer(near, _EDGE_M + _TIE_M, join_style="mitre"))
    return _nearest(walls.boundary, point)


def _nearest(shape: Any, point: Any) -> NDArray[np.float64]:
    found = shapely.get_coordinates(shapely.shortest_line(shape, point))[0]
    return np.asarray(found, dtype=np.float64)


def _rms(values: Any) -> float | None:
    return round(float(np.sqrt(np.mean(np.square(values)))), 4) if len(values) else None
