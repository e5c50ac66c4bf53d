"""The calibration of the network's posteriors."""

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

_MODULE = "ueloc_core.evaluation.calibration"


@dg.asset(
    partitions_def=city_partitions,
    deps=["map_error", "posterior_model", *TRAINING_DATA],
    check_specs=[contract("calibration", "no_leak", LEARNED)],
    **stage("localization", _MODULE, {"torch"}, heavy=True),
)
def calibration(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """Scales that make the posteriors of held-back calibration tiles honest."""
    city = load_city(context.partition_key)
    artifacts = store.open()
    read = TrainingInputs.require(artifacts, city, "map_error", "posterior_model")

    def compute(out: Path) -> dict[str, Any]:
        from ueloc_core.evaluation.calibration import build_calibration

        folders = read.folders("map_error", "posterior_model")
        return build_calibration(city, read.load(), *folders, out)

    artifact = artifacts.materialize(
        ArtifactKey(city.name, "calibration"),
        compute,
        code_version=code_version(_MODULE),
        params=city.params("grid", "window", "radio", "measurements", "seed") | place_params(city),
        inputs=read.digests,
    )
    return materialized(artifact, checks=[nothing_tested_is_learned(read)])
