"""The proof: how well terminals are located where nothing was trained."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import conforms, contract
from assets.inputs import CityInputs, place_params
from assets.partitions import TWIN_OF_THE_CITY, city_partitions
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import code_version, log_progress, stage
from ueloc_core.city import load_city
from ueloc_core.provenance import ArtifactKey

_MODULE = "ueloc_core.evaluation.evaluate"
_RESULTS = ("map_error", "posterior_model", "calibration", "path_traced_measurements")


@dg.asset(
    partitions_def=city_partitions,
    deps=["measurement_set", *_RESULTS, *TWIN_OF_THE_CITY],
    check_specs=[contract("evaluation", "fixes_schema"), contract("evaluation", "metrics_schema")],
    **stage("evaluation", _MODULE, {"torch", "matplotlib"}, heavy=True),
)
def evaluation(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """Errors and coverage of network, oracle and baselines on the test tiles, with a report."""
    import pandas as pd

    from ueloc_core.evaluation.schemas import FixSchema, MetricSchema

    city = load_city(context.partition_key)
    artifacts = store.open()
    read = CityInputs.require(artifacts, city, *_RESULTS)

    def compute(out: Path) -> dict[str, Any]:
        from ueloc_core.evaluation.evaluate import build_evaluation

        folders = dict(zip(_RESULTS, read.folders(*_RESULTS), strict=True))
        return build_evaluation(city, *read.load(), folders, out, log_progress(context))

    sections = ("title", "grid", "window", "world", "radio", "measurements", "evaluation", "seed")
    artifact = artifacts.materialize(
        ArtifactKey(city.name, "evaluation"),
        compute,
        code_version=code_version(_MODULE),
        params=city.params(*sections) | place_params(city),
        inputs=read.digests,
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
