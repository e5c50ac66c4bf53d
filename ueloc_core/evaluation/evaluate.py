"""The evaluation of a city: all methods on the test terminals, figures and report."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ueloc_core.city import SPLITS, City
from ueloc_core.evaluation import calibration_figures, figures, map_figures
from ueloc_core.evaluation.cases import Case, Cases, cases_of, choose_reports, fix_row
from ueloc_core.evaluation.diagnostics import verdicts
from ueloc_core.evaluation.exact import grid_posterior_rows
from ueloc_core.evaluation.figures_of_merit import (
    HEADLINE_METRICS,
    CalibrationError,
    ErrorQuantile,
    MeanEnergyScore,
    MedianArea90,
)
from ueloc_core.evaluation.learned import locunet_rows, network_rows
from ueloc_core.evaluation.metrics import bootstrap_ratios, summarise, summary_dict
from ueloc_core.evaluation.report import write_report
from ueloc_core.evaluation.schemas import FixSchema
from ueloc_core.evaluation.strata import STRATA, by_stratum
from ueloc_core.evaluation.track_cases import SPLIT as TRACKS
from ueloc_core.evaluation.track_cases import track_rows
from ueloc_core.localization.baselines import GridBayes
from ueloc_core.localization.calibrated import Calibration
from ueloc_core.localization.classics import Fingerprints, StrongestSector, WeightedCentroid
from ueloc_core.localization.locunet import LocUNet, train_locunet
from ueloc_core.localization.refinement import Refiner
from ueloc_core.localization.refinement_rule import RefinementRule
from ueloc_core.localization.samples import read_samples
from ueloc_core.localization.trilateration import Trilateration
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.city_reports import CityReports
from ueloc_core.measurement.data_card import data_card, data_card_figure
from ueloc_core.measurement.dataset import load_reports
from ueloc_core.measurement.map_error import PLAIN, load_map_error, plain_settings
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.radio.atlas import MapAtlas

CODE_VERSION = "6"
ATTRIBUTION = "(c) OpenStreetMap contributors, ODbL 1.0"

SUMMARY_METRICS = (*HEADLINE_METRICS, MeanEnergyScore(), MedianArea90(), CalibrationError())
"""What ``summary.json`` holds of each method."""

Progress = Callable[[int, int, str], None]


def build_evaluation(
    city: City,
    atlas: MapAtlas,
    reports: xr.Dataset,
    folders: Mapping[str, Path],
    out: Path,
    progress: Progress | None = None,
    tuning: CityReports | None = None,
) -> dict[str, Any]:
    """Evaluate all methods; write tables, figures, ``summary.json`` and ``report.html``.

    Parameters
    ----------
    city, atlas, reports
        The city, the twin's maps and the measurement set.
    folders
        Folders of ``map_error``, ``posterior_model``, ``calibration`` and
        ``path_traced_measurements``.
    out
        Folder to write to.
    progress
        Called with (reports done, reports, message).
    tuning
        Where the classic rivals choose what they have to choose; by default the city itself.
    """
    map_error = load_map_error(folders["map_error"])
    reader = WindowReader(atlas, MeasurementModel(city.measurements, city.radio, map_error))
    locators = _Locators(
        city, reader, tuning or CityReports(city, atlas, reports), folders, progress
    )
    testing = tested(city, reports)
    cases = cases_of(city, reader, choose_reports(city, reports, testing))
    count = city.evaluation.example_posteriors
    wanted = set(np.linspace(0, len(cases) - 1, count + 2)[1:-1].astype(int).tolist())
    main, masses = locators.locate(cases, wanted)
    traced = load_reports(folders["path_traced_measurements"])
    every = np.ones(traced.sizes["report"], dtype=bool)
    exact, _ = locators.locate(cases_of(city, reader, choose_reports(city, traced, every)))
    parts = [main.assign(split=split_name(city)), exact.assign(split="path_traced")]
    parts.append(track_rows(city, reader, reports, testing, folders, progress))
    fixes = FixSchema.validate(pd.concat(parts, ignore_index=True))
    pictures = [
        _example(atlas, cases.cases[i], cases.batch[i : i + 1], found, main)
        for i, found in masses.items()
    ]
    history = pd.read_parquet(folders["posterior_model"] / "history.parquet")
    facts = {
        "Reports of all splits": _card(reader, reports),
        **_facts(city, reports, map_error),
        "Refinement": {"rule": locators.refiner.rule.note},
    }
    card = data_card_figure(reports)
    return _write(city, atlas, fixes, history, pictures, facts, out, card=card)


def _card(reader: WindowReader, reports: xr.Dataset) -> dict[str, Any]:
    """What the report says of the data set, beside its figure."""
    ids = reader.atlas.sectors.sector_id.to_numpy()
    windows = dict(zip(ids.tolist(), reader.frames, strict=True))
    card = data_card(reports, windows)
    return {name: card[name] for name in _CARD}


_STRATA = tuple(s for s in STRATA if s.name != "split")
_RATIOS = (ErrorQuantile(0.5), ErrorQuantile(0.9), MeanEnergyScore())
_CARD = (
    *("reports", "tracks", "mean_sectors_heard", "outside_window_share", "indoor_share"),
    *("serving_line_of_sight_share", "mean_report_interval_s", "handover_share"),
)
_SHOWN = ("median_m", "p67_m", "p90_m", "nll_nats", "coverage_50", "coverage_90", "energy_score_m")


def split_name(city: City) -> str:
    """What is new in a city's test: the city, the world's map where it is not the twin's, the area.

    >>> from ueloc_core.city import load_city
    >>> [split_name(load_city(name)) for name in ("helsinki", "helsinki_osm", "monaco_unseen")]
    ['test_area', 'mismatch_osm', 'test_city']
    """
    if city.unseen:
        return "test_city"
    mismatch = city.world.mismatch
    return "test_area" if mismatch == "none" else f"mismatch_{mismatch}"


def tested(city: City, reports: xr.Dataset) -> NDArray[np.bool_]:
    """Which reports of a measurement set test a city: the test split, or all if it is unseen.

    Of an unseen city also those count that no split uses, as far as their place is known and on
    its tiles; nothing else uses them either.
    """
    if not city.unseen:
        return np.asarray(reports.split.values == SPLITS.index("test"))
    x_m, y_m = reports.x_m.values, reports.y_m.values
    x0, y0, x1, y1 = city.window_cells.bounds_m
    return np.asarray((x_m >= x0) & (x_m < x1) & (y_m >= y0) & (y_m < y1))


class _PointMethod(Protocol):
    """A method that gives a point alone."""

    def locate(self, report: ReportBatch) -> tuple[float, float]:
        """Estimated (x, y) [m] of one report."""


class _Locators:
    """All methods, those that need it fitted on training or calibration reports."""

    def __init__(
        self,
        city: City,
        reader: WindowReader,
        known: CityReports,
        folders: Mapping[str, Path],
        progress: Progress | None,
    ) -> None:
        self.reader, self.progress = reader, progress
        self.model_folder = folders["posterior_model"]
        self.calibration = Calibration.load(folders["calibration"])
        self.refiner = Refiner(reader, RefinementRule.load(folders["calibration"]))
        plain = load_map_error(folders["map_error"], PLAIN)
        places = reader.places
        self.exact = {
            "oracle": GridBayes(places, reader.model),
            "grid_bayes_twin": GridBayes(
                places, MeasurementModel(plain_settings(city.measurements), city.radio, plain)
            ),
        }
        self.points = _points(places, known)
        self.locunet: LocUNet | None = None
        if city.evaluation.locunet:  # never of an unseen city: its file says so
            train, validation = (
                read_samples(reader, known.reports, s) for s in ("train", "validation")
            )
            self.locunet, _ = train_locunet(city, reader, train, validation, progress)

    def locate(
        self, cases: Cases, wanted: Collection[int] = ()
    ) -> tuple[pd.DataFrame, dict[int, tuple[Any, float, Any]]]:
        """Fixes of all methods; masses of network and oracle of the wanted cases."""
        rows, examples = network_rows(
            self.reader, cases, self.model_folder, self.calibration, self.refiner, wanted
        )
        masses: dict[int, tuple[Any, float, Any]] = {}
        for name, bayes in self.exact.items():
            found, kept = grid_posterior_rows(
                name, bayes, cases, wanted=wanted, progress=self.progress
            )
            rows += found
            if name == "oracle":
                masses = {i: (*examples[i], mass) for i, mass in kept.items()}
        for name, method in self.points.items():
            rows += [
                fix_row(name, case, method.locate(cases.batch[i : i + 1]))
                for i, case in enumerate(cases.cases)
            ]
        if self.locunet is not None:
            rows += locunet_rows(self.reader, cases, self.locunet)
        return pd.DataFrame(rows), masses


def _points(places: PlaceMaps, known: CityReports) -> dict[str, _PointMethod]:
    """The methods that give a point alone over a city's maps, tuned where reports are known."""
    there = PlaceMaps(known.atlas, known.city.measurements)
    knn = Fingerprints.fit(there, known.reports)
    ranges = Trilateration.fit(there, known.reports)
    centroid = WeightedCentroid.fit(there, known.reports)
    return {
        "knn": Fingerprints(places.atlas, knn.neighbours, knn.timing_db_per_m),
        "trilateration": Trilateration(places, ranges.path_loss, ranges.scales),
        "weighted_centroid": WeightedCentroid(places, centroid.exponent, centroid.reach_m),
        "strongest_sector": StrongestSector(places.atlas),
    }


def _example(
    atlas: MapAtlas,
    case: Case,
    report: ReportBatch,
    found: tuple[Any, float, Any],
    fixes: pd.DataFrame,
) -> map_figures.PosteriorExample:
    network, mass90, oracle = found
    mine = fixes[fixes.report == case.report].set_index("method")
    site = atlas.sectors.iloc[int(report.sector[0, 0])]
    count = int(report.heard.sum())
    heard = f"{count} sector heard" if count == 1 else f"{count} sectors heard"
    return map_figures.PosteriorExample(
        title=f"Report {case.report}: {heard}, the network is "
        f"{mine.error_m['network']:.0f} m off, the exact answer {mine.error_m['oracle']:.0f} m",
        window=case.frame,
        masses={"network": network, "oracle": oracle},
        mass90={"network": mass90},
        estimates_m={m: (mine.x_m[m], mine.y_m[m]) for m in ("network", "oracle")},
        truth_m=case.truth_m,
        site_m=(float(site.x_m), float(site.y_m)),
    )


def _facts(city: City, reports: xr.Dataset, map_error: Any) -> Mapping[str, Any]:
    split = reports.split.values
    return {
        "Reports": {
            **{name: int((split == i).sum()) for i, name in enumerate(SPLITS)},
            "unused (guard band)": int((split < 0).sum()),
        },
        "Map error, fitted on training reports": map_error.as_dict(),
        "City": city.model_dump(mode="json", exclude={"source"}),
        "Versions": {"torch": torch.__version__.split("+")[0], "numpy": np.__version__},
    }


def _write(
    city: City,
    atlas: MapAtlas,
    fixes: pd.DataFrame,
    history: pd.DataFrame,
    examples: list[map_figures.PosteriorExample],
    facts: Mapping[str, Any],
    out: Path,
    *,
    card: Figure,
) -> dict[str, Any]:
    footprints = atlas.footprints()
    main = fixes[fixes["split"] == split_name(city)]
    summary = summarise(main)
    drawn = {
        "overview_map": map_figures.overview_map(
            window=atlas.ground,
            rsrp_dbm=atlas.best_server_dbm(),
            footprints=footprints,
            sectors=atlas.sectors,
            fixes=main,
        ),
        "error_cdf": figures.error_cdf(main),
        "success": figures.success_bars(main),
        "error_histogram": figures.error_histogram(main),
        "error_box": figures.error_box(main),
        "error_by_stratum": figures.error_by_stratum(_few(main), _STRATA),
        "coverage": calibration_figures.coverage(main),
        "reliability": calibration_figures.reliability_by_stratum(_few(main), _STRATA),
        "pit": calibration_figures.pit_histograms(_few(main)),
        "tarp": calibration_figures.tarp(_few(main)),
        "data_card": card,
        "training_curves": figures.training_curves(history),
        **{
            f"posterior_{k}": map_figures.posterior_panels(example, footprints)
            for k, example in enumerate(examples)
        },
    }
    if (fixes["split"] == TRACKS).any():
        drawn["tracks_cdf"] = figures.error_cdf(fixes[fixes["split"] == TRACKS])
    images = {name: figures.png(figure) for name, figure in drawn.items()}
    (out / "figures").mkdir()
    for name, image in images.items():
        (out / "figures" / f"{name}.png").write_bytes(image)
    fixes.to_parquet(out / "fixes.parquet", index=False)
    summary.to_parquet(out / "metrics.parquet", index=False)
    by_stratum(main, _STRATA).to_parquet(out / "strata.parquet", index=False)
    verdicts(main).to_parquet(out / "verdicts.parquet", index=False)
    bootstrap_ratios(main, _RATIOS, cluster="track").to_parquet(out / "ratios.parquet", index=False)
    splits = {
        str(name): summary_dict(part, SUMMARY_METRICS) for name, part in fixes.groupby("split")
    }
    (out / "summary.json").write_text(json.dumps({"splits": splits}, indent=1))
    write_report(
        out / "report.html",
        city=city,
        summary=summary,
        fixes=main,
        history=history,
        figures=images,
        facts=facts,
        attribution=ATTRIBUTION,
    )
    numbers = splits[split_name(city)]
    oracle, network = numbers["oracle"], numbers["network"]
    return {
        "reports": network["n"],
        **{
            f"{method}_{name}": values[name]
            for method, values in numbers.items()
            for name in _SHOWN
            if values.get(name) is not None
        },
        "gap_to_oracle_nats": _difference(network["nll_nats"], oracle["nll_nats"]),
        "median_over_oracle": _ratio(network["median_m"], oracle["median_m"]),
    }


def _few(fixes: pd.DataFrame) -> pd.DataFrame:
    """The methods with a density: those whose uncertainty can be judged."""
    return fixes[fixes["hpd_level"].notna()]


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b
