"""The fields of a report: 3GPP ranges, steps and codes.

A code ``k`` between the ends stands for the values in ``[lower_edge(k), lower_edge(k + 1))``;
the two end codes are open. Values decode to the middle of their bin. -1 stands for missing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MISSING = -1
"""Code of a missing value, but in FAPI's int16 fields, where -1 is a value."""

INT16_MISSING = -32768
"""Code of a missing value in FAPI's int16 fields (SCF 222: 0x8000)."""


@dataclass(frozen=True)
class QuantisedField:
    """A measured quantity as 3GPP encodes it.

    Attributes
    ----------
    name, unit
        What it is.
    low
        Lower edge of code 1 in `unit`: code 0 is everything below.
    step
        Width of a bin in `unit`.
    last
        The highest code, everything from its lower edge upwards.
    source
        Clause and table.
    """

    name: str
    unit: str
    low: float
    step: float
    last: int
    source: str

    def encode(self, value: Any) -> NDArray[np.int16]:
        """Codes of values; NaN gives `MISSING`."""
        value = np.asarray(value, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            code = np.clip(np.floor((value - self.low) / self.step) + 1, 0, self.last)
        return np.where(np.isnan(value), MISSING, np.nan_to_num(code)).astype(np.int16)

    def decode(self, code: Any) -> NDArray[np.float64]:
        """Middle of each code's bin; the open end codes as if they were as wide; missing is NaN."""
        code = np.asarray(code)
        value = self.low + (code - 0.5) * self.step
        return np.where(code == MISSING, np.nan, value)

    def lower_edge(self, code: Any) -> Any:
        """Lower edge of a code's bin (code 0 reaches down to minus infinity)."""
        return self.low + (code - 1) * self.step


SS_RSRP = QuantisedField("SS-RSRP", "dBm", -156.0, 1.0, 126, "TS 38.133, table 10.1.6.1-1")
SS_RSRQ = QuantisedField("SS-RSRQ", "dB", -43.0, 0.5, 127, "TS 38.133, table 10.1.11.1-1")
SS_SINR = QuantisedField("SS-SINR", "dB", -23.0, 0.5, 127, "TS 38.133, table 10.1.16.1-1")
CQI_LAST = 15  # TS 38.214, table 5.2.2.1-2


def encode_rsrp(value_dbm: Any) -> NDArray[np.int16]:
    """SS-RSRP code 0..126 of a level [dBm] (TS 38.133, table 10.1.6.1-1).

    >>> encode_rsrp([-156.5, -156.0, -100.2, -31.0, 0.0]).tolist()
    [0, 1, 56, 126, 126]
    """
    return SS_RSRP.encode(value_dbm)


def decode_rsrp(code: Any) -> NDArray[np.float64]:
    """Mid-bin SS-RSRP [dBm] of a code."""
    return SS_RSRP.decode(code)


def encode_rsrq(value_db: Any) -> NDArray[np.int16]:
    """SS-RSRQ code 0..127 of a ratio [dB] (TS 38.133, table 10.1.11.1-1)."""
    return SS_RSRQ.encode(value_db)


def decode_rsrq(code: Any) -> NDArray[np.float64]:
    """Mid-bin SS-RSRQ [dB] of a code."""
    return SS_RSRQ.decode(code)


def encode_sinr(value_db: Any) -> NDArray[np.int16]:
    """SS-SINR code 0..127 of a ratio [dB] (TS 38.133, table 10.1.16.1-1)."""
    return SS_SINR.encode(value_db)


def decode_sinr(code: Any) -> NDArray[np.float64]:
    """Mid-bin SS-SINR [dB] of a code."""
    return SS_SINR.decode(code)
