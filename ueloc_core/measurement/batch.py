"""Reports as tensors over the sectors of an atlas: what the measurement model reads and draws."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ueloc_core.measurement.bins import decode
from ueloc_core.measurement.report_variables import BEAMS
from ueloc_core.measurement.reports import INT16_MISSING, MISSING, SS_RSRP

_PER_SLOT = ("rsrp", "rsrq", "sinr")
_PER_BEAM = ("beam", "beam_level")
_WIDE = ("ul_sinr", "ta_offset")  # FAPI's int16 fields, where -1 is a value
_NOT_SELECTED = 0


@dataclass(frozen=True)
class ReportBatch:
    """Reports as int64 tensors.

    A missing value is `MISSING` (-1), in ``ul_sinr`` and ``ta_offset`` `INT16_MISSING`. The
    fields but the first two are missing by default: `ReportBatch.of`.

    Attributes
    ----------
    sector
        Position of each slot's sector in the atlas, shape (report, slot), -1 where empty.
    rsrp, rsrq, sinr
        SS-RSRP, SS-RSRQ and SS-SINR codes, shape (report, slot).
    cqi, ri
        Channel quality indicator 0..15 and rank 1..8 of the serving sector, shape (report,).
    ul_sinr
        FAPI code of the uplink SINR, shape (report,).
    ta
        Absolute timing advance 0..3846, shape (report,).
    ta_offset
        Uplink timing less the timing advance in force [ns], shape (report,).
    aoa
        UL-AoA code, shape (report,).
    throughput
        [kbit/s], shape (report,).
    bler
        [percent], shape (report,).
    selected
        1 where the serving sector was (re)selected for this report, else 0, shape (report,).
    scenario
        Index into `ueloc_core.measurement.scenarios.SCENARIOS`, shape (report,).
    beam, beam_level
        Index and L1-RSRP code of the serving sector's beams, the strongest first (an absolute
        code, then differential ones), shape (report, beam).
    """

    sector: Tensor
    rsrp: Tensor
    rsrq: Tensor
    sinr: Tensor
    cqi: Tensor
    ri: Tensor
    ul_sinr: Tensor
    ta: Tensor
    ta_offset: Tensor
    aoa: Tensor
    throughput: Tensor
    bler: Tensor
    selected: Tensor
    scenario: Tensor
    beam: Tensor
    beam_level: Tensor

    @classmethod
    def of(cls, sector: Any, rsrp: Any, **others: Any) -> "ReportBatch":
        """A batch in which what is not given is missing.

        Parameters
        ----------
        sector, rsrp
            As in the class, shape (report, slot); arrays or tensors of integers.
        others
            Any of the other fields; None counts as not given.

        Raises
        ------
        TypeError
            If a name is no field.
        ValueError
            If a field has not the shape that `sector` gives it.
        """
        sector = _integers(sector)
        given = {"sector": sector, "rsrp": _integers(rsrp)}
        given |= {name: _integers(value) for name, value in others.items() if value is not None}
        unknown = given.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise TypeError(f"a report has no {', '.join(sorted(unknown))}")
        for field in fields(cls):
            shape = _shape(field.name, sector)
            value = given.setdefault(field.name, torch.full(shape, missing_code(field.name)))
            if value.shape != shape:
                raise ValueError(f"{field.name} has shape {tuple(value.shape)}, not {shape}")
        return cls(**given)

    @classmethod
    def cat(cls, batches: Sequence["ReportBatch"]) -> "ReportBatch":
        """The reports of several batches, one after the other."""
        return cls(*(torch.cat([getattr(b, f.name) for b in batches]) for f in fields(cls)))

    def __len__(self) -> int:
        return int(self.sector.shape[0])

    def __getitem__(self, index: Any) -> "ReportBatch":
        return ReportBatch(*(getattr(self, f.name)[index] for f in fields(self)))

    def to(self, device: torch.device | str) -> "ReportBatch":
        """The batch on a device."""
        return ReportBatch(*(getattr(self, f.name).to(device) for f in fields(self)))

    @property
    def heard(self) -> Tensor:
        """Which slots hold a sector, shape (report, slot)."""
        return self.sector >= 0

    @property
    def level_dbm(self) -> Tensor:
        """Decoded RSRP [dBm], `nan` where missing, shape (report, slot)."""
        return decode(SS_RSRP, self.rsrp)


def missing_code(name: str) -> int:
    """What stands where a field of `ReportBatch` is missing (``selected`` is then 0)."""
    if name == "selected":
        return _NOT_SELECTED
    return INT16_MISSING if name in _WIDE else MISSING


def _shape(name: str, sector: Tensor) -> tuple[int, ...]:
    if name == "sector" or name in _PER_SLOT:
        return tuple(sector.shape)
    return (len(sector), BEAMS) if name in _PER_BEAM else (len(sector),)


def _integers(values: Any) -> Tensor:
    return torch.as_tensor(values).to(torch.int64)
