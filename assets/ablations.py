"""What each part of the network and each layer of the reports is worth: only when asked for."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.checks import LEARNED, conforms, contract, nothing_tested_is_learned
from assets.inputs import CityInputs, TrainingInputs, content_of, place_params
from assets.partitions import ABLATION_DATA, city_partitions
from assets.resources import ArtifactStore
from assets.results import materialized
from assets.stages import Progress, code_version, log_progress, stage
from ueloc_core.city import City, load_city
from ueloc_core.provenance import Artifact, ArtifactKey, Store, fingerprint_of

if TYPE_CHECKING:
    from ueloc_core.evaluation.ablations import AblationData, Part

_MODULE = "ueloc_core.evaluation.ablations"
_CODE = (_MODULE, "ueloc_core.localization.training", "ueloc_core.evaluation.evaluate")
_SECTIONS = ("grid", "window", "radio", "measurements", "seed")


@dg.asset(
    partitions_def=city_partitions,
    deps=["map_error", *ABLATION_DATA],
    check_specs=[contract("ablations"), contract("ablations", "no_leak", LEARNED)],
    **stage("evaluation", _MODULE, {"torch", "matplotlib"}, heavy=True)
    | {"automation_condition": None},
)
def ablations(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
    """The network without one part each, trained alike, next to the whole one and the oracle.

    Each variant is stored on its own, so a run that was killed goes on with the first that it
    lacks, and only what has changed is computed again.
    """
    import pandas as pd

    from ueloc_core.evaluation.ablation_table import AblationSchema
    from ueloc_core.evaluation.ablations import FIGURES, FIXES, build_ablations

    city = load_city(context.partition_key)
    run = _Run.of(city, store.open(), context)
    parts = run.parts()

    def compute(out: Path) -> dict[str, Any]:
        return build_ablations(city, {name: part.path for name, part in parts.items()}, out)

    artifact = run.artifacts.materialize(
        ArtifactKey(city.name, "ablations"),
        compute,
        code_version=code_version(_MODULE),
        params=city.params("ablations", "seed"),
        inputs={name: content_of(part, FIXES, FIGURES) for name, part in parts.items()},
    )
    table = pd.read_parquet(artifact.path / "ablations.parquet")
    checks = [conforms(table, AblationSchema), nothing_tested_is_learned(run.training)]
    result = materialized(artifact, schema=AblationSchema, preview="ablations.png", checks=checks)
    text = dg.MetadataValue.md((artifact.path / "ablations.md").read_text(encoding="utf-8"))
    computed = [name for name, part in parts.items() if not part.cached]
    return result._replace(
        metadata={**(result.metadata or {}), "table": text, "parts_computed": computed}
    )


@dataclass(frozen=True)
class _Run:
    """The parts of the ablations of a city, each an artifact of its own.

    Attributes
    ----------
    city
        The city.
    artifacts
        The store.
    tested, training
        What is read of the city, and of the cities that train.
    context
        Takes the log.
    """

    city: City
    artifacts: Store
    tested: CityInputs
    training: TrainingInputs
    context: dg.AssetExecutionContext

    @classmethod
    def of(cls, city: City, artifacts: Store, context: dg.AssetExecutionContext) -> "_Run":
        """What is to be read of the store.

        Raises
        ------
        StoreError
            If something has not been computed or is damaged.
        """
        tested = CityInputs.require(artifacts, city, "map_error")
        return cls(city, artifacts, tested, TrainingInputs.require(artifacts, city), context)

    def parts(self) -> dict[str, Artifact]:
        """All parts by name; those that the store lacks are computed."""
        from ueloc_core.evaluation.ablation_variants import REFERENCE
        from ueloc_core.evaluation.ablations import parts_of

        found: dict[str, Artifact] = {}
        every = parts_of(self.city)
        for number, part in enumerate(every):
            self.context.log.info("%d/%d %s", number + 1, len(every), part.name)
            network = found[REFERENCE] if part.reads_network else None
            found[part.name] = self._part(part, network)
        return found

    def _part(self, part: "Part", network: Artifact | None) -> Artifact:
        from ueloc_core.evaluation.ablations import CHECKPOINT

        inputs = self.tested.digests
        if part.learns:
            inputs |= self.training.digests
        if network is not None:
            inputs |= {"network": content_of(network, CHECKPOINT)}
        key = ArtifactKey(self.city.name, "ablations", part.name)
        identity: dict[str, Any] = {
            "code_version": "-".join(map(code_version, _CODE)),
            "params": self.city.params(*_SECTIONS) | place_params(self.city) | part.params,
            "inputs": inputs,
        }

        def compute(out: Path) -> dict[str, Any]:
            from ueloc_core.evaluation.ablations import Work
            from ueloc_core.localization.resume import ResumePoint

            work = Work(
                data=self.data,
                network=None if network is None else network.path,
                progress=self._progress(part.name),
                resume=ResumePoint(self.artifacts.scratch(key), fingerprint_of(key, **identity)),
            )
            return part.compute(work, out)

        return self.artifacts.materialize(key, compute, **identity)

    @cached_property
    def data(self) -> "AblationData":
        """Reports and maps, loaded when the first part is computed."""
        from ueloc_core.evaluation.ablations import AblationData

        training = self.training.load()
        of_city = {one.city.name: one for one in training}
        tested = of_city.get(self.city.name) or self.tested.reports_with_maps()
        return AblationData(tested, tuple(training), *self.tested.folders("map_error"))

    def _progress(self, name: str) -> Progress:
        tell = log_progress(self.context)
        return lambda done, total, message: tell(done, total, f"{name}: {message}")
