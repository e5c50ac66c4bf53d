"""Everything that Dagster knows of: `defs` is what ``workspace.yaml`` and ``dg`` load."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.ablations import ablations
from assets.calibration import calibration
from assets.coverage import coverage
from assets.evaluation import evaluation
from assets.map_error import map_error
from assets.measurements import measurement_set, measurements
from assets.osm_extract import osm_extract
from assets.path_traced import path_traced_measurements
from assets.posterior_model import posterior_model
from assets.radio_map import radio_map, world_radio_map
from assets.resources import ArtifactStore
from assets.scene import scene
from assets.sites import sites
from assets.world import world_scene, world_sites
from pipelines.executors import build_executor
from pipelines.jobs import ASSET_JOBS, build_regenerate_city
from pipelines.schedules import build_schedules
from pipelines.sensors import build_extract_sensor

ASSETS = (
    osm_extract,
    scene,
    sites,
    radio_map,
    world_scene,
    world_sites,
    world_radio_map,
    coverage,
    measurements,
    measurement_set,
    path_traced_measurements,
    map_error,
    posterior_model,
    calibration,
    evaluation,
)
"""What a city consists of: kept up to date together."""

ON_DEMAND = (ablations,)
"""What is computed only when somebody asks for it."""


def build_defs(
    store_url: str = "",
    *,
    executor: str | None = None,
    resource_overrides: Mapping[str, Any] | None = None,
    loggers: Mapping[str, dg.LoggerDefinition] | None = None,
) -> dg.Definitions:
    """The definitions, over a store of one's choice.

    Parameters
    ----------
    store_url
        Where artifacts are kept; empty takes the default of `ArtifactStore`.
    executor
        ``in_process`` or ``multiprocess``; None takes ``UELOC_EXECUTOR``.
    resource_overrides
        Resources that replace those of the same name.
    loggers
        Loggers of the runs; None takes Dagster's.

    Raises
    ------
    UelocError
        If ``UELOC_EXECUTOR`` names no executor.
    """
    regenerate_city = build_regenerate_city(ASSETS)
    return dg.Definitions(
        assets=[*ASSETS, *ON_DEMAND],
        jobs=[*ASSET_JOBS, regenerate_city],
        schedules=build_schedules(regenerate_city),
        sensors=[
            build_extract_sensor(regenerate_city),
            dg.AutomationConditionSensorDefinition(
                "on_change",
                target=dg.AssetSelection.all(),
                description="Materializes what has changed and what depends on it.",
            ),
        ],
        executor=build_executor(executor),
        resources={"store": ArtifactStore(url=store_url), **(resource_overrides or {})},
        loggers=loggers,
    )


defs = build_defs()
