"""The columns of report files as the codes of a data set, and back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.measurement.reports import (
    FIELDS,
    MISSING,
    QuantisedField,
    decode_beams,
    encode_beams,
    ul_aoa_of_compass_deg,
)

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Coded:
    """A column of a file and the variable that holds its codes.

    Attributes
    ----------
    variable
        Of a data set of reports.
    to_field, from_field
        Between the column's unit and that of the variable's field.
    """

    variable: str
    to_field: Callable[[Values], Values] = np.asarray
    from_field: Callable[[Values], Values] = np.asarray

    def encode(self, values: Values) -> NDArray[Any]:
        """Codes of a column's values; NaN gives the code for missing."""
        return self._field.encode(self.to_field(values))

    def decode(self, codes: NDArray[Any]) -> Values:
        """A column's values in the middle of the codes' bins, NaN where missing."""
        return self.from_field(self._field.decode(codes))

    @property
    def _field(self) -> QuantisedField:
        encoding = FIELDS[self.variable].encoding
        assert encoding is not None
        return encoding


OF_SECTOR = {
    "rsrp_dbm": Coded("rsrp_code"),
    "rsrq_db": Coded("rsrq_code"),
    "sinr_db": Coded("sinr_code"),
}
"""Columns of every sector."""

OF_SERVING = {
    "cqi": Coded("cqi"),
    "ri": Coded("ri"),
    "ta": Coded("ta_code"),
    "ta_offset_ns": Coded("ta_offset_ns"),
    "aoa_deg": Coded("aoa_code", ul_aoa_of_compass_deg, ul_aoa_of_compass_deg),
    "ul_sinr_db": Coded("ul_sinr_code"),
    "throughput_mbps": Coded("throughput_kbps", lambda v: 1e3 * v, lambda v: v / 1e3),
    "bler": Coded("bler_percent", lambda v: 100 * v, lambda v: v / 100),
}
"""Columns that are read from the row of the serving sector."""


def beam_codes(index: Values, level_dbm: Values) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Indices and codes of beams, the strongest first.

    Parameters
    ----------
    index, level_dbm
        Of beams in any order, NaN in both where there is none, shape (report, beam).

    Returns
    -------
    ``beam_index`` and ``beam_code`` of a data set, shape (report, beam).
    """
    order = np.argsort(-level_dbm, axis=1, kind="stable")  # NaN sorts last
    index = np.take_along_axis(index, order, axis=1)
    codes = encode_beams(np.take_along_axis(level_dbm, order, axis=1))
    return np.where(np.isnan(index), MISSING, np.nan_to_num(index)).astype(np.int16), codes


def beam_levels(index: NDArray[Any], code: NDArray[Any]) -> tuple[Values, Values]:
    """Indices and levels [dBm] of `beam_codes`, NaN where there is none."""
    return np.where(index == MISSING, np.nan, index), decode_beams(code)
