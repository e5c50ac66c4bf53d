"""Ablations: what each part of the network and each layer of the reports is worth.

A variant is the network with one thing changed. All are trained on the same reports in the same
order, with the same seed and for as long, and tested on the same test reports; their posteriors
are taken as they come, without calibration, so that a variant that is too sure of itself shows
as such. The oracle is told the same fields of the reports as the variant beside it. All use the
map error that was fitted on whole reports.

What a variant needs is a part of its own, which is stored apart: a killed run goes on with the
first part that it lacks, and a new variant asks for no other one again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch

from ueloc_core.city import SPLITS, City
from ueloc_core.errors import ReportError
from ueloc_core.evaluation.ablation_chart import ablation_figure
from ueloc_core.evaluation.ablation_table import (
    ablation_dict,
    ablation_markdown,
    ablation_table,
)
from ueloc_core.evaluation.ablation_variants import (
    ORACLES,
    REFERENCE,
    VARIANTS,
    Variant,
    variants_of,
    with_budget,
)
from ueloc_core.evaluation.cases import Cases, cases_of, choose_reports
from ueloc_core.evaluation.exact import grid_posterior_rows
from ueloc_core.evaluation.learned import network_rows
from ueloc_core.evaluation.palette import png
from ueloc_core.evaluation.refining import Known, fit_refinement
from ueloc_core.evaluation.schemas import FixSchema
from ueloc_core.localization import training
from ueloc_core.localization.baselines import GridBayes
from ueloc_core.localization.calibrated import Calibration
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.refinement import Refiner
from ueloc_core.localization.refinement_rule import (
    RULE_VERSION,
    RefinementOutcome,
    RefinementRule,
)
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.city_reports import CityReports
from ueloc_core.measurement.map_error import load_map_error
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.measurement.reduced_reports import reduced

if TYPE_CHECKING:
    from ueloc_core.localization.resume import ResumePoint

CODE_VERSION = "1"
FIXES, FIGURES = "fixes.parquet", "figures.json"
CHECKPOINT = "checkpoint.pt"

Progress = Callable[[int, int, str], None]

_TRAINED = ("parameters", "train_reports", "steps", "best_epoch", "best_validation_nll_nats")


@dataclass(frozen=True)
class AblationData:
    """What the parts read.

    Attributes
    ----------
    tested
        Reports and maps of the city, of which the test reports are located.
    training
        Reports and maps of the cities that train.
    map_error_folder
        Folder of the fitted map error.
    """

    tested: CityReports
    training: tuple[CityReports, ...]
    map_error_folder: Path

    def reader(self, of: CityReports) -> WindowReader:
        """Sees reports in the windows of a city."""
        map_error = load_map_error(self.map_error_folder)
        model = MeasurementModel(of.city.measurements, of.city.radio, map_error)
        return WindowReader(of.atlas, model)

    def reduced(self, features: tuple[str, ...]) -> "AblationData":
        """The same with reports that hold some features alone."""
        tested, *others = (
            replace(of, reports=reduced(of.reports, features))
            for of in (self.tested, *self.training)
        )
        return replace(self, tested=tested, training=tuple(others))

    def cases(self, city: City, reader: WindowReader) -> Cases:
        """The test reports, the same ones whatever features they hold."""
        test = self.tested.reports.split.values == SPLITS.index("test")
        return cases_of(city, reader, choose_reports(city, self.tested.reports, test))

    def known(self) -> list[Known]:
        """One calibration report of each track, by training city.

        Raises
        ------
        ReportError
            If there is none.
        """
        found = []
        for of in self.training:
            held = np.flatnonzero(of.reports.split.values == SPLITS.index("calibration"))
            _, first = np.unique(of.reports.track.values[held], return_index=True)
            if len(first):
                chosen = of.reports.isel(report=held[np.sort(first)])
                found.append((self.reader(of), chosen))
        if not found:
            raise ReportError(
                "there is no calibration report to learn from when to refine",
                where="splits.calibration",
                remedy="Name tiles there, or leave 'refined' out of ablations.variants.",
            )
        return found


@dataclass(frozen=True)
class Work:
    """What a part is computed from.

    Attributes
    ----------
    data
        Reports and maps.
    network
        Folder of the part that trained the whole network, for parts that read it.
    progress
        Called with (done, total, message).
    resume
        Where the state of a training is kept, to go on after a kill; by default nowhere.
    """

    data: AblationData
    network: Path | None = None
    progress: Progress | None = None
    resume: "ResumePoint | None" = None


class Part(Protocol):
    """What is computed and stored on its own: the fixes of one method."""

    @property
    def name(self) -> str:
        """Of the method."""

    @property
    def params(self) -> dict[str, Any]:
        """What its result depends on beside the data and the city's own settings."""

    @property
    def reads_network(self) -> bool:
        """Whether it reads the part that trained the whole network."""

    @property
    def learns(self) -> bool:
        """Whether it reads the training cities."""

    def compute(self, work: Work, out: Path) -> dict[str, Any]:
        """Write `FIXES` and `FIGURES` into an empty folder; returns what is in the latter."""


@dataclass(frozen=True)
class TrainedPart:
    """A network that is trained, and locates; its `CHECKPOINT` and history are kept."""

    city: City
    variant: Variant
    reads_network: bool = False
    learns: bool = True

    @property
    def name(self) -> str:
        """That of the variant."""
        return self.variant.name

    @property
    def params(self) -> dict[str, Any]:
        """Training, fields and number of test reports."""
        tested = _tested(self.city, self.name, self.variant.features)
        return tested | with_budget(self.city, self.variant).params("training")

    def compute(self, work: Work, out: Path) -> dict[str, Any]:
        """As `Part` says."""
        city, data = with_budget(self.city, self.variant), work.data.reduced(self.variant.features)
        figures: dict[str, Any] = {"steps": 0}
        if self.variant.trained:
            found = training.build_posterior_model(
                city,
                data.training,
                data.map_error_folder,
                out,
                progress=work.progress,
                resume=work.resume,
            )
            figures = {key: found[key] for key in _TRAINED}
        else:
            _save_untrained(city, out)
        reader = data.reader(data.tested)
        refiner = Refiner(reader, RefinementRule.never())
        rows, _ = network_rows(reader, data.cases(city, reader), out, Calibration(), refiner)
        _write(_of("network", rows), self.name, figures, out)
        return figures


def _save_untrained(city: City, out: Path) -> None:
    """The network with which every training of this seed begins."""
    settings = training.network_settings(city)
    torch.manual_seed(city.seed)
    weights = PosteriorNetwork(**settings).state_dict()
    torch.save({"network": weights, "settings": settings}, out / CHECKPOINT)


_ALWAYS = RefinementRule(
    acts=True, temperature=1.0, spread_m=0.0, gain_nats=0.0, note="every point, untempered"
)


@dataclass(frozen=True)
class RefinedPart:
    """The whole network's points, refined on the maps."""

    city: City
    variant: Variant
    reads_network: bool = True

    @property
    def learns(self) -> bool:
        """A rule, or nothing."""
        return self.variant.refinement == "by_rule"

    @property
    def name(self) -> str:
        """That of the variant."""
        return self.variant.name

    @property
    def params(self) -> dict[str, Any]:
        """How points are refined, and the number of test reports."""
        tested = _tested(self.city, self.name, self.variant.features)
        rule = {"rule": RULE_VERSION} if self.learns else {}
        return tested | {"refinement": self.variant.refinement} | rule

    def compute(self, work: Work, out: Path) -> dict[str, Any]:
        """As `Part` says."""
        data, folder = work.data, work.network
        assert folder is not None
        city, reader = with_budget(self.city, self.variant), data.reader(data.tested)
        rule = _ALWAYS
        if self.variant.refinement == "by_rule":
            network = training.load_network(folder)
            rule = fit_refinement(network, data.known(), Calibration(), work.progress)
        refiner = Refiner(reader, rule)
        rows, _ = network_rows(reader, data.cases(city, reader), folder, Calibration(), refiner)
        whole, refined = _of("network", rows), _of("network_refined", rows)
        before, after = (np.array([row["error_m"] for row in of]) for of in (whole, refined))
        acted = np.array([row["refined"] for row in refined])
        outcome = RefinementOutcome.of(acted, before, after)
        figures: dict[str, Any] = {
            "rule": rule.note,
            "acted_share": outcome.acted_share,
            "helped_share": outcome.helped_share,
            "worse_share": outcome.worse_share,
        }
        _write(refined, self.name, figures, out)
        return figures


@dataclass(frozen=True)
class OraclePart:
    """The exact grid posterior of reports with some fields."""

    city: City
    features: tuple[str, ...]
    reads_network: bool = False
    learns: bool = False

    @property
    def name(self) -> str:
        """As `Variant.oracle` names it."""
        return ORACLES[self.features]

    @property
    def params(self) -> dict[str, Any]:
        """Fields and number of test reports."""
        return _tested(self.city, self.name, self.features)

    def compute(self, work: Work, out: Path) -> dict[str, Any]:
        """As `Part` says."""
        data = work.data.reduced(self.features)
        reader = data.reader(data.tested)
        cases = data.cases(with_budget(self.city, VARIANTS[REFERENCE]), reader)
        bayes = GridBayes(reader.places, reader.model)
        rows, _ = grid_posterior_rows(self.name, bayes, cases, progress=work.progress)
        _write(rows, self.name, {}, out)
        return {}


def parts_of(city: City) -> tuple[Part, ...]:
    """What the ablations of a city consist of; the whole network is the first."""
    variants = variants_of(city)
    networks: list[Part] = [
        TrainedPart(city, v) if v.refinement == "never" else RefinedPart(city, v) for v in variants
    ]
    told = dict.fromkeys(v.features for v in variants)
    return (*networks, *(OraclePart(city, features) for features in told))


def build_ablations(city: City, folders: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Compare the variants; write tables, ``ablations.json``, ``ablations.md`` and the figure.

    ``ablations.parquet`` holds a row per method and metric (`AblationSchema`), `FIXES` those of
    all methods, ``ablations.png`` is the figure.

    Parameters
    ----------
    city
        The city: its variants and their budget.
    folders
        Folders of the parts by their names.
    out
        Folder to write to.
    """
    variants = variants_of(city)
    read = [pd.read_parquet(folders[part.name] / FIXES) for part in parts_of(city)]
    fixes = FixSchema.validate(pd.concat(read, ignore_index=True))
    table = ablation_table(variants, fixes)
    fixes.to_parquet(out / FIXES, index=False)
    table.to_parquet(out / "ablations.parquet", index=False)
    budget = city.params("ablations")["ablations"] | {"seed": city.seed}
    methods = ablation_dict(table, variants)
    for name, folder in folders.items():
        methods[name] |= json.loads((folder / FIGURES).read_text())
    found = {"reference": REFERENCE, "budget": budget, "methods": methods}
    (out / "ablations.json").write_text(json.dumps(found, indent=1))
    (out / "ablations.md").write_text(ablation_markdown(table) + "\n", encoding="utf-8")
    (out / "ablations.png").write_bytes(png(ablation_figure(table)))
    medians = table[table["metric"] == "median_m"].set_index("method")["value"]
    return {"reports": int(table["n"].iloc[0])} | {
        f"{method}_median_m": float(value) for method, value in medians.items()
    }


def _tested(city: City, name: str, features: tuple[str, ...]) -> dict[str, Any]:
    most = city.ablations.max_reports
    return {"name": name, "features": list(features), "max_reports": most}


def _of(method: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["method"] == method]


def _write(rows: list[dict[str, Any]], name: str, figures: dict[str, Any], out: Path) -> None:
    """Write fixes, without the time that they took: the same fixes are the same file."""
    fixes = FixSchema.validate(pd.DataFrame(rows).drop(columns="latency_ms").assign(method=name))
    fixes.to_parquet(out / FIXES, index=False)
    (out / FIGURES).write_text(json.dumps(figures, indent=1))
