"""From received levels to quality, modulation and coding, throughput and timing advance.

The one place of these formulas: measurement reports and map layers both take them from here.
The functions of levels serve numpy arrays and torch tensors alike.

How well a modulation and code rate works is a law, not a measured table: 10% of the blocks are
lost at the SINR where 0.75 of Shannon's bound is the spectral efficiency, and around it the
block error rate falls as steeply as the normal approximation for the longest code block of TS
38.212 allows. Against the tables of Sionna SYS 2.2 (coded AWGN, blocks of 2000 bits, steps of 1.8
dB), half of the blocks are lost 0 to 1.2 dB later for QPSK, 0.6 to 1.4 dB for 16QAM, and 0.6 to
3.6 dB for 64QAM, most at the highest rates: the share stands for a receiver's losses as well.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from ueloc_core.units import SPEED_OF_LIGHT_M_S, SUBCARRIERS_PER_RB, subcarrier_spacing_hz

# TS 38.214, table 5.2.2.1-2 (CQI table 1): modulation order and code rate x 1024, CQI 1 to 15.
CQI_TABLE: tuple[tuple[int, int], ...] = (
    (2, 78), (2, 120), (2, 193), (2, 308), (2, 449), (2, 602),
    (4, 378), (4, 490), (4, 616),
    (6, 466), (6, 567), (6, 666), (6, 772), (6, 873), (6, 948),
)  # fmt: skip

# TS 38.214, table 5.1.3.1-1 (MCS index table 1 for PDSCH), MCS 0 to 28, in the same form.
MCS_TABLE: tuple[tuple[int, int], ...] = (
    (2, 120), (2, 157), (2, 193), (2, 251), (2, 308), (2, 379), (2, 449), (2, 526), (2, 602),
    (2, 679), (4, 340), (4, 378), (4, 434), (4, 490), (4, 553), (4, 616), (4, 658), (6, 438),
    (6, 466), (6, 517), (6, 567), (6, 616), (6, 666), (6, 719), (6, 772), (6, 822), (6, 873),
    (6, 910), (6, 948),
)  # fmt: skip

TARGET_BLOCK_ERROR_RATE = 0.1  # TS 38.214, 5.2.2.1
TIMING_ADVANCE_LAST = 3846  # TS 38.213, 4.2

# Share of Shannon's bound that link adaptation reaches (TR 36.942, A.2, takes 0.6 to 0.75).
_IMPLEMENTATION_SHARE = 0.75
_CODE_BLOCK_BITS = 8448  # TS 38.212, 5.2.2, base graph 1
_SYMBOLS_PER_SLOT = 14
_SLOTS_PER_SECOND = 1_000
_OVERHEAD_SHARE = 0.14  # TS 38.306, 4.1.2, downlink, FR1
_OVERHEAD_SHARE_FR2 = 0.18  # the same, FR2
_FR2_FROM_HZ = 24.25e9  # TS 38.101-2, table 5.1-1
_SMALLEST_TIME_NS = 1e9 / (480e3 * 4096)  # Tc: TS 38.211, 4.1
_SUBCARRIERS_DB = 10.0 * math.log10(SUBCARRIERS_PER_RB)
_MISSING = -1


# -- received power -----------------------------------------------------------------------------


def received_power_mw(levels_mw: Any, *, load: float, noise_mw: Any) -> Any:
    """Mean received power of a resource element [mW]: load times the levels, plus noise.

    Parameters
    ----------
    levels_mw
        Sum of the levels (RSRP) of sectors [mW].
    load
        Share of their resource elements that the sectors send on.
    noise_mw
        Noise in one resource element, with whatever else is received [mW].
    """
    return load * levels_mw + noise_mw


def interference_mw(total_mw: Any, level_mw: Any, *, load: float, noise_mw: float) -> Any:
    """Interference and noise [mW] that one sector meets in a resource element, at least the noise.

    Parameters
    ----------
    total_mw
        Mean received power of a resource element [mW], as of `received_power_mw`.
    level_mw
        The sector's own level [mW], whose load is part of the total.
    load, noise_mw
        As of `received_power_mw`.
    """
    return (total_mw - load * level_mw).clip(noise_mw)


def rssi_dbm(total_dbm: Any, resource_blocks: int) -> Any:
    """RSSI [dBm] over resource blocks (TS 38.215, 5.1.3) of a resource element's power [dBm]."""
    return total_dbm + _SUBCARRIERS_DB + 10.0 * math.log10(resource_blocks)


def rsrq_db(level_dbm: Any, total_dbm: Any) -> Any:
    """RSRQ [dB] = N_RB x RSRP / RSSI (TS 38.215, 5.1.3), the RSSI being 12 N_RB x the total.

    Parameters
    ----------
    level_dbm
        RSRP of the sector [dBm].
    total_dbm
        Mean received power of a resource element [dBm].

    >>> round(rsrq_db(-90.0, -90.0), 2)  # one sector at full load, no noise
    -10.79
    """
    return level_dbm - total_dbm - _SUBCARRIERS_DB


# -- channel quality ----------------------------------------------------------------------------


def cqi_efficiency() -> NDArray[np.float64]:
    """Bits per symbol of CQI 1 to 15, shape (15,).

    >>> [round(float(v), 4) for v in cqi_efficiency()[[0, 6, 14]]]
    [0.1523, 1.4766, 5.5547]
    """
    return _efficiency(CQI_TABLE)


def cqi_thresholds_db() -> NDArray[np.float64]:
    """Lowest SINR [dB] at which CQI 1 to 15 holds a block error rate of 10%, shape (15,).

    Shannon's bound attenuated by `_IMPLEMENTATION_SHARE` at the efficiency of each CQI.
    """
    return _threshold_db(cqi_efficiency())


def cqi_of_sinr(sinr_db: Any) -> NDArray[np.int64]:
    """Highest CQI [0..15] whose block error rate is at most 10% at a SINR [dB]; NaN gives -1."""
    sinr = np.asarray(sinr_db)
    cqi = np.searchsorted(cqi_thresholds_db(), sinr, side="right")
    return np.where(np.isnan(sinr), _MISSING, cqi)


# -- modulation, coding and throughput ----------------------------------------------------------


def mcs_efficiency() -> NDArray[np.float64]:
    """Bits per symbol of MCS 0 to 28, shape (29,).

    >>> [round(float(v), 4) for v in mcs_efficiency()[[0, 16, 17, 28]]]
    [0.2344, 2.5703, 2.5664, 5.5547]
    """
    return _efficiency(MCS_TABLE)


def block_error_rate(mcs: Any, sinr_db: Any) -> NDArray[np.float64]:
    """Block error rate of an MCS at a SINR, arrays that broadcast.

    The normal approximation (Polyanskiy, Poor and Verdu 2010, eq. 296) of the complex Gaussian
    channel for blocks of 8448 bits (TS 38.212, 5.2.2), with `_IMPLEMENTATION_SHARE` of its
    capacity and moved so that the rate is 10% at the threshold.

    Parameters
    ----------
    mcs
        Index [0..28] in `MCS_TABLE`.
    sinr_db
        SINR [dB]; NaN gives NaN.
    """
    efficiency = mcs_efficiency()[np.asarray(mcs)]
    capacity = np.log2(1.0 + 10.0 ** (np.asarray(sinr_db, dtype=np.float64) / 10.0))
    snr = 2.0**efficiency - 1.0
    dispersion = snr * (snr + 2.0) / (snr + 1.0) ** 2 * np.log2(np.e) ** 2
    spread = np.sqrt(dispersion * efficiency / _CODE_BLOCK_BITS)
    margin = (_IMPLEMENTATION_SHARE * capacity - efficiency) / spread
    return np.asarray(ndtr(ndtri(TARGET_BLOCK_ERROR_RATE) - margin))


def mcs_of_sinr(sinr_db: Any) -> NDArray[np.int64]:
    """MCS [0..28] that delivers most bits within a block error rate of 10%; -1 where none does."""
    return _adapt(sinr_db)[0]


def throughput_mbps(
    sinr_db: Any,
    *,
    resource_blocks: int,
    numerology: int,
    layers: int = 1,
    overhead_share: float = _OVERHEAD_SHARE,
) -> NDArray[np.float64]:
    """Downlink throughput [Mbit/s] of one terminal that gets all resource blocks.

    The rate of TS 38.306, 4.1.2, with the modulation order and code rate of `mcs_of_sinr`, times
    the share of blocks that arrive.

    Parameters
    ----------
    sinr_db
        SINR of each layer [dB]; NaN gives NaN.
    resource_blocks, numerology
        Of the carrier.
    layers
        Spatial layers, all at this SINR.
    overhead_share
        Control channels and reference signals: `downlink_overhead_share`.
    """
    slots = _SLOTS_PER_SECOND * subcarrier_spacing_hz(numerology) / 15e3
    symbols = resource_blocks * SUBCARRIERS_PER_RB * _SYMBOLS_PER_SLOT * slots
    delivered = _adapt(sinr_db)[1]
    return np.asarray(layers * delivered * symbols * (1 - overhead_share) / 1e6)


def downlink_overhead_share(frequency_hz: float) -> float:
    """Overhead of the downlink: 0.18 in FR2 (from 24.25 GHz), else 0.14 (TS 38.306, 4.1.2)."""
    return _OVERHEAD_SHARE_FR2 if frequency_hz >= _FR2_FROM_HZ else _OVERHEAD_SHARE


def _efficiency(table: tuple[tuple[int, int], ...]) -> NDArray[np.float64]:
    return np.array([order * rate / 1024 for order, rate in table])


def _threshold_db(efficiency: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(10.0 * np.log10(2.0 ** (efficiency / _IMPLEMENTATION_SHARE) - 1.0))


def _adapt(sinr_db: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """MCS, and delivered bits per symbol: 0 where no MCS works, NaN where the SINR is."""
    sinr = np.asarray(sinr_db, dtype=np.float64)
    best = np.full(sinr.shape, _MISSING, dtype=np.int64)
    delivered = np.zeros(sinr.shape)
    for mcs, (bits, threshold) in enumerate(
        zip(mcs_efficiency(), _threshold_db(mcs_efficiency()), strict=True)
    ):
        goodput = np.where(sinr >= threshold, bits * (1.0 - block_error_rate(mcs, sinr)), 0.0)
        better = goodput > delivered
        best[better], delivered[better] = mcs, goodput[better]
    return best, np.where(np.isnan(sinr), np.nan, delivered)


# -- timing advance -----------------------------------------------------------------------------


def timing_advance_step_ns(numerology: int) -> float:
    """Step of the timing advance [ns]: 16 x 64 / 2^mu x Tc of round trip (TS 38.213, 4.2).

    >>> [round(timing_advance_step_ns(n) / 2 * 0.299792458, 2) for n in range(4)]  # one way, m
    [78.07, 39.04, 19.52, 9.76]
    """
    return float(16 * 64 / 2**numerology * _SMALLEST_TIME_NS)


def timing_advance_step_m(numerology: int) -> float:
    """Length of path [m], one way, that one step of the timing advance stands for."""
    return timing_advance_step_ns(numerology) / 2 * SPEED_OF_LIGHT_M_S / 1e9


def timing_advance(first_arrival_ns: Any, numerology: int) -> NDArray[np.int64]:
    """Timing advance [0..3846] of a first-arrival delay: the step nearest to the round trip.

    A terminal's timing follows the first path that it detects, so the delay is that of a path,
    never that of a straight line.

    Parameters
    ----------
    first_arrival_ns
        One-way delay of the first detected path [ns]; NaN gives -1.
    numerology
        Of the uplink.
    """
    delay = np.asarray(first_arrival_ns, dtype=np.float64)
    steps = np.floor(2.0 * delay / timing_advance_step_ns(numerology) + 0.5)
    steps = np.clip(steps, 0, TIMING_ADVANCE_LAST)
    return np.where(np.isnan(delay), _MISSING, np.nan_to_num(steps)).astype(np.int64)
