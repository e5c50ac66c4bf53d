"""What the world of a tile is made from: whole buildings, open ground, and the masts on them.

A building's world follows from its own parts, from the buildings that it touches or may come to
overlap, and from the masts upon it. All of them are read, however far they reach beyond the
scene, so that the scenes of neighbouring tiles hold the same buildings.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.osm import features_digest, load_features
from ueloc_core.geodata.schemas import BUILDING_KINDS
from ueloc_core.grid import Tile, Window
from ueloc_core.provenance import digest
from ueloc_core.radio.sites import load_sectors
from ueloc_core.world.draws import CAP
from ueloc_core.world.extra_buildings import LATTICE_M
from ueloc_core.world.settings import BuildingAmounts

_BOUNDS = ("x0", "y0", "x1", "y1")
_ON_ROOF_M = 0.5


@dataclass(frozen=True)
class Surroundings:
    """The twin around a tile, as far as the tile's world depends on it.

    Attributes
    ----------
    buildings
        Rows of `FeatureSchema`: whole buildings that can meet the scene, and all that these can
        touch.
    ground
        The other rows that meet the scene: roads, water, land use.
    masts
        Sites of the neighbouring tiles: ``site_id, x_m, y_m``, sorted.
    """

    buildings: gpd.GeoDataFrame
    ground: gpd.GeoDataFrame
    masts: pd.DataFrame

    @property
    def digests(self) -> dict[str, str]:
        """Content digests of the buildings, the ground and the masts."""
        return {
            "buildings": features_digest(self.buildings),
            "ground": features_digest(self.ground),
            "masts": digest(self.masts.round(3).to_numpy().tolist()),
        }

    def fixed(self, city: City) -> frozenset[str]:
        """building_id of what cannot be missing: what carries a mast, or is wider than the range.

        Of wider ones the masts are not known, since only neighbouring tiles are read.
        """
        shapes = self.buildings.geometry.to_numpy()
        points = shapely.points(self.masts[["x_m", "y_m"]].to_numpy(float))
        on_it = shapely.STRtree(shapes).query(points, predicate="dwithin", distance=_ON_ROOF_M)[1]
        names = self.buildings["building_id"].to_numpy()
        bounds = _by_building(names, shapely.bounds(shapes))
        wide = bounds.index[_side_m(bounds) > city.range_m]
        return frozenset([*names[on_it], *wide])


def reach_m(amounts: BuildingAmounts) -> float:
    """How far the edges of two buildings can come towards each other [m], and a little more."""
    return 2 * CAP * amounts.shift_m + 1.0


def load_surroundings(
    city: City, tile: Tile, extract: Path, sites: Mapping[str, Path]
) -> Surroundings:
    """Read the surroundings of a tile.

    Parameters
    ----------
    city, tile
        Whose world is built.
    extract
        Where `build_extract` wrote.
    sites
        Folders of the sites of `City.neighbour_tiles`, by tile.

    Raises
    ------
    GeodataError
        If the extract is missing or broken.
    """
    near_m = reach_m(city.world.buildings)
    around = city.scene_window(tile).buffered(near_m + LATTICE_M)
    bounds = _building_bounds(extract)
    inner = _meeting(bounds, [around.bounds_m])
    # what closes the gap of a neighbour's wall may come over it as well
    grown = inner.to_numpy() + 2 * near_m * np.array([-1.0, -1.0, 1.0, 1.0])
    outer = _meeting(bounds, grown)
    masts = _masts(sites)
    if outer.empty:
        features = load_features(extract, around)
        none = features["kind"].isin(BUILDING_KINDS) & False
        return Surroundings(features[none], _ground(features, around), masts)
    low, high = outer[["x0", "y0"]].min(), outer[["x1", "y1"]].max()
    ax0, ay0, ax1, ay1 = around.bounds_m
    span = (min(low.x0, ax0), min(low.y0, ay0), max(high.x1, ax1), max(high.y1, ay1))
    features = load_features(extract, Window.covering(span, city.grid.cell_m))
    chosen = features["building_id"].isin(outer.index)
    buildings = features[chosen].sort_values("osm_id").reset_index(drop=True)
    return Surroundings(buildings, _ground(features, around), masts)


def _building_bounds(extract: Path) -> pd.DataFrame:
    """West, south, east, north of every whole building of a city [m], by building_id."""
    path = extract / "features.parquet"
    try:
        table = pq.read_table(path, columns=["building_id", "bbox"])
        boxes = table["bbox"].combine_chunks()
        values = np.column_stack(
            [boxes.field(name).to_numpy() for name in ("xmin", "ymin", "xmax", "ymax")]
        )
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise GeodataError(
            f"the features are missing or broken ({error})",
            where=str(path),
            remedy="Materialize osm_extract again.",
        ) from error
    names = table["building_id"].to_numpy(zero_copy_only=False)
    is_building = pd.notna(names)
    return _by_building(names[is_building], values[is_building])


def _by_building(names: Iterable[str], values: NDArray[np.float64]) -> pd.DataFrame:
    frame = pd.DataFrame(values, columns=list(_BOUNDS)).groupby(np.asarray(names, dtype=object))
    return frame.agg({"x0": "min", "y0": "min", "x1": "max", "y1": "max"})


def _side_m(bounds: pd.DataFrame) -> NDArray[np.float64]:
    sides = [(bounds.x1 - bounds.x0).to_numpy(float), (bounds.y1 - bounds.y0).to_numpy(float)]
    return np.asarray(np.maximum(*sides))


def _meeting(bounds: pd.DataFrame, others: Iterable[Iterable[float]]) -> pd.DataFrame:
    """The bounds that meet any of others."""
    boxes = shapely.box(*bounds[list(_BOUNDS)].to_numpy(float).T)
    wanted = shapely.box(*np.array(list(others), dtype=float).reshape(-1, 4).T)
    return bounds.iloc[np.unique(shapely.STRtree(boxes).query(wanted, predicate="intersects")[1])]


def _ground(features: gpd.GeoDataFrame, around: Window) -> gpd.GeoDataFrame:
    chosen = ~features["kind"].isin(BUILDING_KINDS)
    chosen &= features.intersects(shapely.box(*around.bounds_m))
    return features[chosen].sort_values("osm_id").reset_index(drop=True)


def _masts(sites: Mapping[str, Path]) -> pd.DataFrame:
    columns = ["site_id", "x_m", "y_m"]
    tables = [load_sectors(folder)[columns] for _, folder in sorted(sites.items())]
    masts = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
    masts = masts.sort_values(columns).drop_duplicates(ignore_index=True)
    return masts.astype({"site_id": np.int64, "x_m": np.float64, "y_m": np.float64})
