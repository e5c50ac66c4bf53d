"""Contracts of the sectors' table, the radio maps' cube and the coverage."""

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pandera.xarray as px
import xarray as xr
from pandera.typing import Series

from ueloc_core.radio import coverage_layers
from ueloc_core.radio.cube_layers import DIMS, LAYERS, REQUIRED, RSRP

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


def _only_where_gain(cube: xr.Dataset) -> bool:
    known = cube.path_gain_db.notnull()
    values = [cube[name] for name in LAYERS if name in cube and LAYERS[name].step is not None]
    return not any(
        bool((layer.notnull() & ~known).any()) for layer in values if layer.name != "line_of_sight"
    )


def _rsrp_follows_gain(cube: xr.Dataset) -> bool:
    excess = cube.rsrp_dbm - cube.path_gain_db - cube.element_power_dbm
    return not bool((abs(excess) > _TOLERANCE_DB).any()) and bool(
        (cube.rsrp_dbm.isnull() == cube.path_gain_db.isnull()).all()
    )


def _first_arrival_is_first(cube: xr.Dataset) -> bool:
    if not {"first_arrival_ns", "mean_delay_ns"} <= set(cube):
        return True
    step_ns = LAYERS["mean_delay_ns"].step
    return not bool((cube.first_arrival_ns > cube.mean_delay_ns + step_ns).any())


_TOLERANCE_DB = 1e-3  # single precision
_OF_SECTOR = {"sector": np.int64, "column": np.int64, "row": np.int64}

RadioMapSchema = px.DatasetSchema(
    data_vars={
        **{
            name: px.DataVar(
                dtype=layer.read_dtype,
                dims=DIMS,
                checks=px.Check.in_range(layer.lowest, layer.highest),
                nullable=True,
                required=name in REQUIRED,
            )
            for name, layer in LAYERS.items()
        },
        RSRP: px.DataVar(
            dtype=np.float32, dims=DIMS, checks=px.Check.in_range(-400, 60), nullable=True
        ),
    },
    coords={
        **{name: px.Coordinate(dtype=kind, dims=("sector",)) for name, kind in _OF_SECTOR.items()},
        "element_power_dbm": px.Coordinate(dtype=np.float64, dims=("sector",)),
    },
    checks=[
        px.Check(_only_where_gain, error="what is known stands only where path_gain_db does"),
        px.Check(_rsrp_follows_gain, error="rsrp_dbm is path_gain_db plus element_power_dbm"),
        px.Check(_first_arrival_is_first, error="mean_delay_ns is not before first_arrival_ns"),
    ],
    name="radio_map",
)
"""Cube of one tile's sectors, each over its own window; row 0 is the southernmost."""


def _known_together(coverage: xr.Dataset) -> bool:
    served = coverage.best_server > 0
    levels = ("serving_rsrp_dbm", "serving_sinr_db", "rssi_dbm", "throughput_mbps")
    known = [coverage[name].notnull() for name in levels]
    return all(bool((layer == served).all()) for layer in [*known, coverage.cqi >= 0])


def _nothing_below_the_lowest_mcs(coverage: xr.Dataset) -> bool:
    served = coverage.best_server > 0
    idle = coverage.throughput_mbps == 0
    return bool((idle == (served & (coverage.mcs < 0))).all())


def _heard_where_served(coverage: xr.Dataset) -> bool:
    strong = coverage.serving_rsrp_dbm >= coverage.attrs["detection_threshold_dbm"]
    return bool((strong == (coverage.sectors_heard > 0)).all())


CoverageSchema = px.DatasetSchema(
    data_vars={
        name: px.DataVar(
            dtype=np.dtype(layer.dtype),
            dims=coverage_layers.DIMS,
            checks=px.Check.in_range(np.fmin(layer.lowest, layer.unknown), layer.highest),
            nullable=bool(np.isnan(layer.unknown)),
        )
        for name, layer in coverage_layers.LAYERS.items()
    },
    coords={axis: px.Coordinate(dtype=np.float64, dims=(axis,)) for axis in ("x", "y")},
    checks=[
        px.Check(_known_together, error="levels and quality are known where best_server is"),
        px.Check(_nothing_below_the_lowest_mcs, error="throughput_mbps is 0 where no mcs works"),
        px.Check(_heard_where_served, error="sectors_heard counts the best server"),
    ],
    name="coverage",
)
"""Coverage of a city over all its tiles; row 0 is the southernmost."""


def empty_sectors() -> pd.DataFrame:
    """A sector table without rows, with the right columns and types."""
    schema = SectorSchema.to_schema()
    return pd.DataFrame(
        {name: pd.Series(dtype=str(column.dtype)) for name, column in schema.columns.items()}
    )
