"""Schemas of the features of a city, of a scene's buildings and of the context rasters."""

from typing import Any

import pandera.geopandas as pg
import pandera.xarray as px

from ueloc_core.geodata.buildings import MATERIALS

KINDS = ("building", "building_part", "road", "landuse", "water")
BUILDING_KINDS = ("building", "building_part")
HEIGHT_SOURCES = ("tag", "levels", "imputed")
ROOF_SHAPES = ("flat", "gabled", "hipped", "pyramidal", "skillion")
GROUND_MATERIALS = ("dry_ground", "wet_ground", "paved", "water", "sea")
VEGETATION = ("none", "low", "trees")
ROAD_CLASSES = (
    "none",
    "path",
    "service",
    "residential",
    "tertiary",
    "secondary",
    "primary",
    "trunk",
    "motorway",
)


def _where(rows: str) -> Any:
    """Check that a column has a value exactly in the rows of some kinds."""
    kinds = {"buildings": BUILDING_KINDS, "roads": ("road",), "areas": ("landuse", "water")}[rows]
    return lambda frame, column: frame[column].notna() == frame["kind"].isin(kinds)


def _present(column: str, rows: str) -> pg.Check:
    check = _where(rows)
    return pg.Check(
        lambda frame: check(frame, column), name=f"{column} is given for {rows} and nothing else"
    )


def _building_shapes(frame: Any) -> Any:
    areal = frame.geometry.geom_type.isin(["Polygon", "MultiPolygon"]) & frame.geometry.is_valid
    return areal | ~frame["kind"].isin(BUILDING_KINDS)


FeatureSchema = pg.GeoDataFrameSchema(
    {
        "osm_id": pg.Column(
            str,
            pg.Check.str_matches(r"^(way|relation)/-?\d+$"),
            unique=True,
            description="element/id",
        ),
        "kind": pg.Column(str, pg.Check.isin(KINDS), description="what it is"),
        "tile": pg.Column(
            str,
            pg.Check.str_matches(r"^e-?\d+n-?\d+$"),
            description="tile that owns its inner point",
        ),
        "height_m": pg.Column(
            float, pg.Check.in_range(0, 1000), nullable=True, description="top above ground [m]"
        ),
        "height_source": pg.Column(
            object, pg.Check.isin(HEIGHT_SOURCES), nullable=True, description="where it is from"
        ),
        "height_sigma_m": pg.Column(
            float, pg.Check.gt(0), nullable=True, description="its standard deviation [m]"
        ),
        "min_height_m": pg.Column(
            float, pg.Check.ge(0), nullable=True, description="underside above ground [m]"
        ),
        "material": pg.Column(
            object,
            pg.Check.isin(MATERIALS[1:]),
            nullable=True,
            description="ITU-R P.2040 name of the walls' material",
        ),
        "building_id": pg.Column(
            object,
            nullable=True,
            description="osm_id of the outline that it is a part of, or its own",
        ),
        "ground_m": pg.Column(
            float,
            pg.Check.in_range(-500, 9000),
            nullable=True,
            description="elevation of its datum: the lowest ground under its outline [m]",
        ),
        "roof_shape": pg.Column(
            object, pg.Check.isin(ROOF_SHAPES), nullable=True, description="shape of the roof"
        ),
        "roof_height_m": pg.Column(
            float, pg.Check.ge(0), nullable=True, description="from the eaves to the top [m]"
        ),
        "roof_direction_deg": pg.Column(
            float,
            pg.Check.in_range(0, 360, include_max=False),
            nullable=True,
            description="direction of steepest descent, clockwise from north",
        ),
        "roof_material": pg.Column(
            object,
            pg.Check.isin(MATERIALS[1:]),
            nullable=True,
            description="ITU-R P.2040 name of the roof's material",
        ),
        "road_class": pg.Column(
            object, pg.Check.isin(ROAD_CLASSES[1:]), nullable=True, description="class of the road"
        ),
        "width_m": pg.Column(
            float, pg.Check.in_range(0.5, 100), nullable=True, description="width of the road [m]"
        ),
        "land_class": pg.Column(
            object, nullable=True, description="value of the tag that makes it land use or water"
        ),
        "geometry": pg.Column("geometry", description="in the city's CRS [m]"),
    },
    checks=[
        *(
            _present(column, "buildings")
            for column in (
                "height_m",
                "height_source",
                "height_sigma_m",
                "min_height_m",
                "material",
                "building_id",
                "ground_m",
                "roof_shape",
                "roof_height_m",
                "roof_material",
            )
        ),
        _present("road_class", "roads"),
        _present("width_m", "roads"),
        _present("land_class", "areas"),
        pg.Check(
            lambda frame: ~(frame["min_height_m"] >= frame["height_m"]),
            name="a building's underside is below its top",
        ),
        pg.Check(
            lambda frame: (
                ~(frame["roof_height_m"] > frame["height_m"] - frame["min_height_m"] + 1e-6)
            ),
            name="a roof is no higher than its building",
        ),
        pg.Check(_building_shapes, name="buildings are valid polygons"),
    ],
    strict=True,
    ordered=True,
    name="features of a city",
)

SceneBuildingSchema = pg.GeoDataFrameSchema(
    {
        **{
            name: FeatureSchema.columns[name]
            for name in (
                *("osm_id", "building_id", "kind", "tile", "ground_m", "height_m"),
                *("height_source", "height_sigma_m", "min_height_m", "material"),
                *("roof_shape", "roof_height_m", "roof_direction_deg", "roof_material"),
            )
        },
        **{
            f"{role}_{column}": definition
            for role in ("wall", "roof")
            for column, definition in {
                "mesh": pg.Column(str, pg.Check.str_endswith(".ply"), description="its file"),
                "first": pg.Column(int, pg.Check.ge(0), description="its first triangle there"),
                "faces": pg.Column(int, pg.Check.ge(1), description="number of its triangles"),
            }.items()
        },
        "area_m2": pg.Column(float, pg.Check.gt(0), description="area of its footprint [m^2]"),
        "volume_m3": pg.Column(float, pg.Check.gt(0), description="volume of its mesh [m^3]"),
        "geometry": FeatureSchema.columns["geometry"],
    },
    strict=True,
    name="buildings of a scene",
)


def _layer(dtype: str, units: str, checks: Any) -> px.DataVar:
    return px.DataVar(dtype=dtype, dims=("y", "x"), attrs={"units": units}, checks=checks)


ContextSchema = px.DatasetSchema(
    {
        "building_height_m": _layer("float32", "m", px.Check.in_range(0, 1000)),
        "footprint": _layer("uint8", "1", px.Check.isin([0, 1])),
        "material": _layer("uint8", "1", px.Check.lt(len(MATERIALS))),
        "roof_material": _layer("uint8", "1", px.Check.lt(len(MATERIALS))),
        "ground_material": _layer("uint8", "1", px.Check.lt(len(GROUND_MATERIALS))),
        "road": _layer("uint8", "1", px.Check.lt(len(ROAD_CLASSES))),
        "road_width_m": _layer("float32", "m", px.Check.in_range(0, 100)),
        "terrain_m": _layer("float32", "m", px.Check.in_range(-500, 9000)),
        "water": _layer("uint8", "1", px.Check.isin([0, 1])),
        "vegetation": _layer("uint8", "1", px.Check.lt(len(VEGETATION))),
        "in_area": _layer("uint8", "1", px.Check.isin([0, 1])),
    },
    coords={
        "x": px.Coordinate(dtype="float64", dims=("x",)),
        "y": px.Coordinate(dtype="float64", dims=("y",)),
        "spatial_ref": px.Coordinate(dtype="int64", dims=()),
    },
    strict=True,
    name="context rasters of a scene",
)
