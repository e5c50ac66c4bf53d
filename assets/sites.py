"""The sites and sectors that stand in a tile."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import conforms, contract
from assets.partitions import city_and_tile, city_to_its_tiles, tile_partitions
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import stage
from ueloc_core.provenance import ArtifactKey


@dg.asset(
    partitions_def=tile_partitions,
    deps=[dg.AssetDep("osm_extract", partition_mapping=city_to_its_tiles)],
    check_specs=[contract("sites")],
    **stage("radio", "ueloc_core.radio.sites", {"geopandas"}),
)
def sites(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """Sectors that the tile owns: position, height, azimuth, downtilt, power and PCI."""
    from ueloc_core.geodata import osm
    from ueloc_core.geodata.masts import load_masts
    from ueloc_core.geodata.terrain import load_terrain
    from ueloc_core.radio import sites as planning
    from ueloc_core.radio.schemas import SectorSchema

    city, tile = city_and_tile(context.partition_key)
    artifacts = store.open()
    extract = artifacts.require(ArtifactKey(city.name, "osm_extract"))
    features = osm.load_features(extract.path, planning.site_search_window(city, tile))
    terrain = load_terrain(extract.path).crop(tile.window)
    masts = load_masts(extract.path) if city.site_plan.kind == "osm" else None

    def compute(out: Path) -> dict[str, Any]:
        return planning.build_sites(city, tile, features, terrain, out, masts=masts)

    artifact = artifacts.materialize(
        ArtifactKey(city.name, "sites", tile.name),
        compute,
        code_version=planning.CODE_VERSION,
        params=planning.site_plan_params(city),
        inputs={
            "features": osm.features_digest(features),
            "terrain": terrain.digest,
            "source": planning.site_source_digest(city, masts),
        },
    )
    checks = [conforms(planning.load_sectors(artifact.path), SectorSchema)]
    return materialized(artifact, schema=SectorSchema, preview="preview.png", checks=checks)
