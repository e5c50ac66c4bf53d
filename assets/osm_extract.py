"""The features of a city out of its OpenStreetMap extract."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import conforms, contract
from assets.partitions import city_partitions
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import stage
from ueloc_core.city import load_city
from ueloc_core.provenance import ArtifactKey, digest_file


@dg.asset(
    partitions_def=city_partitions,
    check_specs=[contract("osm_extract")],
    **stage("geodata", "ueloc_core.geodata.osm", {"openstreetmap", "geopandas"}),
)
def osm_extract(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """Buildings, roads, land use, water and terrain of the city and its surroundings.

    (c) OpenStreetMap contributors, ODbL 1.0.
    """
    from ueloc_core.geodata import osm
    from ueloc_core.geodata.schemas import FeatureSchema
    from ueloc_core.geodata.sources import source_path
    from ueloc_core.geodata.terrain import terrain_digest_of_source

    city = load_city(context.partition_key)

    def compute(out: Path) -> dict[str, Any]:
        return osm.build_extract(city, out)

    artifact = store.open().materialize(
        ArtifactKey(city.name, "osm_extract"),
        compute,
        code_version=osm.CODE_VERSION,
        params=city.params("bbox", "grid", "tiles", "window", "seed")
        | {
            "crs": city.crs_code,
            "terrain": [city.terrain.kind, city.terrain.step_m],
        },
        inputs={
            "source": digest_file(source_path(city)),
            "terrain": terrain_digest_of_source(city),
        },
    )
    checks = [conforms(osm.load_features(artifact.path), FeatureSchema)]
    return materialized(artifact, schema=FeatureSchema, preview="overview.png", checks=checks)
