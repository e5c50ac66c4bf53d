"""Single places with few sectors, whose reports can be counted out."""

import numpy as np
import torch
from scipy import stats

from ueloc_core.city_sections import RadioConfig
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.levels import LevelLikelihood, LevelMaps, MapError
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.measurement.reports import MISSING
from ueloc_core.measurement.schemas import SLOTS
from ueloc_core.measurement.settings import MeasurementConfig
from ueloc_core.measurement.simulate import Serving, Surroundings

LEVEL = 1e-3  # significance of every statistical test
RADIO = RadioConfig()
FITTED = MapError(
    core_db=1.5,
    core_per_se=1.1,
    tail_logit=-1.5,
    tail_per_db=0.2,
    tail_per_10db=0.3,
    tail_db=11.0,
    tail_bias_db=-4.0,
    unhit_dbm=-126.0,
    unhit_db=9.0,
    common_db=1.5,
    site_db=2.0,
    total_db=2.0,
    delay_core_ns=15.0,
    delay_tail_share=0.1,
    delay_tail_ns=250.0,
    azimuth_core_deg=3.0,
    azimuth_tail_share=0.1,
    beam_db=2.0,
)


def settings(**given):
    """Everything is reported, nothing is lost, unless said otherwise."""
    return MeasurementConfig(**{"scenarios": {"full": 1.0}, "dropout_probability": 0.0, **given})


def model(error=None, **given):
    return MeasurementModel(settings(**given), RADIO, error or MapError.none())


def report(sector, rsrp, **others):
    """One report from lists; empty slots are filled up."""

    def slots(values):
        return [[*values, *[MISSING] * (SLOTS - len(values))]]

    per_slot = {n: slots(others.pop(n)) for n in ("rsrq", "sinr") if n in others}
    beams = {n: [others.pop(n)] for n in ("beam", "beam_level") if n in others}
    own = {name: [value] for name, value in others.items()}
    return ReportBatch.of(slots(sector), slots(rsrp), **per_slot, **beams, **own)


def level_maps(level_dbm, site, *, se_db=np.nan, noise_db=1.5):
    """Maps over places: levels of shape (sector, place)."""
    level = np.asarray(level_dbm, dtype=np.float32)
    se, noise = (np.broadcast_to(np.float32(v), level.shape).copy() for v in (se_db, noise_db))
    tensors = (torch.from_numpy(v)[None] for v in (level, se, noise))
    return LevelMaps(*tensors, torch.as_tensor(site))


def serving_maps(count, **given):
    """What a serving sector's maps say at the one place of all reports."""
    values = {
        "first_arrival_ns": 700.0,
        "line_of_sight": 1.0,
        "azimuth_deg": 77.0,
        "spread_deg": 4.0,
        "reference_dbm": 10.85,
        **given,
    }
    beams = np.asarray(values.pop("beam_offset_db", np.zeros(0)), dtype=float)
    return Serving(
        **{name: np.full(count, float(v)) for name, v in values.items()},
        beam_offset_db=np.tile(beams, (count, 1)),
    )


def surroundings(model, level_dbm, site, count, rng, *, noise_db=1.5, lasting=True, serving=None):
    """Terminals at one place, each with a shadowing and a gain of its own."""
    level, site = np.asarray(level_dbm, dtype=float), np.asarray(site)
    shadow, gain = model.settings.shadowing, model.settings.terminal.gain_sigma_db
    common = np.sqrt(shadow.inter_site) * shadow.sigma_db * rng.standard_normal((count, 1))
    common += gain * rng.standard_normal((count, 1))
    own = np.sqrt(1 - shadow.inter_site) * shadow.sigma_db
    own = own * rng.standard_normal((count, site.max() + 1))[:, site]
    return Surroundings(
        sector=np.tile(np.arange(len(level)), (count, 1)),
        mean_dbm=level + lasting * (common + own),
        mapped_mw=np.tile(np.nan_to_num(10 ** (level / 10)), (count, 1)),
        noise_db=np.full((count, len(level)), noise_db),
        others_mw=np.zeros(count),
        serving=lambda rows, _: serving_maps(len(rows), **(serving or {})),
    )


def chi_square(counts, probability):
    """p-value of counts against probabilities, rare bins put together."""
    counts, expected = np.asarray(counts, float), np.asarray(probability) * np.sum(counts)
    rare = expected < 8
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 1:
        assert counts[-1] <= 10
        counts, expected = counts[:-1], expected[:-1]
    return stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue


def simulated_log_prob(m, reports, maps, draws, rng, apart_m=()):
    """Log-likelihood of reports along one path by plain Monte Carlo, and its standard error.

    All that is shared is drawn: gain, shadowing, both shared map errors, core and tail. One row
    of maps stands for all reports; T rows for T places, `apart_m` [m] from the first one, whose
    shadowing has the exponential correlation of the settings and whose map errors are their own.
    """
    settings, error = m.settings, m.map_error
    shadow, site, places = settings.shadowing, maps.site.numpy(), len(maps)
    where = np.array([0.0, *apart_m])[:places]
    correlation = np.exp(-np.abs(where[:, None] - where) / shadow.correlation_m)
    root = np.linalg.cholesky(correlation + 1e-9 * np.eye(places))

    def along(*shape):  # correlated from place to place, which is the last axis
        return rng.standard_normal((draws, *shape, places)) @ root.T

    common = np.hypot(np.sqrt(shadow.inter_site) * shadow.sigma_db, error.common_db)
    own = np.hypot(np.sqrt(1 - shadow.inter_site) * shadow.sigma_db, error.site_db)
    shift = settings.terminal.gain_sigma_db * rng.standard_normal((draws, 1, 1))
    shift = shift + common * along(1) + own * along(site.max() + 1)[:, site]
    exact, total = LevelLikelihood(settings, MapError.none()), np.zeros(draws)
    arriving = []
    for place in range(places):
        mapped, se, noise = (
            v[place, :, 0].numpy() for v in (maps.rsrp_dbm, maps.se_db, maps.noise_db)
        )
        core = np.hypot(error.core_db, error.core_per_se * np.where(np.isnan(se), 4.34, se))
        mean = mapped + shift[..., place]
        share = 0.0
        if not m.levels.has_no_tail:
            spread = torch.tensor(np.hypot(core, noise))
            share = m.levels.tail_share(torch.tensor(mean), spread).numpy()
        wrong = rng.random(mean.shape) < share
        tail = error.tail_bias_db + error.tail_db * rng.standard_normal(mean.shape)
        level = mean + core * rng.standard_normal(mean.shape) + wrong * tail
        arriving.append((torch.tensor(level), torch.tensor(noise).expand(level.shape)))
    for t in range(len(reports)):
        one, (level, spread) = reports[t : t + 1], arriving[t if places > 1 else 0]
        hit = torch.ones_like(level, dtype=torch.bool)
        value = exact.unreported(exact.ceilings(one), level, spread, hit)
        for slot in torch.nonzero(one.heard[0])[:, 0]:
            s = int(one.sector[0, slot])
            value[:, s] = exact.reported(one.rsrp[0, slot], level[:, s], spread[:, s], hit[:, s])
        total += value.sum(dim=1).numpy()
    weight = np.exp(total - total.max())
    mean = weight.mean()
    return np.log(mean) + total.max(), weight.std() / mean / np.sqrt(draws)
