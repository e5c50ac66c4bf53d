"""Tables of blocks: what they hold at any place is what the atlas's own maps hold there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_windows import ERROR, FITTED, as_raster, drawn, model_of, reader_of, weighted
from made_up_world import default_atlas

from ueloc_core.grid import BLOCK_CELLS, Window
from ueloc_core.localization.block_grid import CELLS, take
from ueloc_core.localization.map_blocks import MapBlocks
from ueloc_core.localization.serving_blocks import DELAY_STEP_NS, DELAYS
from ueloc_core.localization.silence import SilenceTable, log_silence, probability_below
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.measurement.place_maps import PlaceMaps

SECTORS = 18
ERRORS = {"none": MapError.none(), "error": ERROR, "fitted": FITTED}
ERROR_OF = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)


def around(atlas, margin=8):
    """A window that holds all maps and some cells more on every side."""
    windows = [*atlas.windows, atlas.ground]
    low = [min(getattr(w, n) for w in windows) - margin for n in ("column", "row")]
    high = [
        max(w.column + w.columns for w in windows) + margin,
        max(w.row + w.rows for w in windows) + margin,
    ]
    return Window(*low, *np.subtract(high, low).tolist(), atlas.ground.cell_m)


def blocks_of(window):
    """Row and column of a window's blocks, shape (1, block), and how many there are of each."""
    rows, columns = window.rows // BLOCK_CELLS, window.columns // BLOCK_CELLS
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    first = window.row // BLOCK_CELLS, window.column // BLOCK_CELLS
    return (row + first[0]).reshape(1, -1), (column + first[1]).reshape(1, -1), (rows, columns)


@pytest.fixture(scope="module")
def everywhere():
    """The window around all maps and its blocks."""
    window = around(default_atlas())
    return window, *blocks_of(window)


# -- where a block stands in the tables ------------------------------------------------------


def test_the_maps_lie_far_from_the_origin_of_the_crs():
    """Else the tests of metres here would prove little."""
    assert min(default_atlas().ground.bounds_m) > 300_000
    assert default_atlas().ground.bounds_m[1] > 6_600_000


@ERROR_OF
def test_levels_are_the_atlas_s_cell_by_cell(everywhere, error):
    """Of every sector, within its window, across its border, and beyond all maps."""
    window, row, column, shape = everywhere
    reader = reader_of(error)
    levels, grid = reader.maps.levels, reader.maps.grid
    rows = grid.rows(torch.arange(SECTORS)[:, None], row, column)
    maps = reader.places.levels_in(window, np.ones(window.shape, dtype=bool))
    mean, spread, hit = (v[0] for v in reader.model.levels.mean_and_spread(maps))
    share = torch.zeros_like(mean)
    if not reader.model.levels.has_no_tail:
        share = torch.where(hit, reader.model.levels.tail_share(mean, spread), 0.0)

    def found(table):
        return as_raster(take(table, rows).float(), *shape).reshape(SECTORS, -1)

    np.testing.assert_array_equal(found(levels.mean_dbm), mean)
    np.testing.assert_array_equal(found(levels.hit) > 0, hit)
    np.testing.assert_allclose(found(levels.spread_db), spread, rtol=1e-3)  # half precision
    np.testing.assert_allclose(found(levels.tail_share), share, rtol=1e-3, atol=1e-6)
    assert 0.05 < float((rows == grid.nowhere).float().mean()) < 0.95
    unhit = reader.model.map_error
    assert levels.unhit[0] == pytest.approx(unhit.unhit_dbm)
    assert levels.unhit[1] == pytest.approx(float(spread[~hit].max()), rel=1e-3)


def test_no_sector_is_nowhere(everywhere):
    _, row, column, _ = everywhere
    grid = reader_of().maps.grid
    assert (grid.rows(torch.tensor([[-1]]), row, column) == grid.nowhere).all()


def test_rows_of_slots_and_of_windows_are_those_of_blocks(everywhere):
    """Also of windows that lie partly, or wholly, beside a sector's own."""
    window, _, _, _ = everywhere
    grid, side = reader_of().maps.grid, 7
    first = (window.row // BLOCK_CELLS, window.column // BLOCK_CELLS)
    last = window.rows // BLOCK_CELLS, window.columns // BLOCK_CELLS
    generator = torch.Generator().manual_seed(1)
    ends = zip(first, last, strict=True)
    corner = [f + torch.randint(-8, n, (60,), generator=generator) for f, n in ends]
    corner = torch.stack(corner, dim=1)
    sector = torch.randint(0, SECTORS, (60, 3), generator=generator)
    own = torch.arange(side)
    row = corner[:, :1] + own.repeat_interleave(side)[None]
    column = corner[:, 1:] + own.repeat(side)[None]
    of_slots = grid.slot_rows(sector, row, column)
    for slot in range(3):
        expected = grid.rows(sector[:, slot, None], row, column)
        torch.testing.assert_close(of_slots[:, slot], expected)
        squares = grid.square_rows(sector[:, slot], corner, side)
        torch.testing.assert_close(squares.long(), expected)
    outside = (of_slots == grid.nowhere).float().mean(dim=2)
    assert (outside == 1).any()
    assert ((outside > 0) & (outside < 1)).any()


def test_the_ground_is_the_atlas_s(everywhere):
    """Outdoor cells and building heights, and nothing of either beyond the ground."""
    window, row, column, shape = everywhere
    maps, atlas = reader_of().maps, default_atlas()
    ground = maps.grid.ground_rows(row, column)[0]
    outdoor = as_raster(take(maps.outdoor, ground), *shape)
    np.testing.assert_array_equal(outdoor, atlas.outdoor_in(window))
    height = as_raster(atlas_blocks(atlas.building_height_in(window), shape), *shape)
    np.testing.assert_array_equal(height, atlas.building_height_in(window))  # the helper is right
    mean = atlas_blocks(atlas.building_height_in(window), shape).mean(axis=1)
    np.testing.assert_allclose(take(maps.height_m, ground), mean, rtol=1e-6)
    assert (ground == maps.grid.ground_nowhere).any()


def atlas_blocks(raster, shape):
    """A raster block by block, shape (block, cell)."""
    rows, columns = shape
    return raster.reshape(rows, 4, columns, 4).swapaxes(1, 2).reshape(-1, CELLS)


def test_the_middle_of_a_block_is_the_outdoor_cell_nearest_to_it():
    maps = reader_of().maps
    at = np.arange(CELLS)
    distance = np.hypot(at % 4 - 1.5, at // 4 - 1.5)
    outdoor, centre = maps.outdoor.numpy(), maps.centre.numpy()
    open_ = outdoor.any(axis=1)
    assert 0 < open_.sum() < len(open_)
    assert outdoor[np.arange(len(centre)), centre][open_].all()
    nearest = np.where(outdoor, distance, np.inf).min(axis=1)
    # on an equal footing any of the nearest will do
    assert (distance[centre][open_] <= nearest[open_] + 0.15).all()
    assert (distance[centre][~open_] < 1).all()


def test_centres_of_cells_are_exact_whatever_the_origin(everywhere):
    window, row, column, shape = everywhere
    maps = reader_of().maps
    every = torch.arange(CELLS).expand(*row.shape, CELLS)
    found = maps.grid.cell_centres_m(row, column, every)[0].double()
    origin_m = np.array(default_atlas().ground.bounds_m[:2])
    x, y = np.meshgrid(window.x_centres_m, window.y_centres_m)
    for axis, expected in enumerate((x, y)):
        centres_m = as_raster(found[..., axis], *shape) + origin_m[axis]
        np.testing.assert_allclose(centres_m, expected, atol=1e-6)


# -- levels of blocks ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_sector():
    """Cells of one sector's window: mean, spread, share, and which of them are outdoors."""
    maps = reader_of(FITTED).maps
    levels, grid = maps.levels, maps.grid
    part = slice(5 * grid.side**2, 6 * grid.side**2)
    outdoor = take(maps.outdoor, grid.ground_rows(*grid.window_of(5))[0]).numpy()
    tables = (levels.mean_dbm, levels.spread_db, levels.tail_share)
    return levels, part, outdoor, *(t[part].double().numpy() for t in tables)


def test_a_block_s_level_is_that_of_its_outdoor_cells(of_sector):
    """Its spread holds that of a cell and how much its cells differ."""
    levels, part, outdoor, mean, spread, _ = of_sector
    for k in range(0, len(outdoor), 7):
        chosen = outdoor[k] if outdoor[k].any() else np.ones(CELLS, dtype=bool)
        middle = mean[k, chosen].mean()
        variance = (spread[k, chosen] ** 2).mean() + mean[k, chosen].var()
        assert float(levels.block_mean_dbm[part][k]) == pytest.approx(middle, abs=1e-3)
        assert float(levels.block_spread_db[part][k]) == pytest.approx(variance**0.5, rel=1e-3)


@pytest.mark.parametrize("of", ["blocks", "cells"])
def test_classes_are_within_half_a_step(of):
    """Of level and of spread; beyond the last class it is the last one."""
    levels = reader_of(FITTED).maps.levels
    if of == "blocks":
        classes, mean, spread = levels.block_class, levels.block_mean_dbm, levels.block_spread_db
    else:
        classes, mean, spread = levels.cell_class, levels.mean_dbm, levels.spread_db
    nodes, spreads, _ = levels.class_levels()
    index = classes.long().flatten()
    for of_class, value, steps in (
        (nodes, mean, nodes[0]),
        (spreads.log(), spread.float().log(), spreads[:, 0].log()),
    ):
        within = value.flatten().clamp(float(steps[0]), float(steps[-1]))
        off = (of_class.flatten()[index] - within).abs()
        assert float(off.max()) <= 0.505 * float(steps[1] - steps[0])  # spreads are halves
    beyond = (mean < nodes[0, 0]) | (mean > nodes[0, -1])
    assert beyond.float().mean() < 0.01


def test_the_strongest_sectors_of_a_block_are_ranked():
    maps = reader_of().maps
    levels, grid = maps.levels, maps.grid
    count = len(maps.outdoor)
    strength = np.full((SECTORS, count), -np.inf)
    for s in range(SECTORS):
        ground = grid.ground_rows(*grid.window_of(s))[0].numpy()
        there = ground < grid.ground_nowhere
        part = slice(s * grid.side**2, (s + 1) * grid.side**2)
        strength[s, ground[there]] = levels.block_mean_dbm[part].numpy()[there]
    for block in range(0, count, 37):
        ranked = levels.ranked[block].numpy()
        kept = ranked[ranked >= 0]
        assert len(set(kept)) == len(kept)
        assert (np.diff(strength[kept, block]) <= 0).all()
        left_out = np.setdiff1d(np.arange(SECTORS), kept)
        if len(kept) and len(left_out):
            weakest = strength[kept, block].min()
            assert strength[left_out, block].max() <= weakest
        assert (ranked[len(kept) :] == -1).all()
        if len(kept):
            assert float(levels.strongest_dbm[block]) == pytest.approx(
                strength[:, block].max(), abs=1e-4
            )
    assert (levels.ranked[-1] == -1).all()  # beyond the ground


def test_the_total_is_the_sum_over_all_sectors():
    """Of cells that rays reach it is that of the measurement model."""
    reader, atlas = reader_of(), default_atlas()
    maps, ground = reader.maps, atlas.ground
    row, column, shape = blocks_of(ground)
    total = as_raster(take(maps.levels.total_mw, maps.grid.ground_rows(row, column)[0]), *shape)
    mapped, _ = atlas.maps_in(ground)
    expected = np.where(np.isnan(mapped), 0.0, 10 ** (mapped / 10)).sum(axis=0)
    unhit_mw = SECTORS * 10 ** (ERROR.unhit_dbm / 10)
    assert (total >= expected * (1 - 1e-5)).all()
    assert (total <= expected * (1 + 1e-5) + 1.01 * unhit_mw).all()


# -- silence ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["error", "fitted"])
def silent(request):
    """A table over 300 blocks, each with its own dozen of levels, and these levels."""
    levels = model_of(ERRORS[request.param]).levels
    rng = np.random.default_rng(8)
    blocks, sectors = 300, 12
    mean = torch.from_numpy(rng.uniform(-170, -95, (sectors, blocks))).float()
    spread = torch.from_numpy(rng.uniform(2.5, 9, (sectors, blocks))).float()
    share = levels.tail_share(mean, spread)
    table = SilenceTable(levels, blocks + 1)
    for s in range(sectors):
        table.add(torch.arange(blocks), [mean[s], spread[s], share[s]])
    return levels, table, mean, spread, share


@pytest.fixture(scope="module")
def ceilings():
    """Those of drawn reports, shape (report, 2)."""
    return torch.stack(model_of().levels.ceilings(drawn(60, 3)[0]), dim=1).float()


def summed(levels, ceilings, mean, spread):
    """Log-probability of silence by the model of levels, shape (report, block)."""
    hit = torch.ones_like(mean, dtype=torch.bool)
    every = [
        levels.unreported((weak, lost), mean, spread, hit).sum(dim=0) for weak, lost in ceilings
    ]
    return torch.stack(every)


def test_silence_is_that_of_all_sectors_together(silent, ceilings):
    """Between the table's nodes too, the more exactly the likelier it is."""
    levels, table, mean, spread, _ = silent
    ground = torch.arange(mean.shape[1]).expand(len(ceilings), -1)
    found = table.at(ceilings[:, None], ground)[:, 0]
    exact = summed(levels, ceilings, mean, spread)
    assert float(weighted(exact, found - exact).max()) < 0.15
    for least, most in ((-1.0, 0.15), (-4.0, 0.4)):
        likely = exact > least
        assert likely.float().mean() > 0.005
        assert float((found - exact)[likely].abs().quantile(0.99)) < most


def test_silence_less_the_heard_is_that_of_the_others(silent, ceilings):
    levels, table, mean, spread, share = silent
    ground = torch.arange(mean.shape[1]).expand(len(ceilings), -1)
    heard = torch.tensor([1, 4, 7])
    of_heard = [v[heard][None] for v in (mean, spread, share)]
    own = log_silence(levels, ceilings[:, None, None], *of_heard).sum(dim=1)
    found = table.at(ceilings[:, None], ground)[:, 0] - own
    others = torch.ones(len(mean), dtype=torch.bool)
    others[heard] = False
    exact = summed(levels, ceilings, mean[others], spread[others])
    likely = summed(levels, ceilings, mean, spread) > -4
    assert float((found - exact)[likely].abs().quantile(0.99)) < 0.3
    assert float((found - exact)[likely].std()) < 0.1


def test_silence_of_one_sector_is_the_model_s(silent, ceilings):
    levels, _, mean, spread, share = silent
    shape = (len(ceilings), *mean.shape)
    hit = torch.ones(shape, dtype=torch.bool)
    weak, lost = (v[:, None, None].expand(shape) for v in ceilings.unbind(dim=1))
    exact = levels.unreported((weak, lost), mean.expand(shape), spread.expand(shape), hit)
    found = log_silence(levels, ceilings[:, None, None], mean, spread, share)
    likely = exact > np.log(1e-5)
    torch.testing.assert_close(found[likely], exact[likely], atol=0.02, rtol=1e-3)
    below = probability_below(levels, ceilings[:, :1, None], mean, spread, share)
    assert ((below >= 0) & (below <= 1 + 1e-6)).all()


def test_silence_is_nothing_where_no_sector_is_mapped():
    maps = reader_of().maps
    nowhere = torch.tensor([[maps.grid.ground_nowhere]])
    found = maps.levels.silence.at(torch.tensor([[[-110.0, -100.0]]]), nowhere)
    assert float(found) == 0


def test_the_silence_of_a_city_follows_that_of_its_sectors():
    """Summed over the sectors that are mapped at a block, from the levels of blocks."""
    reader = reader_of()
    maps, levels = reader.maps, reader.model.levels
    grid, ceiling = maps.grid, (torch.tensor(-109.0), torch.tensor(-98.0))
    exact = torch.zeros(len(maps.outdoor))
    for s in range(SECTORS):
        ground = grid.ground_rows(*grid.window_of(s))[0]
        part = slice(s * grid.side**2, (s + 1) * grid.side**2)
        mean, spread = (t[part] for t in (maps.levels.block_mean_dbm, maps.levels.block_spread_db))
        value = levels.unreported(ceiling, mean, spread, torch.ones_like(mean, dtype=torch.bool))
        exact = exact.index_add(0, ground, value)
    open_ = maps.outdoor.any(dim=1)
    found = maps.levels.silence.at(
        torch.stack(ceiling).reshape(1, 1, 2), torch.arange(len(open_))[None]
    )[0, 0]
    both = torch.stack([found[open_], exact[open_]])
    assert float(torch.corrcoef(both)[0, 1]) > 0.99
    assert float(both[1].std()) > 1


# -- the serving sector ----------------------------------------------------------------------


@pytest.fixture(scope="module", params=[2, 11])
def serving(request, everywhere):
    """Maps of one serving sector everywhere: from the tables, and from the atlas."""
    window, row, column, shape = everywhere
    reader, sector = reader_of(), request.param
    every = torch.arange(CELLS).expand(*row.shape, CELLS)
    found = reader.maps.serving.maps(torch.tensor([sector]), row, column, every, beams=True)
    exact = reader.places.serving_in(sector, window, np.ones(window.shape, dtype=bool))

    def raster(values):
        blocks = values.reshape(*values.shape[:-1], -1, CELLS)
        return as_raster(blocks, *shape).reshape(*values.shape[:-1], -1)

    return found, exact, raster


def test_delays_of_the_serving_sector_are_the_atlas_s(serving):
    """The straight line's to a centimetre, at northings of millions of metres."""
    found, exact, raster = serving
    np.testing.assert_array_equal(
        raster(found.delays.first_arrival_ns), exact.delays.first_arrival_ns
    )
    np.testing.assert_array_equal(raster(found.delays.line_of_sight), exact.delays.line_of_sight)
    np.testing.assert_allclose(
        raster(found.delays.straight_ns), exact.delays.straight_ns, atol=0.01 / 0.299792458
    )
    known = raster(found.delays.known.float())
    assert 0.05 < known.mean() < 0.95
    torch.testing.assert_close(found.reference_dbm, exact.reference_dbm)


def test_angles_of_the_serving_sector_are_the_atlas_s(serving):
    found, exact, raster = serving
    np.testing.assert_array_equal(
        raster(found.departures.azimuth_deg), exact.departures.azimuth_deg
    )
    np.testing.assert_allclose(
        raster(found.departures.spread_deg), exact.departures.spread_deg, rtol=1e-3
    )
    turn = raster(found.departures.bearing_deg) - exact.departures.bearing_deg.numpy()
    turn = np.abs((turn + 180) % 360 - 180)
    assert np.median(turn) < 1e-3
    assert turn.max() < 0.2  # beside the mast a centimetre is a large angle


def test_beams_of_the_serving_sector_are_the_atlas_s(serving):
    found, exact, raster = serving
    gains = exact.departures.beam_offset_db
    assert gains.shape[1] == 8
    np.testing.assert_array_equal(raster(found.departures.beam_offset_db), gains)
    assert torch.isfinite(gains).any()


def test_any_cells_of_any_blocks_are_looked_up(everywhere):
    """A few of them, several sectors at once: the same as cell by cell."""
    _, row, column, _ = everywhere
    maps = reader_of().maps
    generator = torch.Generator().manual_seed(2)
    sector = torch.tensor([3, 16, 3])
    block = torch.randint(0, row.shape[1], (3, 20), generator=generator)
    cell = torch.randint(0, CELLS, (3, 20, 2), generator=generator)
    rows, columns = row[0][block], column[0][block]
    found = maps.serving.maps(sector, rows, columns, cell, beams=True)
    for n in range(3):
        one = slice(n, n + 1)
        every = torch.arange(CELLS).expand(1, 20, CELLS)
        alone = maps.serving.maps(sector[one], rows[one], columns[one], every, beams=True)
        place = (CELLS * torch.arange(20)[:, None] + cell[n]).flatten()
        for name in ("first_arrival_ns", "straight_ns"):
            mine, theirs = getattr(found.delays, name)[n], getattr(alone.delays, name)[0, place]
            torch.testing.assert_close(mine, theirs, equal_nan=True)
        torch.testing.assert_close(
            found.departures.beam_offset_db[n],
            alone.departures.beam_offset_db[0][:, place],
            equal_nan=True,
        )
    none = maps.serving.maps(sector, rows, columns, cell, beams=False)
    assert none.departures.beam_offset_db.shape == (3, 0, 40)


def test_the_delay_of_a_block_is_that_of_its_middle():
    """As a class of delays within half a step, and whether the map knows it."""
    maps = reader_of().maps
    for sector in (0, 9):
        row, column = maps.grid.window_of(sector)
        cell = maps.centre[maps.grid.ground_rows(row, column)][..., None]
        at = maps.serving.maps(torch.tensor([sector]), row, column, cell, beams=False).delays
        part = slice(sector * maps.grid.side**2, (sector + 1) * maps.grid.side**2)
        classes = maps.serving.block_delay[part].long()
        known = at.known[0]
        torch.testing.assert_close(classes < DELAYS, known)
        delay_ns = at.delay_ns[0].clamp_max((DELAYS - 1) * DELAY_STEP_NS)
        off = (classes % DELAYS) * DELAY_STEP_NS - delay_ns
        assert float(off.abs().max()) <= DELAY_STEP_NS / 2 + 1e-3
        torch.testing.assert_close(
            maps.serving.block_sight[part].float(), at.line_of_sight[0].nan_to_num(0.0)
        )
    assert int(maps.serving.block_delay[-1]) >= DELAYS  # nowhere no delay is known


def test_sites_stand_where_the_atlas_has_them():
    serving, atlas = reader_of().maps.serving, default_atlas()
    table, origin_m = atlas.sectors, np.array(atlas.ground.bounds_m[:2])
    place_m = serving.position_m.double().numpy() + origin_m
    np.testing.assert_allclose(place_m, table[["x_m", "y_m"]].to_numpy(), atol=1e-3)
    drop = table.height_m - atlas.city.ray_tracing.terminal_height_m
    np.testing.assert_allclose(serving.drop_m, drop, rtol=1e-6)
    np.testing.assert_allclose(
        np.degrees(serving.azimuth_rad.numpy()), table.azimuth_deg, rtol=1e-5
    )


# -- on a device -----------------------------------------------------------------------------


def tensors_of(value, name="maps", seen=None):
    """All tensors that tables hold, by their names."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, tuple | list):
        for k, one in enumerate(value):
            yield from tensors_of(one, f"{name}[{k}]", seen)
    elif isinstance(value, dict):
        for k, one in value.items():
            yield from tensors_of(one, f"{name}.{k}", seen)
    elif type(value).__module__.endswith(("_blocks", ".silence", ".block_grid")):
        parts = {} if id(value) in seen else vars(value)
        seen.add(id(value))
        for k, one in parts.items():
            if k != "_copies":
                yield from tensors_of(one, f"{name}.{k}", seen)


def test_a_copy_on_a_device_has_all_tables_there():
    """And no second one is made."""
    maps = fresh_maps()
    here = dict(tensors_of(maps))
    assert len(here) > 25
    copy = maps.on(torch.device("meta"))
    there = dict(tensors_of(copy))
    assert there.keys() == here.keys()
    for name, value in there.items():
        assert value.device.type == "meta", name
        assert value.shape == here[name].shape
        assert value.dtype == here[name].dtype
    assert maps.on(torch.device("meta")) is copy
    assert maps.on(torch.device("cpu")) is maps
    assert all(v.device.type == "cpu" for _, v in tensors_of(maps))


def fresh_maps():
    atlas = default_atlas()
    model = model_of()
    return MapBlocks(atlas, PlaceMaps(atlas, model.settings), model.levels)


def test_a_batch_moves_with_its_tables():
    reader = reader_of()
    batch = reader.read(drawn(8, 2)[0])
    moved = batch.to(torch.device("meta"))
    assert moved.tokens.device.type == moved.reports.rsrp.device.type == "meta"
    assert moved.maps is reader.maps.on(torch.device("meta"))
    assert batch.to(torch.device("cpu")) is batch


def test_maps_without_the_layers_of_other_reports_are_told():
    """Timing needs the delays: without them the tables cannot be made."""
    atlas = default_atlas()
    bare = replace(atlas, layers={k: v for k, v in atlas.layers.items() if "arrival" not in k})
    model = MeasurementModel(model_of().settings, atlas.city.radio, ERROR)
    with pytest.raises(Exception, match="first_arrival_ns"):
        MapBlocks(bare, PlaceMaps(bare, model.settings), model.levels)
