"""Reports from which measured features are taken away, as if no terminal reported them."""

from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np
import xarray as xr

from ueloc_core.errors import ReportError
from ueloc_core.measurement.report_variables import VARIABLES, flags_of_codes
from ueloc_core.measurement.scenarios import FEATURES

FEATURE_VARIABLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "rsrp": ("rsrp_code",),
        "rsrq": ("rsrq_code",),
        "sinr": ("sinr_code",),
        "cqi": ("cqi",),
        "ri": ("ri",),
        "beams": ("beam_index", "beam_code"),
        "ul_sinr": ("ul_sinr_code",),
        "ta": ("ta_code",),
        "ta_offset": ("ta_offset_ns",),
        "aoa": ("aoa_code",),
        "throughput": ("throughput_kbps",),
        "bler": ("bler_percent",),
    }
)
"""Variables of a report data set that hold each feature."""


def reduced(reports: xr.Dataset, features: Collection[str]) -> xr.Dataset:
    """Reports that hold no feature but some, in the same order.

    The others are missing, in ``present`` too. Which sectors were heard stays, and so does the
    scenario, which also says how many neighbours a report may have.

    Parameters
    ----------
    reports
        A report data set (`ueloc_core.measurement.schemas.ReportSchema`).
    features
        Those that stay, some of `ueloc_core.measurement.scenarios.FEATURES`; ``rsrp`` among them.

    Raises
    ------
    ReportError
        If a feature is unknown, or ``rsrp`` would be taken away.
    """
    if unknown := sorted(set(features) - set(FEATURES)):
        raise ReportError(
            f"{', '.join(unknown)}: no features of a report",
            where="features that reports keep",
            remedy=f"Use some of {', '.join(FEATURES)}.",
        )
    if "rsrp" not in features:
        raise ReportError(
            "rsrp would be taken away, without which a sector is not heard",
            where="features that reports keep",
            remedy="Keep rsrp.",
        )
    gone = [v for f in FEATURES if f not in features for v in FEATURE_VARIABLES[f]]
    if not gone:
        return reports
    missing = {name: xr.full_like(reports[name], int(VARIABLES[name].missing)) for name in gone}
    kept = reports.assign(missing)
    present = reports["present"].copy(data=flags_of_codes(kept).astype(np.uint32))
    return kept.assign(present=present)
