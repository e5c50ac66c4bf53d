"""The error of the twin's radio maps."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.inputs import CityInputs, place_params
from assets.partitions import TWIN_OF_THE_CITY, city_partitions
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import code_version, stage
from ueloc_core.city import load_city
from ueloc_core.provenance import ArtifactKey

_MODULE = "ueloc_core.measurement.map_error"


@dg.asset(
    partitions_def=city_partitions,
    deps=["measurement_set", *TWIN_OF_THE_CITY],
    **stage("measurement", _MODULE, {"scipy"}),
)
def map_error(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """How far training reports lie from the twin's maps: part of the likelihood."""
    city = load_city(context.partition_key)
    artifacts = store.open()
    read = CityInputs.require(artifacts, city)

    def compute(out: Path) -> dict[str, Any]:
        from ueloc_core.measurement.map_error import build_map_error

        return build_map_error(city, *read.load(), out)

    artifact = artifacts.materialize(
        ArtifactKey(city.name, "map_error"),
        compute,
        code_version=code_version(_MODULE),
        params=city.params("radio", "measurements", "seed") | place_params(city),
        inputs=read.digests,
    )
    return materialized(artifact)
