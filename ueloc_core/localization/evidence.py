"""How likely the other fields of a report are at the places that a locator looks at.

What its levels say is in `level_evidence`; here are quality, timing, angles and beams. Fields and
steps that cost more than they tell are left out, and the middle of a block may stand for all of
its cells.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ueloc_core.localization.block_grid import take
from ueloc_core.localization.level_blocks import LevelBlocks
from ueloc_core.localization.level_evidence import PairMaps, Pairs
from ueloc_core.localization.map_blocks import MapBlocks
from ueloc_core.localization.serving_blocks import DELAY_STEP_NS, DELAYS
from ueloc_core.measurement.accuracy import uplink_sinr_db
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.measurement.reports import MISSING

_BLOCK_NS = 30.0  # scatter of delays within a block
_LEAST_BLOCK = -12.0  # nats: a block's middle does not stand for all of its cells
_QUALITY_STEPS = (2.5, 2.0)  # factor of the load's step, and step of the power [dB]


def quality_evidence(
    model: MeasurementModel,
    maps: LevelBlocks,
    reports: ReportBatch,
    pairs: Pairs,
    seen: PairMaps,
    ground: Tensor,
) -> Tensor:
    """Log-likelihood of RSRQ, SINR, CQI and rank at the cells of blocks, less its largest.

    Shape (report, place). Given the reported levels they depend on the place by the power of the
    unreported sectors. Throughput and block errors are left out: the SINR tells most of it.

    Parameters
    ----------
    model
        The measurement model.
    maps
        Levels of all sectors.
    reports
        The reports.
    pairs, seen
        Heard sectors, and their levels at the places.
    ground
        Rows of the ground's tables, shape (report, block).
    """
    whole = take(maps.total_mw, ground).flatten(1)
    heard = torch.zeros_like(whole).index_add(0, pairs.report, 10 ** (seen.mean_dbm / 10))
    fields = torch.cat(
        [reports.rsrq, reports.sinr, torch.stack([reports.cqi, reports.ri], dim=1)], dim=1
    )
    n = torch.nonzero((fields != MISSING).any(dim=1))[:, 0]
    if not len(n):
        return torch.zeros_like(whole)
    some = reports[n]
    missing = torch.full_like(some.cqi, MISSING)
    table = model.quality.table(replace(some, throughput=missing, bler=missing), *_QUALITY_STEPS)
    found = model.quality.log_prob(table, (whole - heard)[n].clamp_min(0.0)).float()
    return torch.zeros_like(whole).index_copy(0, n, found - found.amax(dim=1, keepdim=True))


@dataclass(frozen=True)
class Told:
    """Log-likelihood of what a report tells of its serving sector, shape (report, place) each.

    Attributes
    ----------
    timing
        Of the timing advance and its offset.
    directions
        Of the angle of arrival and the beams.
    """

    timing: Tensor
    directions: Tensor

    @property
    def both(self) -> Tensor:
        """Their sum."""
        return self.timing + self.directions


def serving_evidence(
    model: MeasurementModel,
    maps: MapBlocks,
    reports: ReportBatch,
    row: Tensor,
    column: Tensor,
    cell: Tensor,
    *,
    timing: bool = True,
) -> Told:
    """Log-likelihood of timing, angle and beams at cells of blocks; places are block by block.

    Parameters
    ----------
    model
        The measurement model.
    maps, row, column, cell
        As of `ServingBlocks.maps`.
    reports
        The reports; where nothing is told the value is 0.
    timing
        Whether timing is asked for; it is 0 otherwise.
    """
    beams = (reports.beam[:, 0] != MISSING) & (reports.rsrp[:, 0] != MISSING)
    aimed = (reports.aoa != MISSING) | beams
    told = aimed | (reports.ta != MISSING) if timing else aimed
    count = cell.shape[1] * cell.shape[2]
    of_timing, of_directions = (
        torch.zeros(len(reports), count, device=row.device) for _ in range(2)
    )
    for chosen, with_beams in ((told & ~beams, False), (beams, True)):
        n = torch.nonzero(chosen)[:, 0]
        if not len(n):
            continue
        some = reports[n]
        at = maps.serving.maps(some.sector[:, 0], row[n], column[n], cell[n], beams=with_beams)
        sinr = uplink_of(model, some, at.reference_dbm)
        if bool(aimed[n].any()):
            of_directions[n] = model.directions(some, at, sinr).float()
        if timing:
            of_timing[n] = model.timing.closed(some, at.delays, sinr).float()
    return Told(of_timing, of_directions)


def block_timing(
    model: MeasurementModel, maps: MapBlocks, reports: ReportBatch, rows: Tensor
) -> Tensor:
    """Log-likelihood of timing in the middle of blocks, shape (report, block).

    Parameters
    ----------
    rows
        Rows of the serving sectors' tables, shape (report, block).
    """
    value = torch.zeros(rows.shape, device=rows.device)
    n = torch.nonzero(reports.ta != MISSING)[:, 0]
    if not len(n):
        return value
    some, serving = reports[n], reports.sector[n, 0]
    delay = DELAY_STEP_NS * torch.arange(DELAYS, device=rows.device, dtype=torch.float32)
    nodes = torch.cat([delay, delay]).expand(len(n), -1)
    known = torch.arange(2 * DELAYS, device=rows.device) < DELAYS
    sinr = uplink_of(model, some, maps.serving.reference_dbm[serving])
    tables = model.timing.in_time_and_late(some, nodes, known, sinr, _BLOCK_NS)
    flat = torch.stack(tables, dim=2).flatten(0, 1)  # (report * class, 2)
    first = 2 * DELAYS * torch.arange(len(n), device=rows.device)[:, None]
    found = take(flat, first + take(maps.serving.block_delay, rows[n]).long())
    late = model.timing.late_share(take(maps.serving.block_sight, rows[n]))
    told = torch.lerp(found[..., 0], found[..., 1], late).clamp_min(1e-30).log()
    value[n] = told - told.amax(dim=1, keepdim=True)
    return value.clamp_min(_LEAST_BLOCK)


def uplink_of(model: MeasurementModel, reports: ReportBatch, reference_dbm: Tensor) -> Tensor:
    """Expected uplink SINR [dB] of reports, shape (report,)."""
    level = reports.level_dbm[:, 0].nan_to_num(model.settings.detection_threshold_dbm)
    expected: Tensor = uplink_sinr_db(
        level, reference_dbm, model.settings.terminal.power_dbm, model.radio.numerology
    )
    return expected
