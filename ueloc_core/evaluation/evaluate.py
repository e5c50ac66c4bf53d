"""The evaluation of a city: all methods on the test terminals, figures and report."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from ueloc_core.city import SPLITS, City
from ueloc_core.evaluation import figures, map_figures
from ueloc_core.evaluation.metrics import hpd_area_m2, hpd_level, summarise, summary_dict
from ueloc_core.evaluation.report import write_report
from ueloc_core.evaluation.schemas import FixSchema
from ueloc_core.grid import Window
from ueloc_core.localization.baselines import GridBayes, geometric_median
from ueloc_core.localization.calibrated import Calibration, FeatureReader
from ueloc_core.localization.classics import Fingerprints, StrongestSector
from ueloc_core.localization.localize import posterior_rasters
from ueloc_core.localization.training import load_network, predict, read_samples
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.dataset import to_batch
from ueloc_core.measurement.map_error import load_map_error
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.radio.atlas import MapAtlas

CODE_VERSION = "2"
ATTRIBUTION = "(c) OpenStreetMap contributors, ODbL 1.0"

Progress = Callable[[int, int, str], None]

_PROGRESS_EVERY = 50


@dataclass(frozen=True)
class _Case:
    """One test report: what every method is judged on."""

    index: int
    sector_id: int
    frame: Window
    truth_m: tuple[float, float]
    rank: float  # uniform draw that breaks ties of the level of highest density


def build_evaluation(
    city: City,
    atlas: MapAtlas,
    reports: xr.Dataset,
    map_error_folder: Path,
    model_folder: Path,
    calibration_folder: Path,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate all methods; write tables, figures, ``summary.json`` and ``report.html``.

    Parameters
    ----------
    city, atlas, reports
        The city, the twin's maps and the measurement set.
    map_error_folder, model_folder, calibration_folder
        Folders of the map error, the trained model and its calibration.
    out
        Folder to write to.
    progress
        Called with (reports done, reports, message).
    """
    map_error = load_map_error(map_error_folder)
    model = MeasurementModel(city.measurements, city.radio, map_error)
    reader = WindowReader(atlas, model)
    chosen = _test_reports(city, reports)
    batch = to_batch(chosen, atlas)
    rng = np.random.default_rng([city.seed, 9])
    cases = [
        _Case(
            index=int(chosen.track[i]),
            sector_id=int(chosen.sector_id[i, 0]),
            frame=reader.frames[int(batch.sector[i, 0])],
            truth_m=(float(chosen.x_m[i]), float(chosen.y_m[i])),
            rank=float(rng.uniform()),
        )
        for i in range(len(batch))
    ]
    calibration = Calibration.load(calibration_folder)
    network_rows, examples = _network(city, reader, chosen, cases, model_folder, calibration)
    oracle_rows, oracle_masses = _oracle(
        GridBayes(reader.places, model), batch, cases, set(examples), progress
    )
    fixes = pd.DataFrame([*network_rows, *oracle_rows, *_classics(city, atlas, batch, cases)])
    fixes = FixSchema.validate(fixes)
    pictures = [
        _example(atlas, cases[i], batch[i : i + 1], (mass, oracle_masses[i]), mass90, fixes)
        for i, (mass, mass90) in examples.items()
    ]
    history = pd.read_parquet(model_folder / "history.parquet")
    return _write(city, atlas, fixes, history, pictures, _facts(city, reports, map_error), out)


def _test_reports(city: City, reports: xr.Dataset) -> xr.Dataset:
    """A seeded choice of test reports, ordered by serving sector so that maps are reused."""
    test = np.flatnonzero(reports.split.values == SPLITS.index("test"))
    rng = np.random.default_rng([city.seed, 10])
    picked = rng.permutation(test)[: city.evaluation.max_reports]
    order = np.lexsort((picked, reports.sector_id.values[picked, 0]))
    return reports.isel(report=picked[order])


def _network(
    city: City,
    reader: WindowReader,
    chosen: xr.Dataset,
    cases: list[_Case],
    model_folder: Path,
    calibration: Calibration,
) -> tuple[list[dict[str, Any]], dict[int, Any]]:
    """Rows of the network; masses and the 90% region's of some examples by the case's position."""
    features = FeatureReader(reader)
    samples = read_samples(reader, chosen, split=None)
    wanted = set(
        np.linspace(0, len(cases) - 1, city.evaluation.example_posteriors + 2)[1:-1].astype(int)
    )
    rows, examples = [], {}
    for part, posterior, inputs in predict(load_network(model_folder), reader, samples):
        correction = features.corrections(calibration, samples.reports[part], posterior)
        log_density = correction.of(posterior).log_density(inputs.truth_m)
        masses, _ = posterior_rasters(posterior, correction)
        mass90 = correction.region_level(0.9)
        for k, mass in enumerate(masses):
            case = cases[part.start + k]
            level = correction[k : k + 1].nominal_level(_level(case, mass))
            rows.append(
                _row(
                    "network",
                    case,
                    geometric_median(mass, case.frame),
                    nll_nats=-float(log_density[k]),
                    hpd_level=float(level[0]),
                    area90_m2=_area(mass, float(mass90[k]), case.frame),
                )
            )
            if part.start + k in wanted:
                examples[part.start + k] = mass, float(mass90[k])
    return rows, examples


def _oracle(
    bayes: GridBayes,
    batch: ReportBatch,
    cases: list[_Case],
    wanted: set[int],
    progress: Progress | None,
) -> tuple[list[dict[str, Any]], dict[int, Any]]:
    """Rows of the exact grid posterior, and its masses for the wanted examples."""
    rows, masses = [], {}
    for i, case in enumerate(cases):
        exact = bayes.posterior(batch[i : i + 1])
        mass = exact.in_frame(case.frame)
        rows.append(
            _row(
                "oracle",
                case,
                geometric_median(exact.mass, exact.window),
                nll_nats=exact.nll_nats(*case.truth_m),
                hpd_level=_level(case, exact.mass, exact.window),
                area90_m2=_area(exact.mass, 0.9, exact.window),
            )
        )
        if i in wanted:
            masses[i] = mass
        if progress is not None and (i + 1) % _PROGRESS_EVERY == 0:
            progress(i + 1, len(cases), "exact grid posterior")
    return rows, masses


def _classics(
    city: City, atlas: MapAtlas, batch: ReportBatch, cases: list[_Case]
) -> list[dict[str, Any]]:
    methods = {
        "knn": Fingerprints(atlas, city.evaluation.knn_neighbours),
        "strongest_sector": StrongestSector(atlas),
    }
    return [
        _row(name, case, method.locate(batch[i : i + 1]))  # type: ignore[attr-defined]
        for name, method in methods.items()
        for i, case in enumerate(cases)
    ]


def _row(
    method: str,
    case: _Case,
    estimate_m: tuple[float, float],
    *,
    nll_nats: float = np.nan,
    hpd_level: float = np.nan,
    area90_m2: float = np.nan,
) -> dict[str, Any]:
    x_m, y_m = case.truth_m
    return {
        "method": method,
        "report": case.index,
        "sector_id": case.sector_id,
        "x_m": estimate_m[0],
        "y_m": estimate_m[1],
        "truth_x_m": x_m,
        "truth_y_m": y_m,
        "error_m": float(np.hypot(estimate_m[0] - x_m, estimate_m[1] - y_m)),
        "nll_nats": nll_nats,
        "hpd_level": hpd_level,
        "area90_m2": area90_m2,
        "in_window": bool(case.frame.contains(x_m, y_m)),
    }


def _level(case: _Case, mass: Any, window: Window | None = None) -> float:
    row, column = (window or case.frame).indices(*case.truth_m)
    return float(hpd_level(mass, int(row), int(column), case.rank))


def _area(mass: Any, level: float, window: Window) -> float:
    return float(hpd_area_m2(mass, level, window.cell_m))


def _example(
    atlas: MapAtlas,
    case: _Case,
    report: ReportBatch,
    masses: tuple[Any, Any],
    mass90: float,
    fixes: pd.DataFrame,
) -> map_figures.PosteriorExample:
    mine = fixes[fixes.report == case.index].set_index("method")
    site = atlas.sectors.iloc[int(report.sector[0, 0])]
    heard = int(report.heard.sum())
    return map_figures.PosteriorExample(
        title=f"Terminal {case.index}: {heard} sectors heard, the network is "
        f"{mine.error_m['network']:.0f} m off, the exact answer {mine.error_m['oracle']:.0f} m",
        window=case.frame,
        masses=dict(zip(("network", "oracle"), masses, strict=True)),
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
) -> dict[str, Any]:
    footprints = atlas.footprints()
    summary = summarise(fixes)
    drawn = {
        "overview_map": map_figures.overview_map(
            window=atlas.ground,
            rsrp_dbm=atlas.best_server_dbm(),
            footprints=footprints,
            sectors=atlas.sectors,
            fixes=fixes,
        ),
        "error_cdf": figures.error_cdf(fixes),
        "error_histogram": figures.error_histogram(fixes),
        "error_box": figures.error_box(fixes),
        "coverage": figures.coverage(fixes),
        "training_curves": figures.training_curves(history),
        **{
            f"posterior_{k}": map_figures.posterior_panels(example, footprints)
            for k, example in enumerate(examples)
        },
    }
    images = {name: figures.png(figure) for name, figure in drawn.items()}
    (out / "figures").mkdir()
    for name, image in images.items():
        (out / "figures" / f"{name}.png").write_bytes(image)
    fixes.to_parquet(out / "fixes.parquet", index=False)
    summary.to_parquet(out / "metrics.parquet", index=False)
    numbers = summary_dict(fixes)
    (out / "summary.json").write_text(json.dumps({"splits": {"test": numbers}}, indent=1))
    write_report(
        out / "report.html",
        city=city,
        summary=summary,
        fixes=fixes,
        history=history,
        figures=images,
        facts=facts,
        attribution=ATTRIBUTION,
    )
    oracle, network = numbers["oracle"], numbers["network"]
    return {
        "reports": network["n"],
        **{
            f"{method}_{name}": value
            for method, values in numbers.items()
            for name, value in values.items()
            if name != "n" and value is not None
        },
        "gap_to_oracle_nats": _difference(network["nll_nats"], oracle["nll_nats"]),
        "median_over_oracle": _ratio(network["median_m"], oracle["median_m"]),
    }


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b
