"""The error of the twin's radio maps."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import LEARNED, contract, nothing_tested_is_learned
from assets.inputs import TrainingInputs, place_params
from assets.partitions import TRAINING_DATA, city_partitions
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import code_version, stage
from ueloc_core.city import load_city
from ueloc_core.provenance import ArtifactKey

_MODULE = "ueloc_core.measurement.map_error"


@dg.asset(
    partitions_def=city_partitions,
    deps=TRAINING_DATA,
    check_specs=[contract("map_error", "no_leak", LEARNED)],
    **stage("measurement", _MODULE, {"scipy"}),
)
def map_error(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """How far training reports lie from the twin's maps: part of the likelihood."""
    city = load_city(context.partition_key)
    artifacts = store.open()
    read = TrainingInputs.require(artifacts, city)

    def compute(out: Path) -> dict[str, Any]:
        from ueloc_core.measurement.map_error import build_map_error

        return build_map_error(city, read.load(), out)

    artifact = artifacts.materialize(
        ArtifactKey(city.name, "map_error"),
        compute,
        code_version=code_version(_MODULE),
        params=city.params("radio", "measurements", "seed") | place_params(city),
        inputs=read.digests,
    )
    return materialized(artifact, checks=[nothing_tested_is_learned(read)])
