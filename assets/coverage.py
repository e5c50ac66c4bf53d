"""What the radio maps of a city mean for terminals: coverage, quality, throughput."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import conforms, contract
from assets.inputs import AtlasInputs
from assets.partitions import TWIN_OF_THE_CITY, city_partitions
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import code_version, log_progress, stage
from ueloc_core.city import load_city
from ueloc_core.provenance import ArtifactKey

_MODULE = "ueloc_core.radio.coverage"


@dg.asset(
    partitions_def=city_partitions,
    deps=[*TWIN_OF_THE_CITY],
    check_specs=[contract("coverage")],
    **stage("radio", _MODULE, {"xarray", "zarr", "matplotlib"}),
)
def coverage(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """Best server, its level, quality and throughput, and the sectors heard, all over the city."""
    from ueloc_core.radio.coverage import build_coverage, load_coverage
    from ueloc_core.radio.schemas import CoverageSchema

    city = load_city(context.partition_key)
    artifacts = store.open()
    read = AtlasInputs.require(artifacts, city, city.tile_names)

    def compute(out: Path) -> dict[str, Any]:
        return build_coverage(city, *read.folders, out, progress=log_progress(context))

    artifact = artifacts.materialize(
        ArtifactKey(city.name, "coverage"),
        compute,
        code_version=code_version(_MODULE),
        params=city.params("bbox", "grid", "tiles", "window", "radio", "seed")
        | {
            "crs": city.crs_code,
            "detection_threshold_dbm": city.measurements.detection_threshold_dbm,
        },
        inputs=read.digests,
    )
    data = load_coverage(artifact.path)
    checks = [conforms(data, CoverageSchema)]
    return materialized(
        artifact, schema=CoverageSchema, data=data, preview="preview.png", checks=checks
    )
