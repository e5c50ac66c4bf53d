"""The ray-tracing scene of a tile."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import conforms, contract
from assets.partitions import city_and_tile, city_to_its_tiles, tile_partitions
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import code_version, stage
from ueloc_core.provenance import ArtifactKey

_MODULE = "ueloc_core.scene.mitsuba"


@dg.asset(
    partitions_def=tile_partitions,
    deps=[dg.AssetDep("osm_extract", partition_mapping=city_to_its_tiles)],
    check_specs=[contract("scene")],
    **stage("geodata", _MODULE, {"mitsuba", "zarr"}),
)
def scene(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """Mitsuba scene and context raster of the tile and of a halo as wide as the range."""
    from ueloc_core.geodata import osm
    from ueloc_core.geodata.context import load_context
    from ueloc_core.geodata.schemas import ContextSchema
    from ueloc_core.geodata.terrain import load_terrain

    city, tile = city_and_tile(context.partition_key)
    artifacts = store.open()
    extract = artifacts.require(ArtifactKey(city.name, "osm_extract"))
    features = osm.load_features(extract.path, city.scene_window(tile))
    terrain = load_terrain(extract.path).crop(city.scene_ground(tile))

    def compute(out: Path) -> dict[str, Any]:
        from ueloc_core.scene.mitsuba import build_scene

        return build_scene(city, tile, features, terrain, out)

    artifact = artifacts.materialize(
        ArtifactKey(city.name, "scene", tile.name),
        compute,
        code_version=code_version(_MODULE),
        params=city.params("bbox", "grid", "tiles", "window")
        | {"crs": city.crs_code, "frequency_ghz": city.radio.frequency_ghz},
        inputs={"features": osm.features_digest(features), "terrain": terrain.digest},
    )
    raster = load_context(artifact.path)
    return materialized(
        artifact,
        schema=ContextSchema,
        data=raster,
        preview="preview.png",
        checks=[conforms(raster, ContextSchema)],
    )
