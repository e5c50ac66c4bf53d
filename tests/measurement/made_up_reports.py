"""Made-up report data sets that keep every rule of the contract; nothing is simulated."""

import numpy as np

from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.dataset import Truth
from ueloc_core.measurement.report_variables import BEAMS, RAY_TRACED, SLOTS, VARIABLES
from ueloc_core.measurement.reports import INT16_MISSING, SS_RSRP
from ueloc_core.measurement.scenarios import SCENARIOS, max_neighbours, reported


def tracks(count, rng, longest=5):
    """Track of each of about `count` reports, and its time since the track's start [s]."""
    lengths = rng.integers(1, longest + 1, max(count // 3, 1))
    track = np.repeat(np.arange(len(lengths)), lengths)
    time_s = np.concatenate([np.append(0, np.cumsum(rng.exponential(1, n - 1) + 0.01))
                             for n in lengths])  # fmt: skip
    return track, time_s


def batch_and_truth(atlas, count, seed=0, lost=0.1):
    """Random reports of every scenario over the sectors of an atlas, and who sent them."""
    rng = np.random.default_rng([seed, 91])
    track, time_s = tracks(count, rng)
    count, terminals = len(track), track[-1] + 1
    scenario = rng.integers(0, len(SCENARIOS), terminals)[track]
    heard = 1 + np.minimum(rng.integers(0, SLOTS, count), max_neighbours()[scenario])
    filled = np.arange(SLOTS) < heard[:, None]
    sector = np.argsort(rng.random((count, len(atlas.sectors))), axis=1)[:, :SLOTS]
    level = rng.integers(30, SS_RSRP.last, (count, SLOTS))
    level[:, 1:] = -np.sort(-level[:, 1:], axis=1)

    def codes(feature, low, high, shape=()):
        drawn = rng.integers(low, high, (count, *shape))
        there = reported(feature)[scenario].reshape(-1, *(1 for _ in shape))
        there = there & (rng.random(drawn.shape) > lost)
        missing = INT16_MISSING if feature in ("ul_sinr", "ta_offset") else -1
        return np.where(there & filled if shape else there, drawn, missing)

    beams = reported("beams")[scenario] & (rng.random(count) > lost)
    some = beams[:, None] & (np.arange(BEAMS) < rng.integers(1, BEAMS + 1, count)[:, None])
    beam_level = np.concatenate(
        [rng.integers(16, 114, (count, 1)), np.sort(rng.integers(0, 16, (count, BEAMS - 1)))], 1
    )
    batch = ReportBatch.of(
        np.where(filled, sector, -1),
        np.where(filled, level, -1),
        rsrq=codes("rsrq", 0, 128, (SLOTS,)),
        sinr=codes("sinr", 0, 128, (SLOTS,)),
        cqi=codes("cqi", 0, 16),
        ri=codes("ri", 1, 9),
        ul_sinr=codes("ul_sinr", -5000, 15000),
        ta=codes("ta", 0, 3847),
        ta_offset=codes("ta_offset", -300, 300),
        aoa=codes("aoa", 0, 3600),
        throughput=codes("throughput", 0, 10**6),
        bler=codes("bler", 0, 101),
        scenario=scenario,
        selected=time_s == 0,
        beam=np.where(some, np.argsort(rng.random((count, 8)), axis=1)[:, :BEAMS], -1),
        beam_level=np.where(some, beam_level, -1),
    )
    return batch, _truth(atlas, track, time_s, filled, rng)


def _truth(atlas, track, time_s, filled, rng):
    x0, y0, x1, y1 = atlas.ground.bounds_m
    terminals = track[-1] + 1
    mobility = rng.integers(0, 3, terminals)[track]
    speed_m_s = np.array([0.0, 1.4, 9.0])[mobility]
    heading_deg = rng.uniform(0, 360, terminals)[track]
    along = speed_m_s * time_s
    rt = {}
    for name in RAY_TRACED:
        layer = VARIABLES[name].layer
        highest = layer.highest - (layer.step if layer.period else 0)
        values = rng.uniform(layer.lowest, highest, filled.shape)
        rt[name] = np.where(filled & (rng.random(filled.shape) > 0.05), values, np.nan)
    return Truth(
        track=track,
        time_s=time_s,
        x_m=rng.uniform(x0 + 60, x1 - 60, terminals)[track]
        + along * np.sin(np.deg2rad(heading_deg)),
        y_m=rng.uniform(y0 + 60, y1 - 60, terminals)[track]
        + along * np.cos(np.deg2rad(heading_deg)),
        speed_m_s=speed_m_s,
        heading_deg=np.where(mobility > 0, heading_deg, np.nan),
        mobility=mobility,
        indoor=np.where(mobility > 0, 0, rng.integers(0, 2, terminals)[track]),
        rt=rt,
    )
