"""The network that turns a report into a posterior of the terminal's position."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import conforms, contract
from assets.inputs import CityInputs
from assets.partitions import TWIN_OF_THE_CITY, city_partitions
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import code_version, log_progress, stage
from ueloc_core.city import load_city
from ueloc_core.provenance import ArtifactKey

_MODULE = "ueloc_core.localization.training"


@dg.asset(
    partitions_def=city_partitions,
    deps=["measurement_set", "map_error", *TWIN_OF_THE_CITY],
    check_specs=[contract("posterior_model")],
    **stage("localization", _MODULE, {"torch"}, heavy=True),
)
def posterior_model(
    context: dg.AssetExecutionContext, store: ArtifactStore
) -> dg.MaterializeResult:
    """Checkpoint and learning curves of the network, trained on the city's training tiles."""
    import pandas as pd

    from ueloc_core.localization.schemas import HistorySchema

    city = load_city(context.partition_key)
    artifacts = store.open()
    read = CityInputs.require(artifacts, city, "map_error")

    def compute(out: Path) -> dict[str, Any]:
        from ueloc_core.localization.training import build_posterior_model

        folders, progress = read.folders("map_error"), log_progress(context)
        return build_posterior_model(city, *read.load(), *folders, out, progress=progress)

    artifact = artifacts.materialize(
        ArtifactKey(city.name, "posterior_model"),
        compute,
        code_version=code_version(_MODULE),
        params=city.params("grid", "window", "radio", "measurements", "training", "seed"),
        inputs=read.digests,
    )
    checks = [conforms(pd.read_parquet(artifact.path / "history.parquet"), HistorySchema)]
    return materialized(artifact, schema=HistorySchema, preview="curves.png", checks=checks)
