"""The reports of a tile's terminals, and the data set of a whole city."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import SEPARATE, conforms, contract, no_leak
from assets.inputs import WORLD_STAGES, AtlasInputs, content_of, place_params
from assets.partitions import (
    city_and_tile,
    city_partitions,
    city_to_its_tiles,
    tile_partitions,
    tile_to_neighbours,
    tiles_to_their_city,
)
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import code_version, stage
from ueloc_core.city import load_city
from ueloc_core.provenance import ArtifactKey

_MODULE = "ueloc_core.measurement.tracks"


@dg.asset(
    partitions_def=tile_partitions,
    deps=[
        *(
            dg.AssetDep(name, partition_mapping=tile_to_neighbours)
            for name in WORLD_STAGES.values()
        ),
        dg.AssetDep("osm_extract", partition_mapping=city_to_its_tiles),
    ],
    check_specs=[contract("measurements")],
    **stage("measurement", _MODULE, {"xarray", "zarr"}),
)
def measurements(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """Reports of the terminals that the tile's sectors serve, with their true positions."""
    from ueloc_core.geodata import osm
    from ueloc_core.measurement.dataset import load_reports
    from ueloc_core.measurement.schemas import ReportSchema

    city, tile = city_and_tile(context.partition_key)
    artifacts = store.open()
    near = AtlasInputs.require(artifacts, city, city.neighbour_tiles(tile.name), **WORLD_STAGES)
    extract = artifacts.require(ArtifactKey(city.name, "osm_extract"))
    features = osm.load_features(extract.path, city.scene_ground(tile))
    roads = features[features["kind"] == "road"]

    def compute(out: Path) -> dict[str, Any]:
        from ueloc_core.measurement.tracks import build_measurements

        return build_measurements(city, tile, near.load(city), roads, out)

    artifact = artifacts.materialize(
        ArtifactKey(city.name, "measurements", tile.name),
        compute,
        code_version=code_version(_MODULE),
        params=city.params("bbox", "grid", "tiles", "window", "radio", "measurements", "seed")
        | {"crs": city.crs_code}
        | place_params(city),
        inputs={**near.digests, "roads": osm.features_digest(roads)},
    )
    reports = load_reports(artifact.path)
    checks = [conforms(reports, ReportSchema)]
    return materialized(artifact, schema=ReportSchema, data=reports, checks=checks)


@dg.asset(
    partitions_def=city_partitions,
    deps=[
        dg.AssetDep(name, partition_mapping=tiles_to_their_city)
        for name in ("measurements", "sites")
    ],
    check_specs=[
        contract("measurement_set"),
        contract("measurement_set", "no_leak", SEPARATE),
    ],
    **stage("measurement", "ueloc_core.measurement.splits", {"xarray", "zarr"}),
)
def measurement_set(
    context: dg.AssetExecutionContext, store: ArtifactStore
) -> dg.MaterializeResult:
    """All reports of the city with their split; its version stands for all tiles."""
    from ueloc_core.measurement import splits
    from ueloc_core.measurement.dataset import load_reports
    from ueloc_core.measurement.schemas import MeasurementSetSchema

    city = load_city(context.partition_key)
    artifacts = store.open()
    tiles, sites = (
        {n: artifacts.require(ArtifactKey(city.name, stage, n)) for n in city.tile_names}
        for stage in ("measurements", "sites")
    )

    def compute(out: Path) -> dict[str, Any]:
        folders = ({n: a.path for n, a in found.items()} for found in (tiles, sites))
        return splits.build_measurement_set(city, *folders, out)

    artifact = artifacts.materialize(
        ArtifactKey(city.name, "measurement_set"),
        compute,
        code_version=splits.CODE_VERSION,
        params=city.params("bbox", "grid", "tiles", "window", "splits", "seed")
        | {"crs": city.crs_code},
        inputs={name: content_of(tile, "reports.zarr") for name, tile in tiles.items()}
        | {f"sites/{n}": content_of(a, "sectors.parquet") for n, a in sites.items()},
    )
    reports = load_reports(artifact.path)
    checks = [
        conforms(reports, MeasurementSetSchema),
        no_leak(splits.split_violations(reports, city)),
    ]
    return materialized(
        artifact,
        schema=MeasurementSetSchema,
        data=reports,
        preview="data_card.png",
        picture="data_card.png",
        checks=checks,
    )
