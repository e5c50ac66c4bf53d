"""Contracts of the sectors' table and the radio maps' cube."""

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pandera.xarray as px
import xarray as xr
from pandera.typing import Series

SITE_SOURCES = ("rooftop", "hexagonal", "street", "file", "osm")


class SectorSchema(pa.DataFrameModel):
    """Sectors: one row an antenna."""

    sector_id: Series[np.int64] = pa.Field(gt=0, unique=True, description="Identity of the sector")
    site_id: Series[np.int64] = pa.Field(gt=0, description="Identity of its site (mast)")
    tile: Series[str] = pa.Field(str_matches=r"^e-?\d+n-?\d+$", description="Tile that owns it")
    x_m: Series[np.float64] = pa.Field(description="Easting in the city's CRS [m]")
    y_m: Series[np.float64] = pa.Field(description="Northing in the city's CRS [m]")
    height_m: Series[np.float64] = pa.Field(gt=0, lt=700, description="Above ground [m]")
    elevation_m: Series[np.float64] = pa.Field(
        ge=-500, lt=9700, description="Above the vertical datum of the terrain [m]"
    )
    azimuth_deg: Series[np.float64] = pa.Field(ge=0, lt=360, description="Clockwise from north")
    downtilt_deg: Series[np.float64] = pa.Field(ge=-90, le=90, description="Below the horizon")
    power_dbm: Series[np.float64] = pa.Field(ge=-10, le=80, description="Total transmit power")
    pci: Series[np.int64] = pa.Field(ge=0, le=1007, description="TS 38.211, 7.4.2.1")
    lon_deg: Series[np.float64] = pa.Field(ge=-180, le=180, description="WGS 84 longitude")
    lat_deg: Series[np.float64] = pa.Field(ge=-90, le=90, description="WGS 84 latitude")
    electrical_tilt_deg: Series[np.float64] = pa.Field(
        ge=-30, le=30, default=0.0, description="Electrical downtilt of the array"
    )
    antenna: Series[str] = pa.Field(
        str_length={"min_value": 1}, default="tr38901", description="Name of the antenna's model"
    )
    position_sigma_m: Series[np.float64] = pa.Field(
        ge=0,
        lt=100_000,
        default=0.0,
        description="Standard deviation of the position along each axis [m]",
    )
    source: Series[str] = pa.Field(
        isin=SITE_SOURCES, default="rooftop", description="Where the site comes from"
    )
    assumed: Series[str] = pa.Field(
        default="", description="Columns whose value no source stated, separated by blanks"
    )
    sector_name: Series[str] = pa.Field(default="", description="Its name in the source")

    class Config:
        """No column beyond these; a table may leave those with a default out."""

        strict = True
        ordered = True
        add_missing_columns = True


def _se_only_where_gain(cube: xr.Dataset) -> bool:
    return not bool((cube.path_gain_se_db.notnull() & cube.path_gain_db.isnull()).any())


def _rsrp_follows_gain(cube: xr.Dataset) -> bool:
    offset = (cube.rsrp_dbm - cube.path_gain_db).values
    offset = offset[np.isfinite(offset)]
    return offset.size == 0 or bool(np.ptp(offset) < 100)


RadioMapSchema = px.DatasetSchema(
    data_vars={
        "path_gain_db": px.DataVar(
            dtype=np.float32,
            dims=("sector", "y", "x"),
            checks=px.Check.in_range(-300, 20),
            nullable=True,
        ),
        "path_gain_se_db": px.DataVar(
            dtype=np.float32,
            dims=("sector", "y", "x"),
            checks=px.Check.in_range(0, 100),
            nullable=True,
        ),
        "rsrp_dbm": px.DataVar(
            dtype=np.float32,
            dims=("sector", "y", "x"),
            checks=px.Check.in_range(-400, 60),
            nullable=True,
        ),
    },
    coords={
        "sector": px.Coordinate(dtype=np.int64, dims=("sector",)),
        "column": px.Coordinate(dtype=np.int64, dims=("sector",)),
        "row": px.Coordinate(dtype=np.int64, dims=("sector",)),
    },
    checks=[
        px.Check(_se_only_where_gain, error="path_gain_se_db stands only where path_gain_db does"),
        px.Check(_rsrp_follows_gain, error="rsrp_dbm is path_gain_db plus the sector's power"),
    ],
    name="radio_map",
)
"""Cube of one tile's sectors, each over its own window; row 0 is the southernmost."""


def empty_sectors() -> pd.DataFrame:
    """A sector table without rows, with the right columns and types."""
    schema = SectorSchema.to_schema()
    return pd.DataFrame(
        {name: pd.Series(dtype=str(column.dtype)) for name, column in schema.columns.items()}
    )
