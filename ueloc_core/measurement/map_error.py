"""The twin's map error, fitted on training reports by maximum likelihood.

What an engineer would learn from a drive test: at known places, the reports say how far the
maps are off. It is the same likelihood that locates, maximised over the error's parameters. The
reports may be of several cities: the error is then what their maps have in common.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ueloc_core.city import City
from ueloc_core.errors import ReportError, StoreError
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.city_reports import CityReports, in_split, names_of, taken
from ueloc_core.measurement.dataset import to_batch
from ueloc_core.measurement.level_tables import log_prob_over
from ueloc_core.measurement.levels import LevelLikelihood, LevelMaps, MapError
from ueloc_core.measurement.model import MeasurementModel, ServingMaps
from ueloc_core.measurement.place_maps import Around, PlaceMaps
from ueloc_core.measurement.quality import QualityLikelihood
from ueloc_core.measurement.reports import MISSING
from ueloc_core.measurement.settings import MeasurementConfig

CODE_VERSION = "5"

FITTED, PLAIN = "map_error", "plain_error"
"""Names of the files: the whole error, and Gaussian noise of one tuned width."""

_MAX_REPORTS = 400
_MIN_REPORTS = 50
_STEPS = 60
_LEARNING_RATE = 0.15
_START = MapError(
    core_db=1.0,
    core_per_se=1.0,
    tail_logit=-2.0,
    tail_per_db=0.1,
    tail_per_10db=0.1,
    tail_db=12.0,
    tail_bias_db=0.0,
    unhit_dbm=-135.0,
    unhit_db=12.0,
    common_db=1.0,
    site_db=1.0,
    total_db=2.0,
)
_FITTED = (
    *("core_db", "core_per_se", "tail_logit", "tail_per_db", "tail_per_10db", "tail_db"),
    *("tail_bias_db", "unhit_dbm", "unhit_db", "common_db", "site_db"),
)
_SEARCHED: tuple[dict[str, tuple[float, ...]], ...] = (
    {
        "delay_core_ns": (0.0, 3.0, 8.0, 20.0, 50.0),
        "delay_tail_share": (0.0, 0.02, 0.06, 0.15),
        "delay_tail_ns": (100.0, 400.0),
    },
    {
        "azimuth_core_deg": (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0),
        "azimuth_tail_share": (0.0, 0.02, 0.05, 0.1, 0.2, 0.4),
    },
    {"beam_db": (0.0, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0)},
)
_EXPONENTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
_EXPONENT_REPORTS = 120
_SERVING_REPORTS = 200
_PLAIN_REPORTS, _ROUGHLY = 60, 12  # the second choose the three widths that all are asked of
_PLAIN_SIGMAS_DB = (3.0, 4.5, 6.0, 8.0, 11.0, 15.0, 20.0, 27.0)
_FIT_STEP_DB = 2.0  # of the shifts: what a fit needs
_POSITIVE = ("core_db", "core_per_se", "tail_db", "unhit_db", "common_db", "site_db")


Located = tuple[CityReports, PlaceMaps]
"""Reports with their true positions, and the maps of their city."""


@dataclass(frozen=True)
class Survey:
    """Reports of one city from known places, and what the twin's maps say there.

    Attributes
    ----------
    city
        Measurement settings and radio.
    reports
        n reports.
    levels, serving
        The twin's maps where they come from, one place each.
    """

    city: City
    reports: ReportBatch
    levels: LevelMaps
    serving: ServingMaps

    @classmethod
    def of(cls, one: CityReports, places: PlaceMaps) -> "Survey":
        """The survey of reports with their true positions, by the maps of their city."""
        batch = to_batch(one.reports, one.atlas)
        x_m, y_m = one.reports.x_m.values, one.reports.y_m.values
        serving = places.serving_at(batch.sector[:, 0].numpy(), x_m, y_m)
        return cls(one.city, batch, places.levels_at(x_m, y_m), serving)

    def rows(self, chosen: Tensor) -> "Survey":
        """Some of its reports."""
        maps = self.levels
        levels = LevelMaps(
            maps.rsrp_dbm[chosen], maps.se_db[chosen], maps.noise_db[chosen], maps.site
        )
        return Survey(self.city, self.reports[chosen], levels, self.serving.rows(chosen))


def build_map_error(city: City, sets: Sequence[CityReports], out: Path) -> dict[str, Any]:
    """Fit `MapError` on the training reports and write ``map_error.json``.

    Parameters
    ----------
    city
        The city that it is fitted for: its seed.
    sets
        Measurement sets of the cities that train it, with the twin's maps.
    out
        Folder to write to.
    """
    train = in_split(sets, "train")
    if len(train) < _MIN_REPORTS:
        raise ReportError(
            f"{len(train)} training reports are too few to fit the map error",
            where=f"{', '.join(names_of(sets))}: measurements.tracks.tracks_per_hectare",
            remedy=f"At least {_MIN_REPORTS} are needed.",
        )
    rng = np.random.default_rng([city.seed, 6])
    places = [PlaceMaps(one.atlas, one.city.measurements) for one in sets]
    chosen = np.sort(rng.permutation(train)[:_MAX_REPORTS])
    parts = zip(taken(sets, chosen), places, strict=True)
    surveys = [Survey.of(part, maps) for part, maps in parts if len(part)]
    fitted, before, after = fit(surveys)
    fitted = fit_serving(surveys, fitted)
    chosen_too = taken(sets, np.sort(rng.permutation(train)[:_EXPONENT_REPORTS]))
    located = list(zip(chosen_too, places, strict=True))
    fitted, nll = fit_exponent(located, fitted)
    plain, plain_nll = fit_plain(located, fitted)
    for name, error in ((FITTED, fitted), (PLAIN, plain)):
        (out / f"{name}.json").write_text(json.dumps(error.as_dict(), indent=1))
    return {
        "cities": names_of(sets),
        "reports": len(chosen),
        "position_nll_nats": nll,
        "plain_position_nll_nats": plain_nll,
        "plain_core_db": float(plain.core_db),
        "nats_per_report_before": before,
        "nats_per_report_after": after,
        **fitted.as_dict(),
    }


def load_map_error(folder: Path, name: str = FITTED) -> MapError:
    """Read a fitted error: `FITTED`, or `PLAIN` for the tuned Gaussian noise of a rival.

    Raises
    ------
    StoreError
        If it is missing or has other fields.
    """
    path = folder / f"{name}.json"
    try:
        return MapError(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(
            f"map error cannot be read ({error})",
            where=str(path),
            remedy="Materialize map_error again.",
        ) from error


def fit(surveys: Sequence[Survey]) -> tuple[MapError, float, float]:
    """Maximise the likelihood of levels at known places over the map error.

    Parameters
    ----------
    surveys
        Reports with the twin's levels where they come from, by city.

    Returns
    -------
    tuple
        The fitted error, and the mean negative log-likelihood before and after [nats].
    """
    raw = {
        name: torch.tensor(_to_raw(name, getattr(_START, name)), requires_grad=True)
        for name in _FITTED
    }

    def current() -> MapError:
        return MapError(**{name: _from_raw(name, value) for name, value in raw.items()})

    def log_prob(survey: Survey, error: MapError) -> Tensor:
        levels = LevelLikelihood(survey.city.measurements, error, _FIT_STEP_DB)
        return levels.direct(survey.reports, survey.levels)

    optimiser = torch.optim.Adam(raw.values(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS, _LEARNING_RATE / 10)
    losses: list[float] = []
    for _ in range(_STEPS):
        optimiser.zero_grad()
        error = current()
        loss = -torch.cat([log_prob(survey, error) for survey in surveys]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        values = current().as_dict()
    values["total_db"] = _total_error_db(surveys)
    return MapError(**values), losses[0], losses[-1]


@torch.no_grad()
def fit_serving(surveys: Sequence[Survey], fitted: MapError) -> MapError:
    """Choose the errors of delays, azimuths and beams that make the reports most likely.

    Parameters
    ----------
    surveys
        Reports with the twin's maps of their serving sectors where they come from, by city.
    fitted
        The error fitted so far; what no report tells of keeps its value.
    """
    told: tuple[Callable[[ReportBatch], Tensor], ...] = (
        lambda reports: reports.ta,
        lambda reports: reports.aoa,
        lambda reports: reports.beam[:, 0],
    )
    for grid, code in zip(_SEARCHED, told, strict=True):
        some = _telling(surveys, code)
        if sum(len(survey.reports) for survey in some) < _MIN_REPORTS:
            continue
        best = -np.inf
        for values in itertools.product(*grid.values()):
            trial = replace(fitted, **dict(zip(grid, values, strict=True)))
            value = _serving_log_prob(some, trial)
            if value > best:
                best, chosen = value, trial
        fitted = chosen
    return fitted


def _telling(surveys: Sequence[Survey], code: Callable[[ReportBatch], Tensor]) -> list[Survey]:
    """The first reports that hold a field, of each city by its share of them."""
    there = [torch.nonzero(code(survey.reports) != MISSING)[:, 0] for survey in surveys]
    shares = _shares([len(rows) for rows in there], _SERVING_REPORTS)
    chosen = zip(surveys, there, shares, strict=True)
    return [survey.rows(rows[:share]) for survey, rows, share in chosen if share]


def _serving_log_prob(surveys: Sequence[Survey], error: MapError) -> float:
    found = []
    for survey in surveys:
        model = MeasurementModel(survey.city.measurements, survey.city.radio, error)
        reports, serving = survey.reports, survey.serving
        sinr = model.expected_uplink_db(reports, serving)
        value = model.timing.direct(reports, serving.delays, sinr)
        found.append(value + model.directions(reports, serving, sinr))
    return float(torch.cat(found).mean())


@torch.no_grad()
def fit_exponent(sets: Sequence[Located], fitted: MapError) -> tuple[MapError, float]:
    """Choose the levels' exponent that makes the true positions most likely.

    Parameters
    ----------
    sets
        Training reports with their true positions and the twin's maps, by city.
    fitted
        The error fitted so far.

    Returns
    -------
    tuple
        The error with its exponent, and the mean position NLL of these reports [nats].
    """
    error = replace(fitted, level_exponent=1.0)
    exponents = torch.tensor(_EXPONENTS, dtype=torch.float64)[:, None]
    total, used = torch.zeros(len(_EXPONENTS), dtype=torch.float64), 0
    for one, places in sets:
        model = MeasurementModel(one.city.measurements, one.city.radio, error)
        for around, place, report in _located(one, places):
            levels = log_prob_over(model.levels, report, around.levels)[0].double()
            others = _others(model, report, around)
            log_mass = torch.log_softmax(others + exponents * levels, dim=1)
            total -= log_mass[:, place] - 2 * np.log(around.window.cell_m)
            used += 1
    best = int(total.argmin())
    return replace(fitted, level_exponent=_EXPONENTS[best]), float(total[best]) / max(used, 1)


@torch.no_grad()
def fit_plain(sets: Sequence[Located], fitted: MapError) -> tuple[MapError, float]:
    """Gaussian noise of the one width that makes the true positions most likely.

    What plain grid Bayes takes for map error, shadowing and gain offset together: the same for
    every sector, place and level, nothing shared (`plain_settings`), and the fitted level where
    no ray arrived.

    Parameters
    ----------
    sets
        As of `fit_exponent`; the first reports of each city are used.
    fitted
        The whole error, for what the noise does not describe (unhit levels, delays, angles).

    Returns
    -------
    tuple
        The error, and the mean position NLL of these reports [nats].
    """
    kept = {
        name: getattr(fitted, name)
        for name in ("unhit_dbm", "unhit_db", "delay_core_ns", "azimuth_core_deg", "beam_db")
    }
    trials = [MapError(core_db=sigma, **kept) for sigma in _PLAIN_SIGMAS_DB]
    rough = int(_position_nll(sets, trials, _ROUGHLY).argmin())
    near = trials[max(rough - 1, 0) : rough + 2]
    nll = _position_nll(sets, near, _PLAIN_REPORTS)
    best = int(nll.argmin())
    return near[best], float(nll[best])


def _position_nll(
    sets: Sequence[Located], trials: Sequence[MapError], most: int
) -> NDArray[np.float64]:
    """Mean NLL of true positions under plain noises [nats], over the first `most` reports."""
    total, used = np.zeros(len(trials)), 0
    shares = _shares([len(one) for one, _ in sets], most)
    for (one, places), share in zip(sets, shares, strict=True):
        settings = plain_settings(one.city.measurements)
        models = [MeasurementModel(settings, one.city.radio, error) for error in trials]
        first = replace(one, reports=one.reports.isel(report=slice(share)))
        for around, place, report in _located(first, places):
            others = _others(models[0], report, around)  # the noise is that of levels alone
            for k, model in enumerate(models):
                levels = log_prob_over(model.levels, report, around.levels)[0].double()
                log_mass = torch.log_softmax(levels + others, dim=0)
                total[k] -= float(log_mass[place]) - 2 * np.log(around.window.cell_m)
            used += 1
    return total / max(used, 1)


def plain_settings(settings: MeasurementConfig) -> MeasurementConfig:
    """Settings of a model in which levels share nothing: one noise stands for all errors."""
    shadowing = settings.shadowing.model_copy(update={"sigma_db": 0.0})
    terminal = settings.terminal.model_copy(update={"gain_sigma_db": 0.0})
    return settings.model_copy(update={"shadowing": shadowing, "terminal": terminal})


def _shares(counts: Sequence[int], most: int) -> list[int]:
    """How many of the reports of each city are `most` of all."""
    total = max(sum(counts), most)
    return [-(-most * count // total) for count in counts]


def _located(one: CityReports, places: PlaceMaps) -> Iterator[tuple[Around, int, ReportBatch]]:
    """Reports one by one with the maps around their serving sector and their true place there.

    Places that the twin does not hold are left out: no error makes them likelier.
    """
    reports, batch = one.reports, to_batch(one.reports, one.atlas)
    for i in np.argsort(batch.sector[:, 0].numpy(), kind="stable"):
        around = places.around(int(batch.sector[i, 0]))
        place = around.index_of(float(reports.x_m[i]), float(reports.y_m[i]))
        if place >= 0:
            yield around, place, batch[int(i) : int(i) + 1]


def _others(model: MeasurementModel, report: ReportBatch, around: Around) -> Tensor:
    """Log-likelihood of all fields but the levels, shape (place,)."""
    value = model.quality_log_prob(report, around.levels)
    return (value + model.serving_log_prob(report, around.serving))[0].double()


def _total_error_db(surveys: Sequence[Survey]) -> float:
    """Map error of the unreported power [dB] that makes the quality fields most likely."""
    told = []
    for survey in surveys:
        city, reports = survey.city, survey.reports
        mapped = (10 ** (survey.levels.rsrp_dbm[..., 0] / 10)).nan_to_num(0.0)
        heard = torch.zeros(len(reports), mapped.shape[1] + 1, dtype=torch.bool)
        heard.scatter_(1, torch.where(reports.heard, reports.sector, mapped.shape[1]), value=True)
        unreported = (mapped * ~heard[:, :-1]).sum(dim=1)
        table = QualityLikelihood(city.measurements.quality, city.radio, 0.0).table(reports)
        told.append((city, table, unreported))
    best, best_value = 0.0, -np.inf
    for total_db in np.arange(0.0, 8.01, 0.5):
        found = [
            QualityLikelihood(city.measurements.quality, city.radio, float(total_db)).log_prob(
                table, unreported
            )
            for city, table, unreported in told
        ]
        value = float(torch.cat(found).mean())
        if value > best_value:
            best, best_value = float(total_db), value
    return best


def _to_raw(name: str, value: float) -> float:
    return float(np.log(value)) if name in _POSITIVE else value / _scale(name)


def _from_raw(name: str, value: Tensor) -> Tensor:
    return value.exp() if name in _POSITIVE else value * _scale(name)


def _scale(name: str) -> float:
    return 10.0 if name in ("unhit_dbm", "tail_bias_db") else 1.0
