"""The evidence that the network gathers, against the measurement model it stands for.

A difference counts by its standard deviation under the exact posterior: what is common to all
places is of no matter, and what no terminal is likely to see is of little.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch
from made_up_windows import (
    ANGLE,
    BEAMS,
    ERROR,
    FITTED,
    PER_SLOT,
    QUALITY,
    TIMING,
    drawn,
    in_slots,
    reader_of,
    silenced,
    weighted,
    wide_atlas,
)

from ueloc_core.grid import BLOCK_CELLS
from ueloc_core.localization.block_grid import CELLS, take
from ueloc_core.localization.evidence import block_timing, quality_evidence, serving_evidence
from ueloc_core.localization.level_evidence import (
    ClassTables,
    PairMaps,
    Pairs,
    Shifts,
    level_evidence,
    unheard_silence,
)
from ueloc_core.measurement.level_tables import log_prob_over
from ueloc_core.measurement.scenarios import SCENARIOS

COUNT, SECTORS = 8, 18
ERRORS = {"error": ERROR, "fitted": FITTED}
COARSE, FINE = 3.5, 1.25  # steps of the shifts [dB]


class Ground:
    """Blocks of the city with ground to stand on, for each of some reports.

    Attributes
    ----------
    row, column, row_of
        The blocks, and their rows of the ground's tables, shape (report, block).
    outdoor
        Where the outdoor cells are among the blocks' cells, in the order of `chosen`.
    chosen
        The same cells in the atlas, shape of its ground.
    """

    def __init__(self, reader, count, every=1):
        outdoor = torch.from_numpy(reader.atlas.outdoor)
        rows, columns = (n // BLOCK_CELLS for n in outdoor.shape)
        cells = outdoor.reshape(rows, BLOCK_CELLS, columns, BLOCK_CELLS)
        open_ = torch.nonzero(cells.any(dim=3).any(dim=1))[::every]
        row, column = open_.T
        first = (reader.atlas.ground.row, reader.atlas.ground.column)
        self.row = (row + first[0] // BLOCK_CELLS).expand(count, -1)
        self.column = (column + first[1] // BLOCK_CELLS).expand(count, -1)
        self.row_of = reader.maps.grid.ground_rows(self.row, self.column)
        number = torch.full((rows, columns, BLOCK_CELLS, BLOCK_CELLS), -1)
        number[row, column] = torch.arange(len(row) * CELLS).reshape(-1, BLOCK_CELLS, BLOCK_CELLS)
        number = number.transpose(1, 2).reshape(outdoor.shape)
        chosen = outdoor & (number >= 0)
        self.outdoor, self.chosen = number[chosen], chosen.numpy()


def pair_rows(reader, batch, pairs, ground):
    sector = batch.sector[pairs.report, pairs.slot]
    return reader.maps.grid.rows(
        sector[:, None], ground.row[pairs.report], ground.column[pairs.report]
    )


def of_pairs(batch, pairs):
    return batch.level_dbm.nan_to_num(0.0)[pairs.report, pairs.slot]


def ceilings_of(reader, batch):
    return torch.stack(reader.model.levels.ceilings(batch), dim=1).float()


def found_levels(reader, batch, ground, step_db, others=SECTORS, *, apart=False):
    """Evidence of levels at all outdoor cells, shape (report, cell)."""
    levels = reader.model.levels
    shifts = Shifts.of(levels, step_db)
    pairs = Pairs.of(batch.sector, reader.maps.site, apart=apart)
    seen = PairMaps.cells(reader.maps.levels, pair_rows(reader, batch, pairs, ground))
    silence = unheard_silence(
        reader.maps,
        shifts,
        batch.sector,
        ceilings_of(reader, batch),
        *(ground.row, ground.column, ground.row_of),
        others,
    )
    value = level_evidence(levels, shifts, pairs, seen, of_pairs(batch, pairs), silence)
    return levels.map_error.level_exponent * value[:, ground.outdoor]


def exact_levels(reader, batch):
    """The model's log-likelihood of levels at all outdoor cells, shape (report, cell)."""
    atlas = reader.atlas
    maps = reader.places.levels_in(atlas.ground, atlas.outdoor)
    one_by_one = [
        log_prob_over(reader.model.levels, batch[i : i + 1], maps) for i in range(len(batch))
    ]
    return torch.cat(one_by_one)


@cache
def world(error):
    """A reader of the wide maps, reports of all scenarios, the ground, and exact levels."""
    reader = reader_of(error, wide_atlas)
    batch = drawn(60, 6, make_atlas=wide_atlas)[0]
    batch = batch[torch.nonzero(batch.heard.sum(dim=1) > 1)[:COUNT, 0]]
    ground = Ground(reader, COUNT)
    return reader, batch, ground, exact_levels(reader, batch)


@pytest.fixture(scope="module", params=ERRORS.values(), ids=ERRORS)
def seen(request):
    return world(request.param)


# -- which sectors are heard ------------------------------------------------------------------


def test_pairs_are_the_heard_sectors_those_alone_at_their_site_first():
    generator = torch.Generator().manual_seed(0)
    site = torch.arange(SECTORS) // 3
    sector = torch.rand(40, SECTORS, generator=generator).argsort(dim=1)[:, :8]
    heard = torch.randint(1, 9, (40, 1), generator=generator)
    sector = torch.where(torch.arange(8) < heard, sector, -1)
    pairs = Pairs.of(sector, site)
    found = list(zip(pairs.report.tolist(), pairs.slot.tolist(), strict=True))
    assert len(set(found)) == len(found) == int((sector >= 0).sum())
    own = site[sector[pairs.report, pairs.slot]].tolist()
    sites = list(zip(pairs.report.tolist(), own, strict=True))
    for k, one in enumerate(sites):
        assert (sites.count(one) == 1) == (k < pairs.single)
    group = dict(zip(sites[pairs.single :], pairs.group.tolist(), strict=True))
    assert len(set(group.values())) == len(group) == len(pairs.group_report)
    assert [group[s] for s in sites[pairs.single :]] == pairs.group.tolist()
    assert all(int(pairs.group_report[g]) == report for (report, _), g in group.items())
    apart = Pairs.of(sector, site, apart=True)
    assert apart.single == len(apart.report) == len(found)


# -- levels ----------------------------------------------------------------------------------


def test_levels_and_silence_are_the_model_s(seen):
    """Half of the reports within 0.35 nats, all within 1, over all outdoor cells."""
    reader, batch, ground, exact = seen
    off = weighted(exact, found_levels(reader, batch, ground, FINE) - exact)
    assert float(off.median()) < 0.35
    assert float(off.max()) < 1.0
    assert float(exact.std(dim=1).min()) > 2  # it tells places apart


def test_coarser_shifts_and_fewer_sectors_cost_little(seen):
    """As the network looks at them: steps of 3.5 dB, the strongest six of the others."""
    reader, batch, ground, exact = seen
    off = weighted(exact, found_levels(reader, batch, ground, COARSE, 6) - exact)
    assert float(off.median()) < 0.45
    assert float(off.max()) < 1.2


def of_one_site(batch, site):
    """The reports without what they hold of other sites than the serving sector's."""
    own = site[batch.sector.clamp_min(0)]
    other = own != own[:, :1]
    order = other.int().argsort(dim=1, stable=True)
    kept = {n: torch.where(other, -1, getattr(batch, n)).gather(1, order) for n in PER_SLOT}
    return replace(batch, **kept)


def test_two_sectors_of_a_site_share_its_error(seen):
    """Reports of one site alone: taken for sectors of two sites they would be far off."""
    reader, _, ground, _ = seen
    reports = of_one_site(drawn(60, 6, make_atlas=wide_atlas)[0], reader.maps.site)
    batch = reports[torch.nonzero(reports.heard.sum(dim=1) > 1)[:COUNT, 0]]
    assert len(batch) == COUNT
    exact = exact_levels(reader, batch)
    together, apart = (
        weighted(exact, found_levels(reader, batch, ground, FINE, apart=a) - exact)
        for a in (False, True)
    )
    assert float(together.median()) < 0.7
    assert float(apart.median()) > 1.4 * float(together.median())


def test_the_order_of_slots_is_of_no_matter(seen):
    reader, batch, _, _ = seen
    ground = Ground(reader, COUNT, every=6)
    order = [0, 4, 2, 7, 1, 6, 5, 3]
    first, second = (
        found_levels(reader, b, ground, COARSE) for b in (batch, in_slots(batch, order))
    )
    torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-4)


def test_reports_do_not_depend_on_each_other(seen):
    reader, batch, _, _ = seen
    ground = Ground(reader, COUNT, every=6)
    whole = found_levels(reader, batch, ground, COARSE)
    for i in (0, COUNT - 1):
        alone = found_levels(reader, batch[i : i + 1], Ground(reader, 1, every=6), COARSE)
        torch.testing.assert_close(alone[0], whole[i], atol=1e-3, rtol=1e-4)


def test_a_wider_spread_is_surer_of_less(seen):
    """Evidence varies less over the places as the spreads grow."""
    reader, batch, _, _ = seen
    ground = Ground(reader, COUNT, every=6)
    levels, maps = reader.model.levels, reader.maps
    shifts, pairs = Shifts.of(levels, COARSE), Pairs.of(batch.sector, maps.site)
    at = PairMaps.cells(maps.levels, pair_rows(reader, batch, pairs, ground))
    none = torch.zeros(COUNT, at.mean_dbm.shape[1], len(shifts.common))
    before = None
    for widen in (1.0, 2.0, 4.0):
        wide = PairMaps(at.mean_dbm, widen * at.spread_db, at.tail_share)
        value = level_evidence(levels, shifts, pairs, wide, of_pairs(batch, pairs), none)
        varied = value[:, ground.outdoor].std(dim=1)
        assert before is None or (varied < before).all()
        before = varied


# -- classes ---------------------------------------------------------------------------------


def class_tables(reader, batch):
    pairs = Pairs.of(batch.sector, reader.maps.site, apart=True)
    return pairs, ClassTables(
        reader.maps.levels,
        Shifts.of(reader.model.levels, 4.0),
        pairs,
        of_pairs(batch, pairs),
        ceilings_of(reader, batch),
        torch.ones(len(pairs.report)),
    )


def correlation(first, second):
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


def test_classes_of_cells_follow_the_exact_evidence(seen):
    """Coarser, for it finds where to look: most of what differs between places is in it."""
    reader, batch, ground, exact = seen
    pairs, tables = class_tables(reader, batch)
    rows = pair_rows(reader, batch, pairs, ground)
    value = tables.at(take(reader.maps.levels.cell_class, rows), ground.row_of).flatten(1)
    value = reader.model.map_error.level_exponent * value[:, ground.outdoor]
    near = exact > exact.amax(dim=1, keepdim=True) - 20
    for i in range(COUNT):
        assert near[i].sum() > 50
        assert correlation(value[i][near[i]], exact[i][near[i]]) > 0.85
    off = weighted(exact, value - exact)
    assert float(off.median()) < 1.5


def test_classes_of_blocks_follow_the_exact_evidence_of_their_cells(seen):
    reader, batch, ground, exact = seen
    pairs, tables = class_tables(reader, batch)
    rows = pair_rows(reader, batch, pairs, ground)
    value = tables.at(take(reader.maps.levels.block_class, rows), ground.row_of)
    value = reader.model.map_error.level_exponent * value
    cells = torch.full((COUNT, value.shape[1] * CELLS), -torch.inf)
    cells[:, ground.outdoor] = exact
    of_block = cells.reshape(COUNT, -1, CELLS)
    open_ = of_block.isfinite().sum(dim=2).clamp_min(1)
    mean = of_block.logsumexp(dim=2) - open_.log()
    for i in range(COUNT):
        near = mean[i] > mean[i].max() - 20
        assert near.sum() > 10
        assert correlation(value[i][near], mean[i][near]) > 0.7


def test_the_best_cells_by_class_hold_the_exact_mass(seen):
    """The purpose of the classes: of 768 blocks the best 100 hold nearly all of it."""
    reader, batch, ground, exact = seen
    pairs, tables = class_tables(reader, batch)
    rows = pair_rows(reader, batch, pairs, ground)
    value = tables.at(take(reader.maps.levels.cell_class, rows), ground.row_of)
    value = reader.model.map_error.level_exponent * value
    indoors = torch.ones_like(value, dtype=torch.bool).flatten(1)
    indoors[:, ground.outdoor] = False
    value = torch.where(indoors.reshape(value.shape), -torch.inf, value).logsumexp(dim=2)
    mass = torch.zeros(COUNT, indoors.shape[1])
    mass[:, ground.outdoor] = torch.softmax(exact, dim=1)
    mass = mass.reshape(COUNT, -1, CELLS).sum(dim=2)
    held = mass.gather(1, value.topk(100, dim=1).indices).sum(dim=1)
    assert float(held.min()) > 0.9
    assert float(held.median()) > 0.99


# -- the serving sector ----------------------------------------------------------------------


def every_cell(ground):
    return torch.arange(CELLS).expand(*ground.row.shape, CELLS)


@cache
def serving_exact(error, scenario):
    """Reports of a scenario, and the model's log-likelihood of their serving sector's fields."""
    reader = reader_of(error, wide_atlas)
    batch = drawn(12, 4, scenario, make_atlas=wide_atlas)[0][:8]
    ground = Ground(reader, len(batch))
    told = serving_evidence(
        reader.model, reader.maps, batch, ground.row, ground.column, every_cell(ground)
    )
    exact = []
    for i in range(len(batch)):
        serving = int(batch.sector[i, 0])
        maps = reader.places.serving_in(serving, reader.atlas.ground, reader.atlas.outdoor)
        one = batch[i : i + 1]
        sinr = reader.model.expected_uplink_db(one, maps)
        exact.append(
            torch.stack(
                [
                    reader.model.timing.log_prob(one, maps.delays, sinr)[0],
                    reader.model.directions(one, maps, sinr)[0],
                ]
            )
        )
    return reader, batch, ground, told, torch.stack(exact)


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_timing_angles_and_beams_are_the_model_s(error, scenario):
    """Within 0.03 nats by the posterior, and 0.15 at any place that is not ruled out."""
    _, batch, ground, told, exact = serving_exact(error, scenario)
    for value, own in ((told.timing, exact[:, 0]), (told.directions, exact[:, 1])):
        off = value[:, ground.outdoor] - own
        assert float(weighted(own, off).max()) < 0.03
        near = own > own.amax(dim=1, keepdim=True) - 12
        middle = torch.where(near, off, torch.nan).nanmedian(dim=1, keepdim=True).values
        assert float((off - middle).abs()[near].max()) < 0.15
    torch.testing.assert_close(told.both, told.timing + told.directions)
    timed = (batch.ta >= 0).any()
    assert timed == (scenario != "nr_rsrp_only")
    assert (float(exact[:, 0].std()) > 1) == bool(timed)
    assert (float(exact[:, 1].std()) > 1) == (scenario in ("nr_beams", "full"))


def test_what_is_not_told_is_nothing():
    reader, batch, ground, told, _ = serving_exact(ERROR, "full")
    at = (ground.row, ground.column, every_cell(ground))
    silent = serving_evidence(
        reader.model, reader.maps, silenced(batch, (*TIMING, *ANGLE, *BEAMS)), *at
    )
    assert (silent.both == 0).all()
    untimed = serving_evidence(reader.model, reader.maps, silenced(batch, TIMING), *at)
    assert (untimed.timing == 0).all()
    torch.testing.assert_close(untimed.directions, told.directions)
    unasked = serving_evidence(reader.model, reader.maps, batch, *at, timing=False)
    assert (unasked.timing == 0).all()
    torch.testing.assert_close(unasked.directions, told.directions)
    undirected = serving_evidence(reader.model, reader.maps, silenced(batch, (*ANGLE, *BEAMS)), *at)
    assert (undirected.directions == 0).all()
    torch.testing.assert_close(undirected.timing, told.timing)


def test_beams_need_the_level_of_their_sector():
    """They are told against it; without it only the angle counts."""
    reader, batch, ground, _, _ = serving_exact(ERROR, "full")
    at = (ground.row, ground.column, every_cell(ground))
    mute = replace(batch, rsrp=torch.where(torch.arange(8) == 0, -1, batch.rsrp))
    both = [
        serving_evidence(reader.model, reader.maps, b, *at) for b in (mute, silenced(mute, BEAMS))
    ]
    torch.testing.assert_close(both[0].both, both[1].both)


def test_a_few_cells_are_those_of_all():
    reader, batch, ground, told, _ = serving_exact(FITTED, "full")
    generator = torch.Generator().manual_seed(3)
    block = torch.randint(0, ground.row.shape[1], (len(batch), 9), generator=generator)
    cell = torch.randint(0, CELLS, (len(batch), 9, 1), generator=generator)
    found = serving_evidence(
        reader.model,
        reader.maps,
        batch,
        *(v.gather(1, block) for v in (ground.row, ground.column)),
        cell,
    )
    place = block * CELLS + cell[..., 0]
    for name in ("timing", "directions"):
        torch.testing.assert_close(getattr(found, name), getattr(told, name).gather(1, place))


def test_the_timing_of_a_block_follows_that_of_its_cells():
    """Wider, for its middle stands for all of it; over the blocks it goes with their means."""
    reader, batch, ground, told, _ = serving_exact(ERROR, "nr_rsrp_ta")
    rows = reader.maps.grid.rows(batch.sector[:, :1], ground.row, ground.column)
    found = block_timing(reader.model, reader.maps, batch, rows)
    timed = batch.ta >= 0
    assert 0 < int(timed.sum()) < len(timed) or timed.all()
    assert (found[~timed] == 0).all()
    cells = torch.full_like(told.timing, -torch.inf)
    cells[:, ground.outdoor] = told.timing[:, ground.outdoor]
    of_block = cells.reshape(*found.shape, CELLS)
    open_ = of_block.isfinite().sum(dim=2)
    mean = of_block.logsumexp(dim=2) - open_.clamp_min(1).log()
    for i in torch.nonzero(timed)[:, 0].tolist():
        near = (open_[i] > 0) & (mean[i] > mean[i][open_[i] > 0].max() - 10)
        assert correlation(found[i][near], mean[i][near]) > 0.65
    assert (found <= 0).all()


# -- quality ---------------------------------------------------------------------------------


def test_quality_is_the_model_s_but_for_throughput_and_block_errors(seen):
    """Given the levels: RSRQ, SINR, CQI and rank, by the power of what is unreported."""
    reader, batch, ground, levels = seen
    atlas, maps = reader.atlas, reader.maps
    pairs = Pairs.of(batch.sector, maps.site)
    at = PairMaps.cells(maps.levels, pair_rows(reader, batch, pairs, ground))
    found = quality_evidence(reader.model, maps.levels, batch, pairs, at, ground.row_of)
    assert (found.amax(dim=1) == 0).all()
    found = found[:, ground.outdoor]
    simpler = silenced(batch, ("throughput", "bler"))
    exact = reader.model.quality_log_prob(
        simpler, reader.places.levels_in(atlas.ground, atlas.outdoor)
    )
    assert float(exact.std(dim=1).max()) > 0.3
    off = weighted(levels + exact, found - exact)
    assert float(off.median()) < 0.25
    assert float(off.max()) < 0.6
    silent = quality_evidence(
        reader.model, maps.levels, silenced(batch, QUALITY), pairs, at, ground.row_of
    )
    assert (silent == 0).all()
