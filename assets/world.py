"""The world of a tile, where it differs from the twin: what reports come from."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import conforms, contract
from assets.inputs import content_of
from assets.partitions import (
    city_and_tile,
    city_to_its_tiles,
    tile_partitions,
    tile_to_neighbours,
)
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import code_version, stage
from ueloc_core.city import City
from ueloc_core.grid import Tile
from ueloc_core.provenance import Artifact, ArtifactKey, Store

_SCENES = "ueloc_core.world.scenes"
_SECTORS = "ueloc_core.world.sectors"
_SCENE_VERSION = f"{code_version(_SCENES)}/{code_version('ueloc_core.scene.mitsuba')}"


@dg.asset(
    partitions_def=tile_partitions,
    deps=[
        "scene",
        dg.AssetDep("osm_extract", partition_mapping=city_to_its_tiles),
        dg.AssetDep("sites", partition_mapping=tile_to_neighbours),
    ],
    check_specs=[contract("world_scene")],
    **{**stage("world", _SCENES, {"mitsuba", "zarr"}), "code_version": _SCENE_VERSION},
)
def world_scene(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """The scene as the world is: other heights, footprints, materials; some missing, some new."""
    from ueloc_core.geodata.context import load_context
    from ueloc_core.geodata.schemas import ContextSchema
    from ueloc_core.world import scenes

    city, tile = city_and_tile(context.partition_key)
    artifacts = store.open()
    twin = artifacts.require(ArtifactKey(city.name, "scene", tile.name))
    key = ArtifactKey(city.name, "world_scene", tile.name)
    if scenes.same_buildings(city):
        artifact = _copied(artifacts, key, twin, _SCENE_VERSION)
    else:
        artifact = _perturbed_scene(artifacts, key, city, tile)
    raster = load_context(artifact.path)
    is_same = artifact.metadata["same_as_twin"]
    return materialized(
        artifact,
        schema=ContextSchema,
        data=raster,
        preview="preview.png" if is_same else scenes.DIFFERENCE,
        checks=[conforms(raster, ContextSchema)],
    )


@dg.asset(
    partitions_def=tile_partitions,
    deps=["sites", "scene", "world_scene"],
    check_specs=[contract("world_sites")],
    **stage("world", _SECTORS, {"geopandas"}),
)
def world_sites(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """The tile's sectors as they really stand, look and transmit, under the same identities."""
    from ueloc_core.radio.schemas import SectorSchema
    from ueloc_core.radio.sites import load_sectors
    from ueloc_core.world import sectors

    city, tile = city_and_tile(context.partition_key)
    artifacts = store.open()
    sites, scene, world = (
        artifacts.require(ArtifactKey(city.name, name, tile.name))
        for name in ("sites", "scene", "world_scene")
    )
    key = ArtifactKey(city.name, "world_sites", tile.name)

    def compute(out: Path) -> dict[str, Any]:
        return sectors.build_world_sites(city, sites.path, scene.path, world.path, out)

    if sectors.same_sectors(city):
        artifact = _copied(artifacts, key, sites, sectors.CODE_VERSION)
    else:
        artifact = artifacts.materialize(
            key,
            compute,
            code_version=sectors.CODE_VERSION,
            params=city.params("seed")
            | {"crs": city.crs_code, "world": {"level": city.world.level} | _amounts(city)},
            inputs={
                "sectors": content_of(sites, "sectors.parquet"),
                "twin": content_of(scene, "buildings.parquet"),
                "world": world.content,
            },
        )
    checks = [conforms(load_sectors(artifact.path), SectorSchema)]
    return materialized(artifact, schema=SectorSchema, checks=checks)


def _amounts(city: City) -> dict[str, Any]:
    return {"buildings": asdict(city.world.buildings), "antennas": asdict(city.world.antennas)}


def _copied(artifacts: Store, key: ArtifactKey, twin: Artifact, version: str) -> Artifact:
    """The twin's artifact under another name."""
    from ueloc_core.world.scenes import copy_of_twin

    return artifacts.materialize(
        key,
        lambda out: copy_of_twin(twin.path, out),
        code_version=version,
        params={},
        inputs={twin.key.stage: twin.content},
    )


def _perturbed_scene(artifacts: Store, key: ArtifactKey, city: City, tile: Tile) -> Artifact:
    from ueloc_core.geodata.terrain import load_terrain
    from ueloc_core.world.surroundings import load_surroundings

    extract = artifacts.require(ArtifactKey(city.name, "osm_extract")).path
    sites = {
        name: artifacts.require(ArtifactKey(city.name, "sites", name)).path
        for name in city.neighbour_tiles(tile.name)
    }
    surroundings = load_surroundings(city, tile, extract, sites)
    terrain = load_terrain(extract)

    def compute(out: Path) -> dict[str, Any]:
        from ueloc_core.world.scenes import build_world_scene

        return build_world_scene(city, tile, surroundings, terrain, out)

    # masts keep clear of extra buildings by as far as they may move
    amounts = {"level": city.world.level, "position_m": city.world.antennas.position_m}
    return artifacts.materialize(
        key,
        compute,
        code_version=_SCENE_VERSION,
        params=city.params("bbox", "grid", "tiles", "window", "seed")
        | {"crs": city.crs_code, "frequency_ghz": city.radio.frequency_ghz}
        | {"world": amounts | asdict(city.world.buildings)},
        inputs={**surroundings.digests, "terrain": terrain.digest},
    )
