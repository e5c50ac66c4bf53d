"""Sites and their sectors: planned, out of a file, or the masts of OpenStreetMap.

Every kind of ``site_plan`` gives a table of antennas; the same rules put all of them on ground
and roofs. A tile owns the sites that stand on it, and no site depends on how the city is cut.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from ueloc_core.city import City
from ueloc_core.errors import RadioError
from ueloc_core.geodata.osm import features_digest
from ueloc_core.geodata.terrain import Terrain
from ueloc_core.grid import Tile, Window
from ueloc_core.provenance import digest_file
from ueloc_core.radio.antenna_places import settle
from ueloc_core.radio.antennas import antenna_named, tilt_weights
from ueloc_core.radio.schemas import SectorSchema, empty_sectors
from ueloc_core.radio.site_files import CellFile, read_cells
from ueloc_core.radio.site_overview import write_site_overview
from ueloc_core.radio.site_plans import hexagonal_antennas, mast_antennas, rooftop_antennas
from ueloc_core.radio.site_tables import check_file
from ueloc_core.radio.street_cells import street_antennas, street_reach_m

CODE_VERSION = "3"

_SHOWN = 20


def site_search_window(city: City, tile: Tile) -> Window:
    """Grid cells around a tile whose features decide which sites stand in it."""
    plan = city.site_plan
    reach_m = {"rooftop": 2 * plan.snap_radius_m, "street": street_reach_m(city)}
    return tile.window.buffered(reach_m.get(plan.kind, 0.0))


def site_plan_params(city: City) -> dict[str, Any]:
    """What of a city decides on its sites, besides files: for a stage's fingerprint."""
    params = city.params("bbox", "grid", "tiles", "site_plan", "seed")
    params["site_plan"].pop("path")  # what the file holds counts, not where it lies
    return params | {"crs": city.crs_code, "power_dbm": city.radio.power_dbm}


def site_source_digest(city: City, masts: gpd.GeoDataFrame | None = None) -> str:
    """Hash of what the sites are read from, ``plan`` where they are planned.

    Raises
    ------
    RadioError
        If the file of cells is missing.
    """
    if city.site_plan.kind == "file" and city.site_plan.path is not None:
        check_file(city.site_plan.path)
        return digest_file(city.site_plan.path)
    return "plan" if masts is None else features_digest(masts)


def build_sites(
    city: City,
    tile: Tile,
    features: gpd.GeoDataFrame,
    terrain: Terrain,
    out: Path,
    *,
    masts: gpd.GeoDataFrame | None = None,
) -> dict[str, Any]:
    """Plan or read the sectors that a tile owns; write ``sectors.parquet`` and ``preview.png``.

    Parameters
    ----------
    city, tile
        What to plan.
    features
        Features of `site_search_window`, in the city's CRS.
    terrain
        The ground under the tile.
    out
        Folder to write to.
    masts
        The city's telecom masts (`ueloc_core.geodata.masts`); needed for the kind ``osm``.

    Returns
    -------
    Numbers of sites and sectors, their heights, how many values were assumed and how many rows
    or places were left out. What is known of a file is counted for the whole file.

    Raises
    ------
    RadioError
        If an antenna would stand inside a building or under ground, or if a file of cells is
        wrong, naming the site, file, line and column.
    """
    sectors, counts, file = _sectors(city, tile, features, terrain, masts)
    sectors.to_parquet(out / "sectors.parquet", index=False)
    write_site_overview(sectors, features, tile, out / "preview.png")
    metadata: dict[str, Any] = {
        "source": city.site_plan.kind,
        "sites": int(sectors.site_id.nunique()),
        "sectors": len(sectors),
        "median_height_m": float(sectors.height_m.median()) if len(sectors) else None,
        "median_position_sigma_m": (
            float(sectors.position_sigma_m.median()) if len(sectors) else None
        ),
        "assumed_values": _assumed(sectors),
        "counts": {name: int(count) for name, count in sorted(counts.items())},
    }
    if file is not None:
        metadata["file"] = city.site_plan.path.name if city.site_plan.path else ""
        metadata["file_counts"] = {name: int(count) for name, count in sorted(file.counts.items())}
        metadata["dropped_rows"] = [str(problem) for problem in file.bad_rows[:_SHOWN]]
        metadata["ignored_columns"] = file.ignored_columns
    return metadata


def load_sectors(folder: Path) -> pd.DataFrame:
    """Sectors of one tile, as `SectorSchema`."""
    return pd.read_parquet(folder / "sectors.parquet")


def plan_sectors(
    city: City,
    tile: Tile,
    features: gpd.GeoDataFrame,
    terrain: Terrain,
    *,
    masts: gpd.GeoDataFrame | None = None,
) -> pd.DataFrame:
    """Sectors of the sites that stand on a tile, as `SectorSchema`; see `build_sites`."""
    return _sectors(city, tile, features, terrain, masts)[0]


def _sectors(
    city: City,
    tile: Tile,
    features: gpd.GeoDataFrame,
    terrain: Terrain,
    masts: gpd.GeoDataFrame | None,
) -> tuple[pd.DataFrame, Counter[str], CellFile | None]:
    """Sectors of a tile, counts of what was left out or moved on it, and the file they are of."""
    antenna_named(city.site_plan.antenna)
    antennas, counts, file = _antennas(city, tile, features, masts)
    if antennas.empty:
        return empty_sectors(), counts, file
    _check_tilts(antennas, city)
    placed, more = settle(antennas, features, terrain, city)
    lon_deg, lat_deg = city.to_lonlat(placed["x_m"].tolist(), placed["y_m"].tolist())
    placed = placed.assign(tile=tile.name, lon_deg=lon_deg, lat_deg=lat_deg)
    table = placed[list(SectorSchema.to_schema().columns)]
    validated: pd.DataFrame = SectorSchema.validate(
        table.sort_values("sector_id", ignore_index=True)
    )
    return validated, counts + more, file


def _antennas(
    city: City, tile: Tile, features: gpd.GeoDataFrame, masts: gpd.GeoDataFrame | None
) -> tuple[pd.DataFrame, Counter[str], CellFile | None]:
    kind = city.site_plan.kind
    if kind == "file":
        file = read_cells(city)
        on_tile = tile.window.contains(file.antennas["x_m"], file.antennas["y_m"])
        return file.antennas[on_tile].reset_index(drop=True), Counter(), file
    if kind == "osm":
        if masts is None:
            raise RadioError(
                "the city's telecom masts were not given",
                where=f"{city.name}: site_plan.kind = osm",
                remedy="Give those of `ueloc_core.geodata.masts.load_masts`.",
            )
        return *mast_antennas(city, tile, masts), None
    plans = {
        "rooftop": rooftop_antennas,
        "hexagonal": hexagonal_antennas,
        "street": street_antennas,
    }
    return *plans[kind](city, tile, features), None


def _check_tilts(antennas: pd.DataFrame, city: City) -> None:
    """Refuse electrical tilts that an antenna cannot have, before anything is traced."""
    rows: list[Any] = list(
        antennas.drop_duplicates(["antenna", "electrical_tilt_deg"]).itertuples()
    )
    for row in rows:
        try:
            tilt_weights(antenna_named(row.antenna), row.electrical_tilt_deg)
        except RadioError as error:
            place = f", {row.where}" if row.where else ""
            raise RadioError(
                f"antenna {row.antenna} of sector {row.sector_name or row.sector_id}: "
                f"{error.problem}",
                where=f"{city.name}: site_plan{place}",
                remedy=error.remedy,
            ) from error


def _assumed(sectors: pd.DataFrame) -> dict[str, int]:
    """How many sectors have a value of each column that no source stated."""
    names = Counter(name for text in sectors["assumed"] for name in text.split())
    return dict(sorted(names.items()))
