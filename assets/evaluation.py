"""The proof: how well terminals are located where nothing was trained."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import conforms, contract
from assets.inputs import CityInputs, TrainingInputs, place_params
from assets.partitions import EVALUATION_DATA, city_partitions
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import code_version, log_progress, stage
from ueloc_core.city import load_city
from ueloc_core.provenance import ArtifactKey

_MODULE = "ueloc_core.evaluation.evaluate"
_RESULTS = ("map_error", "posterior_model", "calibration", "path_traced_measurements")


@dg.asset(
    partitions_def=city_partitions,
    deps=[*_RESULTS, *EVALUATION_DATA],
    check_specs=[contract("evaluation", "fixes_schema"), contract("evaluation", "metrics_schema")],
    **stage("evaluation", _MODULE, {"torch", "matplotlib"}, heavy=True),
)
def evaluation(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """Errors and coverage of network, oracle and baselines on the test tiles, with a report.

    An unseen city is all test tiles; its rivals are tuned where its network's training begins.
    """
    import pandas as pd

    from ueloc_core.evaluation.schemas import FixSchema, MetricSchema

    city = load_city(context.partition_key)
    artifacts = store.open()
    read = CityInputs.require(artifacts, city, *_RESULTS)
    tuning = TrainingInputs.require(artifacts, city).cities[0] if city.unseen else None

    def compute(out: Path) -> dict[str, Any]:
        from ueloc_core.evaluation.evaluate import build_evaluation

        folders = dict(zip(_RESULTS, read.folders(*_RESULTS), strict=True))
        known = None if tuning is None else tuning.reports_with_maps()
        progress = log_progress(context)
        return build_evaluation(city, *read.load(), folders, out, progress, known)

    sections = ("title", "grid", "window", "world", "radio", "measurements", "evaluation", "seed")
    artifact = artifacts.materialize(
        ArtifactKey(city.name, "evaluation"),
        compute,
        code_version=code_version(_MODULE),
        params=city.params(*sections) | place_params(city) | ({"unseen": True} if tuning else {}),
        inputs=read.digests | (tuning.named_digests if tuning else {}),
    )
    fixes, metrics = (pd.read_parquet(artifact.path / f"{n}.parquet") for n in ("fixes", "metrics"))
    checks = [
        conforms(fixes, FixSchema, "fixes_schema"),
        conforms(metrics, MetricSchema, "metrics_schema"),
    ]
    return materialized(
        artifact,
        schema=FixSchema,
        preview="figures/error_cdf.png",
        report="report.html",
        checks=checks,
    )
