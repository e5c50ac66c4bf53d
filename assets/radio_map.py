"""The radio maps of the sectors that a tile owns, under the two beliefs."""

from pathlib import Path
from typing import Any, Literal

import dagster as dg

from assets.checks import conforms, contract
from assets.inputs import SCENE_GEOMETRY, content_of
from assets.partitions import city_and_tile, tile_partitions
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import log_progress, stage
from ueloc_core.provenance import ArtifactKey

_STAGE = stage("radio", "ueloc_core.radio.radio_map", {"sionna", "zarr"}, heavy=True)


@dg.asset(
    partitions_def=tile_partitions,
    deps=["scene", "sites"],
    check_specs=[contract("radio_map")],
    **_STAGE,
)
def radio_map(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """The twin's maps, which the locator reads: gain and its error, delays, angles, sight."""
    return _traced(context, store, "radio_map", "twin")


@dg.asset(
    partitions_def=tile_partitions,
    deps=["world_scene", "world_sites"],
    check_specs=[contract("world_radio_map")],
    **_STAGE,
)
def world_radio_map(
    context: dg.AssetExecutionContext, store: ArtifactStore
) -> dg.MaterializeResult:
    """The world's maps, through other rays than the twin's: what reports come from."""
    return _traced(context, store, "world_radio_map", "world", read=("world_scene", "world_sites"))


def _traced(
    context: dg.AssetExecutionContext,
    store: ArtifactStore,
    name: str,
    belief: Literal["twin", "world"],
    *,
    read: tuple[str, str] = ("scene", "sites"),
) -> dg.MaterializeResult:
    from ueloc_core.radio import radio_map as maps
    from ueloc_core.radio.cube import load_cube
    from ueloc_core.radio.schemas import RadioMapSchema
    from ueloc_core.radio.sites import load_sectors

    city, tile = city_and_tile(context.partition_key)
    artifacts = store.open()
    scene, sectors = (
        artifacts.require(ArtifactKey(city.name, stage_name, tile.name)) for stage_name in read
    )

    def compute(out: Path) -> dict[str, Any]:
        table, progress = load_sectors(sectors.path), log_progress(context)
        return maps.build_radio_map(
            city, tile, scene.path, table, out, belief=belief, progress=progress
        )

    artifact = artifacts.materialize(
        ArtifactKey(city.name, name, tile.name),
        compute,
        code_version=maps.CODE_VERSION,
        params=city.params("grid", "window", "ray_tracing", "seed")
        | {
            "crs": city.crs_code,
            "frequency_ghz": city.radio.frequency_ghz,
            "resource_blocks": city.radio.resource_blocks,
        },
        inputs={
            "scene": content_of(scene, *SCENE_GEOMETRY),
            "sectors": content_of(sectors, "sectors.parquet"),
        },
    )
    cube = load_cube(artifact.path)
    return materialized(
        artifact,
        schema=RadioMapSchema,
        data=cube,
        preview="preview.png",
        picture="layers.png",
        checks=[conforms(cube, RadioMapSchema)],
    )
