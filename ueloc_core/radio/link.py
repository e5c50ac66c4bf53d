"""From SINR to channel quality, spectral efficiency and throughput."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.units import SUBCARRIERS_PER_RB, subcarrier_spacing_hz

# TS 38.214, table 5.2.2.1-2 (CQI table 1): modulation order and code rate x 1024, CQI 1 to 15.
CQI_TABLE: tuple[tuple[int, int], ...] = (
    (2, 78), (2, 120), (2, 193), (2, 308), (2, 449), (2, 602),
    (4, 378), (4, 490), (4, 616),
    (6, 466), (6, 567), (6, 666), (6, 772), (6, 873), (6, 948),
)  # fmt: skip

# Share of Shannon's bound that link adaptation reaches (TR 36.942, A.2, takes 0.6 to 0.75).
_IMPLEMENTATION_SHARE = 0.75
_SYMBOLS_PER_SLOT = 14
_SLOTS_PER_SECOND = 1_000
_OVERHEAD_SHARE = 0.14  # TS 38.306, 4.1.2, downlink, FR1


def cqi_efficiency() -> NDArray[np.float64]:
    """Bits per symbol of CQI 1 to 15, shape (15,).

    >>> [round(float(v), 4) for v in cqi_efficiency()[[0, 6, 14]]]
    [0.1523, 1.4766, 5.5547]
    """
    return np.array([order * rate / 1024 for order, rate in CQI_TABLE])


def cqi_thresholds_db() -> NDArray[np.float64]:
    """Lowest SINR [dB] at which CQI 1 to 15 holds a block error rate of 10%, shape (15,).

    Shannon's bound attenuated by `_IMPLEMENTATION_SHARE` at the efficiency of each CQI.
    """
    return np.asarray(10.0 * np.log10(2.0 ** (cqi_efficiency() / _IMPLEMENTATION_SHARE) - 1.0))


def cqi_of_sinr(sinr_db: Any) -> NDArray[np.int64]:
    """Highest CQI [0..15] whose block error rate is at most 10% at a SINR [dB]."""
    return np.searchsorted(cqi_thresholds_db(), np.asarray(sinr_db), side="right")


def throughput_mbps(sinr_db: Any, *, resource_blocks: int, numerology: int) -> NDArray[np.float64]:
    """Single-layer downlink throughput [Mbit/s] at a SINR [dB] (TS 38.306, 4.1.2, one layer)."""
    efficiency = np.concatenate([[0.0], cqi_efficiency()])[cqi_of_sinr(sinr_db)]
    slots = _SLOTS_PER_SECOND * subcarrier_spacing_hz(numerology) / 15e3
    symbols = resource_blocks * SUBCARRIERS_PER_RB * _SYMBOLS_PER_SLOT * slots
    return np.asarray(efficiency * symbols * (1 - _OVERHEAD_SHARE) / 1e6)
