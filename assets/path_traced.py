"""The transfer test: reports of test tracks over exact paths, which nothing is trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.checks import conforms, contract
from assets.inputs import SCENE_GEOMETRY, content_of
from assets.partitions import city_partitions, tiles_to_their_city
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import log_progress, stage
from ueloc_core.city import City, load_city
from ueloc_core.provenance import Artifact, ArtifactKey, Store

if TYPE_CHECKING:
    from collections.abc import Mapping

_MODULE = "ueloc_core.measurement.path_traced"
_NAME = "path_traced_measurements"
_TRACED = {"max_depth", "refraction", "scattering", "terminal_height_m"}


@dg.asset(
    name=_NAME,
    partitions_def=city_partitions,
    deps=[
        "measurement_set",
        *(
            dg.AssetDep(name, partition_mapping=tiles_to_their_city)
            for name in ("world_scene", "world_sites")
        ),
    ],
    check_specs=[
        contract(_NAME),
        contract(_NAME, "test_only", "Every report is of a track of the test split."),
    ],
    **stage("measurement", _MODULE, {"sionna", "zarr"}, heavy=True),
)
def path_traced_measurements(
    context: dg.AssetExecutionContext, store: ArtifactStore
) -> dg.MaterializeResult:
    """Reports of test tracks whose levels, delays and angles come from exact paths."""
    from ueloc_core.measurement import path_traced
    from ueloc_core.measurement.dataset import load_reports
    from ueloc_core.measurement.schemas import MeasurementSetSchema

    city = load_city(context.partition_key)
    artifacts = store.open()
    drawn = artifacts.require(ArtifactKey(city.name, "measurement_set"))
    scenes, sites = (
        _of_all_tiles(artifacts, city, name) for name in ("world_scene", "world_sites")
    )

    def compute(out: Path) -> dict[str, Any]:
        folders = ({name: a.path for name, a in tiles.items()} for tiles in (scenes, sites))
        progress = log_progress(context)
        return path_traced.build_path_traced(
            city, load_reports(drawn.path), *folders, out, progress=progress
        )

    artifact = artifacts.materialize(
        ArtifactKey(city.name, _NAME),
        compute,
        code_version=path_traced.CODE_VERSION,
        params=city.params("grid", "window", "radio", "measurements", "seed")
        | {"crs": city.crs_code, "path_traced_reports": city.evaluation.path_traced_reports}
        | {"ray_tracing": city.ray_tracing.model_dump(mode="json", include=_TRACED)},
        inputs=_digests(drawn, scenes, sites),
    )
    reports = load_reports(artifact.path)
    strangers = path_traced.strangers(reports, load_reports(drawn.path, path_traced.IDENTITY))
    checks = [conforms(reports, MeasurementSetSchema), _test_only(strangers)]
    return materialized(
        artifact,
        schema=MeasurementSetSchema,
        data=reports,
        preview="preview.png",
        checks=checks,
    )


def _of_all_tiles(artifacts: Store, city: City, name: str) -> dict[str, Artifact]:
    return {tile: artifacts.require(ArtifactKey(city.name, name, tile)) for tile in city.tile_names}


def _digests(
    drawn: Artifact, scenes: "Mapping[str, Artifact]", sites: "Mapping[str, Artifact]"
) -> dict[str, str]:
    found = {"measurement_set": content_of(drawn, "reports.zarr")}
    for tile, scene in scenes.items():
        found[f"scene/{tile}"] = content_of(scene, *SCENE_GEOMETRY)
        found[f"sectors/{tile}"] = content_of(sites[tile], "sectors.parquet")
    return found


def _test_only(strangers: "Mapping[str, int]") -> dg.AssetCheckResult:
    found = "; ".join(f"{rule}: {count}" for rule, count in strangers.items() if count)
    return dg.AssetCheckResult(
        passed=not found,
        check_name="test_only",
        description=found or "Every report is of a track of the test split.",
        metadata={f"violations/{rule}": count for rule, count in strangers.items()},
    )
