"""The layers of a city's coverage: how each is stored, what stands where nothing is known."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

DIMS = ("y", "x")


@dataclass(frozen=True)
class PlaceLayer:
    """One stored quantity of every grid cell.

    Attributes
    ----------
    dtype
        Type in the store and for readers.
    unknown
        Value where nothing is known.
    lowest, highest
        Valid range of what is known, both ends included.
    """

    dtype: str
    unknown: float
    lowest: float
    highest: float


LAYERS: Mapping[str, PlaceLayer] = {
    "best_server": PlaceLayer("int64", 0, 1, 2**63 - 1),
    "serving_rsrp_dbm": PlaceLayer("float32", np.nan, -400, 60),
    "serving_sinr_db": PlaceLayer("float32", np.nan, -300, 250),
    "rssi_dbm": PlaceLayer("float32", np.nan, -130, 100),
    "cqi": PlaceLayer("int8", -1, 0, 15),
    "mcs": PlaceLayer("int8", -1, 0, 28),
    "throughput_mbps": PlaceLayer("float32", np.nan, 0, 10_000),
    "serving_timing_advance": PlaceLayer("int16", -1, 0, 3846),
    "serving_line_of_sight": PlaceLayer("float32", np.nan, 0, 1),
    "sectors_heard": PlaceLayer("int32", 0, 0, 2**31 - 1),
    "outdoor": PlaceLayer("uint8", 0, 0, 1),
}
"""All layers by name, in the order in which readers get them."""
