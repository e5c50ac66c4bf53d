"""Readers over the made-up world, and its reports in their windows."""

import functools
from dataclasses import replace

import numpy as np
import torch
from made_up_world import build_atlas, default_atlas, draw_reports, made_up_city

from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.batch import missing_code
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.measurement.scenarios import SCENARIOS

EVERY_SCENARIO = dict.fromkeys(SCENARIOS, 1.0)
ERROR = MapError(core_db=1.0, unhit_dbm=-135.0, unhit_db=8.0, tail_logit=-3.0, tail_db=10.0)
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
    level_exponent=0.8,
    delay_core_ns=15.0,
    delay_tail_share=0.1,
    delay_tail_ns=250.0,
    azimuth_core_deg=3.0,
    azimuth_tail_share=0.1,
    beam_db=2.0,
)
TIMING, ANGLE, BEAMS = ("ta", "ta_offset"), ("aoa",), ("beam", "beam_level")
QUALITY = ("rsrq", "sinr", "cqi", "ri", "throughput", "bler")
PER_SLOT = ("sector", "rsrp", "rsrq", "sinr")


@functools.cache
def wide_atlas():
    """The made-up city with sectors that are traced over all of it."""
    return build_atlas(made_up_city(window={"size_m": 704, "shift_m": 40}))


def model_of(error=ERROR, atlas=None):
    """The measurement model of all scenarios with an error of the maps."""
    city = (atlas or default_atlas()).city
    settings = city.measurements.model_copy(update={"scenarios": EVERY_SCENARIO})
    return MeasurementModel(settings, city.radio, error)


@functools.cache
def reader_of(error=ERROR, make_atlas=default_atlas):
    """Windows over an atlas, with the tables of an error of the maps."""
    atlas = make_atlas()
    return WindowReader(atlas, model_of(error, atlas))


@functools.cache
def drawn(count, seed, scenario=None, make_atlas=default_atlas):
    """Reports of a scenario, or of all in turn, and where their terminals are."""
    scenarios = EVERY_SCENARIO if scenario is None else {scenario: 1.0}
    return draw_reports(make_atlas(), count, seed=seed, scenarios=scenarios)


def inside(reader, count, seed, scenario=None, *, least_heard=1, most_m=np.inf):
    """Reports of terminals within their windows, and where these are in them [m].

    Parameters
    ----------
    least_heard
        Fewest sectors heard.
    most_m
        Farthest from the window's centre, along either axis.
    """
    batch, x_m, y_m = drawn(6 * count + 20, seed, scenario)
    truth_m = reader.frame_positions(batch.sector[:, 0].numpy(), x_m, y_m)
    half_m = reader.cells * reader.cell_m / 2
    chosen = (np.abs(truth_m) < min(half_m, most_m)).all(axis=1)
    chosen &= (batch.heard.sum(dim=1) >= least_heard).numpy()
    chosen = np.flatnonzero(chosen)[:count]
    assert len(chosen) == count
    return batch[torch.from_numpy(chosen)], truth_m[chosen]


def silenced(batch, names):
    """The reports as if some fields had not been measured."""
    gone = {n: torch.full_like(getattr(batch, n), missing_code(n)) for n in names}
    return replace(batch, **gone)


def in_slots(batch, order):
    """The reports with some of their slots, or with the same in another order."""
    return replace(batch, **{n: getattr(batch, n)[:, order] for n in PER_SLOT})


def weighted(log_prob, difference):
    """Standard deviation of a difference under the distribution of log-probabilities."""
    weight = torch.softmax(log_prob.double(), dim=-1)
    off = difference.double() - (weight * difference).sum(dim=-1, keepdim=True)
    return (weight * off**2).sum(dim=-1).sqrt()


def as_raster(blocks, rows, columns):
    """Values (..., block, cell) of a rectangle of blocks as rasters, row 0 in the south."""
    grid = np.asarray(blocks).reshape(-1, rows, columns, 4, 4).swapaxes(2, 3)
    return grid.reshape(*np.shape(blocks)[:-2], 4 * rows, 4 * columns)
