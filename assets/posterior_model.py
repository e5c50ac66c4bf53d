"""The network that turns a report into a posterior of the terminal's position."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import LEARNED, conforms, contract, nothing_tested_is_learned
from assets.inputs import TrainingInputs, place_params
from assets.partitions import TRAINING_DATA, city_partitions
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import code_version, log_progress, stage
from ueloc_core.city import load_city
from ueloc_core.provenance import RUN_LOGS, ArtifactKey, fingerprint_of, with_metadata

_MODULE = "ueloc_core.localization.training"


@dg.asset(
    partitions_def=city_partitions,
    deps=["map_error", *TRAINING_DATA],
    check_specs=[
        contract("posterior_model"),
        contract("posterior_model", "no_leak", LEARNED),
    ],
    **stage("localization", _MODULE, {"torch"}, heavy=True),
)
def posterior_model(
    context: dg.AssetExecutionContext, store: ArtifactStore
) -> dg.MaterializeResult:
    """Checkpoint and learning curves of the network, trained on the training cities' tiles."""
    import pandas as pd

    from ueloc_core.localization.schemas import HistorySchema

    city = load_city(context.partition_key)
    artifacts = store.open()
    read = TrainingInputs.require(artifacts, city, "map_error")
    key = ArtifactKey(city.name, "posterior_model")
    identity: dict[str, Any] = {
        "code_version": code_version(_MODULE),
        "params": city.params("grid", "window", "radio", "measurements", "training", "seed")
        | place_params(city),
        "inputs": read.digests,
    }

    def compute(out: Path) -> dict[str, Any]:
        from ueloc_core.localization.resume import ResumePoint
        from ueloc_core.localization.training import build_posterior_model

        folders, progress = read.folders("map_error"), log_progress(context)
        resume = ResumePoint(artifacts.scratch(key), fingerprint_of(key, **identity))
        return build_posterior_model(
            city, read.load(), *folders, out, progress=progress, resume=resume
        )

    artifact = artifacts.materialize(key, compute, **identity)
    checks = [
        conforms(pd.read_parquet(artifact.path / "history.parquet"), HistorySchema),
        nothing_tested_is_learned(read),
    ]
    logs = with_metadata(artifact, tensorboard=str(artifact.path / RUN_LOGS))
    return materialized(logs, schema=HistorySchema, preview="curves.png", checks=checks)
