"""Jobs: one for each step of the work on a partition, and `regenerate_city` for all of a city.

The stages of a city have different partitions (city, then tiles, then city), which no single
run can hold. So `regenerate_city` submits a backfill of all the city's partitions: the daemon
runs it stage after stage along the lineage, and the Dagster UI shows it under Backfills.
"""

from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from assets.partitions import city_partitions
from pipelines.backfill import submit_backfill

build_scenes = dg.define_asset_job(
    "build_scenes",
    ["scene", "sites"],
    description="Scene and sites of a tile, from the city's extract.",
)
build_worlds = dg.define_asset_job(
    "build_worlds",
    ["world_scene", "world_sites"],
    description="The world of a tile: its scene and sites, as far from the twin as configured.",
)
trace_radio_maps = dg.define_asset_job(
    "trace_radio_maps",
    ["radio_map", "world_radio_map"],
    description="Ray-trace the sectors of a tile under both beliefs.",
)
map_coverage = dg.define_asset_job(
    "map_coverage",
    ["coverage"],
    description="Best server, quality and throughput all over a city, from its radio maps.",
)
simulate_measurements = dg.define_asset_job(
    "simulate_measurements",
    ["measurements"],
    description="Reports of the terminals that a tile serves, from its neighbourhood's maps.",
)
trace_paths = dg.define_asset_job(
    "trace_paths",
    ["path_traced_measurements"],
    description="Exact paths to a city's test terminals, for reports that no map smooths.",
)
train_posterior = dg.define_asset_job(
    "train_posterior",
    ["measurement_set", "map_error", "posterior_model", "calibration"],
    description="Gather a city's reports, fit the map error, train and calibrate the network.",
)
evaluate = dg.define_asset_job(
    "evaluate",
    ["evaluation"],
    description="Compare network, oracle and baselines on a city's test tiles.",
)
ablate = dg.define_asset_job(
    "ablate",
    ["ablations"],
    description="Train and test the network without one part each; nothing else asks for it.",
)


def build_regenerate_city(assets: Sequence[dg.AssetsDefinition]) -> dg.JobDefinition:
    """The job that brings every stage of a city up to date; partitioned by city."""

    @dg.op(description="Submits the backfill of all the city's partitions.")
    def submit_city_backfill(context: dg.OpExecutionContext) -> None:
        city = context.partition_key
        backfill_id = submit_backfill(context.instance, AssetGraph.from_assets(assets), city)
        context.log.info("%s: the daemon runs backfill %s", city, backfill_id)
        context.add_output_metadata({"backfill": backfill_id})

    @dg.job(
        name="regenerate_city",
        partitions_def=city_partitions,
        description="Bring every stage of a city up to date, as a backfill along the lineage.",
    )
    def regenerate_city() -> None:
        submit_city_backfill()

    return regenerate_city


ASSET_JOBS = (
    build_scenes,
    build_worlds,
    trace_radio_maps,
    map_coverage,
    simulate_measurements,
    trace_paths,
    train_posterior,
    evaluate,
    ablate,
)
