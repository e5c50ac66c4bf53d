"""The one place that speaks with Dagster's backfill machinery, which has no public Python API."""

import time

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.execution.backfill import (
    BulkActionsFilter,
    BulkActionStatus,
    PartitionBackfill,
)
from dagster._core.utils import make_new_backfill_id

from assets.partitions import TILE_KEYS, TRAINED_BY, city_partitions
from pipelines.stages import TO_TRAIN_OTHERS

CITY_TAG = "ueloc/city"
_IN_PROGRESS = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING]


def submit_backfill(instance: dg.DagsterInstance, asset_graph: AssetGraph, city: str) -> str:
    """Ask the daemon to materialize every partition of a city, in the order of the lineage.

    So it does with what the city reads of others that train its model.

    Returns
    -------
    str
        Identity of the backfill; of the one in progress if the city already has one.
    """
    in_progress = instance.get_backfills(
        filters=BulkActionsFilter(statuses=_IN_PROGRESS, tags={CITY_TAG: city})
    )
    if in_progress:
        return in_progress[0].backfill_id
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id=make_new_backfill_id(),
        backfill_timestamp=time.time(),
        tags={CITY_TAG: city},
        dynamic_partitions_store=instance,
        asset_graph_subset=partitions_of(asset_graph, city),
        title=f"Regenerate {city}",
        description="Brings every stage up to date; what is unchanged comes out of the store.",
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


def partitions_of(asset_graph: AssetGraph, city: str) -> AssetGraphSubset:
    """All partitions of all assets that belong to a city, and those that train its model."""
    subsets = {}
    for key in asset_graph.materializable_asset_keys:
        partitions = asset_graph.get(key).partitions_def
        assert partitions is not None
        trains = TRAINED_BY[city] if key.to_user_string() in TO_TRAIN_OTHERS else ()
        cities = dict.fromkeys((*trains, city))
        keys = [
            key
            for name in cities
            for key in ([name] if partitions == city_partitions else TILE_KEYS[name])
        ]
        subsets[key] = partitions.subset_with_partition_keys(keys)
    return AssetGraphSubset(partitions_subsets_by_asset_key=subsets)
