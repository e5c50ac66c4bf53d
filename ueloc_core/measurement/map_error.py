"""The twin's map error, fitted on training reports by maximum likelihood.

What an engineer would learn from a drive test: at known places, the reports say how far the
maps are off. It is the same likelihood that locates, maximised over the error's parameters.
"""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ueloc_core.city import SPLITS, City
from ueloc_core.errors import ReportError, StoreError
from ueloc_core.measurement.dataset import to_batch
from ueloc_core.measurement.model import MapError, MeasurementModel, ReportBatch
from ueloc_core.radio.atlas import MapAtlas

CODE_VERSION = "1"

_MAX_REPORTS = 2000
_MIN_REPORTS = 50
_STEPS = 120
_LEARNING_RATE = 0.1
_START = MapError(
    core_db=1.0,
    core_per_se=1.0,
    tail_logit=-2.0,
    tail_per_se=0.1,
    tail_per_10db=0.1,
    tail_db=12.0,
    tail_bias_db=0.0,
    unhit_dbm=-135.0,
    unhit_db=12.0,
    total_db=2.0,
)
_FOUND_BY_SEARCH = ("total_db", "level_exponent")
_EXPONENTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
_EXPONENT_REPORTS = 120
_POSITIVE = ("core_db", "core_per_se", "tail_db", "unhit_db")


def build_map_error(city: City, atlas: MapAtlas, reports: xr.Dataset, out: Path) -> dict[str, Any]:
    """Fit `MapError` on the training reports and write ``map_error.json``.

    Parameters
    ----------
    city
        Measurement settings and seed.
    atlas
        The twin's radio maps.
    reports
        The city's measurement set.
    out
        Folder to write to.
    """
    train = np.flatnonzero(reports.split.values == SPLITS.index("train"))
    if len(train) < _MIN_REPORTS:
        raise ReportError(
            f"{len(train)} training reports are too few to fit the map error",
            where=f"{city.name}: measurements.reports_per_hectare",
            remedy=f"At least {_MIN_REPORTS} are needed.",
        )
    rng = np.random.default_rng([city.seed, 6])
    chosen = np.sort(rng.permutation(train)[:_MAX_REPORTS])
    sample = reports.isel(report=chosen)
    rsrp, error = atlas.maps_at(sample.x_m.values, sample.y_m.values)
    fitted, before, after = fit(
        city, to_batch(sample, atlas), torch.from_numpy(rsrp), torch.from_numpy(error)
    )
    located = reports.isel(report=np.sort(rng.permutation(train)[:_EXPONENT_REPORTS]))
    fitted, nll = fit_exponent(city, atlas, located, fitted)
    (out / "map_error.json").write_text(json.dumps(fitted.as_dict(), indent=1))
    return {
        "reports": len(chosen),
        "position_nll_nats": nll,
        "nats_per_report_before": before,
        "nats_per_report_after": after,
        **fitted.as_dict(),
    }


def load_map_error(folder: Path) -> MapError:
    """Read ``map_error.json``.

    Raises
    ------
    StoreError
        If it is missing or has other fields.
    """
    path = folder / "map_error.json"
    try:
        return MapError(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(
            f"map error cannot be read ({error})",
            where=str(path),
            remedy="Materialize map_error again.",
        ) from error


def fit(
    city: City, reports: ReportBatch, rsrp_dbm: Tensor, se_db: Tensor
) -> tuple[MapError, float, float]:
    """Maximise the likelihood of reports at known places over the map error.

    Parameters
    ----------
    city
        Measurement settings.
    reports
        n reports.
    rsrp_dbm, se_db
        The twin's RSRP [dBm] and standard error [dB] where they stand, shape (n, sector).

    Returns
    -------
    tuple
        The fitted error, and the mean negative log-likelihood before and after [nats].
    """
    raw = {
        f.name: torch.tensor(_to_raw(f.name, getattr(_START, f.name)), requires_grad=True)
        for f in fields(MapError)
        if f.name not in _FOUND_BY_SEARCH
    }

    def current() -> MapError:
        return MapError(
            **{name: _from_raw(name, value) for name, value in raw.items()},
            total_db=_START.total_db,
            level_exponent=1.0,
        )

    optimiser = torch.optim.Adam(raw.values(), lr=_LEARNING_RATE)
    losses: list[float] = []
    for _ in range(_STEPS):
        optimiser.zero_grad()
        model = MeasurementModel(city.measurements, city.radio, current())
        loss = -_levels_log_prob(model, reports, rsrp_dbm, se_db).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        values = current().as_dict()
    values["total_db"] = _total_error_db(city, reports, rsrp_dbm, values)
    return MapError(**values), losses[0], losses[-1]


@torch.no_grad()
def fit_exponent(
    city: City, atlas: MapAtlas, reports: xr.Dataset, fitted: MapError
) -> tuple[MapError, float]:
    """Choose the levels' exponent that makes the true positions most likely.

    Parameters
    ----------
    city, atlas
        Measurement settings and the twin's maps.
    reports
        Training reports with their true positions.
    fitted
        The error fitted so far.

    Returns
    -------
    tuple
        The error with its exponent, and the mean position NLL of these reports [nats].
    """
    models = [
        MeasurementModel(city.measurements, city.radio, replace(fitted, level_exponent=e))
        for e in (0.0, 1.0)
    ]
    batch = to_batch(reports, atlas)
    exponents = torch.tensor(_EXPONENTS, dtype=torch.float64)[:, None]
    total = torch.zeros(len(_EXPONENTS), dtype=torch.float64)
    for i in np.argsort(batch.sector[:, 0].numpy(), kind="stable"):
        window = atlas.windows[int(batch.sector[i, 0])]
        outdoor = atlas.outdoor_in(window)
        rsrp, error = (torch.from_numpy(v[:, outdoor])[None] for v in atlas.maps_in(window))
        report = batch[int(i) : int(i) + 1]
        quality, whole = (m.log_prob(report, rsrp, error)[0].double() for m in models)
        log_mass = torch.log_softmax(quality + exponents * (whole - quality), dim=1)
        row, column = window.indices(float(reports.x_m[i]), float(reports.y_m[i]))
        place = int(outdoor[: int(row)].sum() + outdoor[int(row), : int(column)].sum())
        total -= log_mass[:, place] - 2 * np.log(window.cell_m)
    best = int(total.argmin())
    return replace(fitted, level_exponent=_EXPONENTS[best]), float(total[best]) / len(batch)


def _levels_log_prob(
    model: MeasurementModel, reports: ReportBatch, rsrp_dbm: Tensor, se_db: Tensor
) -> Tensor:
    """Log-likelihood of which sectors were heard and how strong, shape (n,)."""
    chosen = reports.sector.clamp_min(0)
    heard = model.heard_log_prob(
        torch.where(reports.heard, reports.rsrp, -1),
        rsrp_dbm.gather(1, chosen),
        se_db.gather(1, chosen),
    ).sum(dim=1)
    silent = model.unheard_log_prob(
        model.ceiling_dbm(reports)[:, None], reports.level_dbm[:, :1], rsrp_dbm, se_db
    )
    reported = torch.zeros(len(reports), rsrp_dbm.shape[1] + 1, dtype=torch.bool)
    reported.scatter_(1, torch.where(reports.heard, reports.sector, rsrp_dbm.shape[1]), value=True)
    return heard + torch.where(reported[:, :-1], 0.0, silent).sum(dim=1)


def _total_error_db(
    city: City, reports: ReportBatch, rsrp_dbm: Tensor, values: dict[str, float]
) -> float:
    """Map error of the total power [dB] that makes the quality fields most likely."""
    mapped = (10 ** (rsrp_dbm / 10)).nan_to_num(0.0)
    heard = torch.zeros(len(reports), mapped.shape[1] + 1, dtype=torch.bool)
    heard.scatter_(1, torch.where(reports.heard, reports.sector, mapped.shape[1]), value=True)
    unreported = (mapped * ~heard[:, :-1]).sum(dim=1)
    exact = MeasurementModel(city.measurements, city.radio, MapError(**values))
    given_total = exact.quality_given_total(reports)
    best, best_value = 0.0, -np.inf
    for total_db in np.arange(0.0, 8.01, 0.5):
        error = MapError(**{**values, "total_db": float(total_db)})
        model = MeasurementModel(city.measurements, city.radio, error)
        table = model.quality_table(reports, given_total)
        value = float(model.quality_log_prob(table, unreported).mean())
        if value > best_value:
            best, best_value = float(total_db), value
    return best


def _to_raw(name: str, value: float) -> float:
    return float(np.log(value)) if name in _POSITIVE else value / _scale(name)


def _from_raw(name: str, value: Tensor) -> Tensor:
    return value.exp() if name in _POSITIVE else value * _scale(name)


def _scale(name: str) -> float:
    return 10.0 if name in ("unhit_dbm", "tail_bias_db") else 1.0
