"""The exact grid posterior, fingerprints, the serving sector's ground, and the point estimate."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_world import default_atlas, draw_reports
from scipy.optimize import minimize

from ueloc_core.grid import Window
from ueloc_core.localization.baselines import (
    Fingerprints,
    GridBayes,
    StrongestSector,
    geometric_median,
)
from ueloc_core.measurement.model import MapError, MeasurementModel, ReportBatch
from ueloc_core.measurement.reports import SS_RSRP
from ueloc_core.measurement.schemas import SLOTS

WINDOW = Window(10, 20, 40, 32, 4.0)


@pytest.fixture(scope="module")
def atlas():
    return default_atlas()


@pytest.fixture(scope="module")
def model(atlas):
    error = MapError(core_db=1.0, tail_logit=-2.0, tail_db=10.0, unhit_dbm=-135.0, unhit_db=8.0)
    return MeasurementModel(atlas.city.measurements, atlas.city.radio, error)


@pytest.fixture(scope="module")
def reports(atlas):
    return draw_reports(atlas, 24, seed=8)


# -- the exact grid posterior -------------------------------------------------------------


def test_grid_bayes_is_the_softmax_of_the_model(atlas, model, reports):
    """Over the outdoor cells of the serving sector's traced window, all sectors' maps at hand."""
    batch, _, _ = reports
    bayes = GridBayes(atlas, model)
    for i in range(4):
        exact = bayes.posterior(batch[i : i + 1])
        window = atlas.windows[int(batch.sector[i, 0])]
        assert exact.window == window
        maps, errors = atlas.maps_in(window)
        everywhere = model.log_prob(
            batch[i : i + 1],
            *(torch.from_numpy(v.reshape(1, len(atlas.windows), -1)) for v in (maps, errors)),
        )[0].double()
        outdoor = torch.from_numpy(atlas.outdoor_in(window).ravel())
        expected = torch.softmax(torch.where(outdoor, everywhere, -torch.inf), 0).numpy()
        np.testing.assert_allclose(exact.mass.ravel(), expected, rtol=1e-3, atol=1e-9)
        assert exact.mass.sum() == pytest.approx(1)
        assert (exact.mass[~atlas.outdoor_in(window)] == 0).all()


def test_its_density_is_mass_over_area(atlas, model, reports):
    batch, x_m, y_m = reports
    exact = GridBayes(atlas, model).posterior(batch[:1])
    row, column = exact.window.indices(x_m[0], y_m[0])
    assert exact.nll_nats(x_m[0], y_m[0]) == pytest.approx(-np.log(exact.mass[row, column] / 16))
    assert exact.nll_nats(0.0, 0.0) > 600
    frame = atlas.city.sector_window(*exact.window.centre_m, 0.0)
    inside = exact.in_frame(frame.intersection(exact.window))
    assert 0 < inside.sum() <= 1


def test_it_finds_terminals(atlas, model, reports):
    """Better than the centre of all that the sector serves, on the whole."""
    batch, x_m, y_m = reports
    bayes, strongest = GridBayes(atlas, model), StrongestSector(atlas)
    errors = {"bayes": [], "strongest": []}
    for i in range(len(batch)):
        exact = bayes.posterior(batch[i : i + 1])
        for name, (x, y) in (
            ("bayes", geometric_median(exact.mass, exact.window)),
            ("strongest", strongest.locate(batch[i : i + 1])),
        ):
            errors[name].append(np.hypot(x - x_m[i], y - y_m[i]))
    assert np.median(errors["bayes"]) < 0.7 * np.median(errors["strongest"])


def test_maps_kept_for_one_sector_are_not_used_for_another(atlas, model, reports):
    batch, _, _ = reports
    bayes = GridBayes(atlas, model)
    order = [0, 1, 2, 1, 0, 2]
    first = {i: GridBayes(atlas, model).posterior(batch[i : i + 1]).mass for i in range(3)}
    assert len({int(batch.sector[i, 0]) for i in range(3)}) > 1
    for i in order:
        np.testing.assert_array_equal(bayes.posterior(batch[i : i + 1]).mass, first[i])


# -- fingerprints -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quantised(atlas):
    """The same atlas with levels in the middle of their bins."""
    codes = SS_RSRP.encode(atlas.rsrp_dbm)
    return replace(atlas, rsrp_dbm=SS_RSRP.decode(codes).astype(np.float32))


def noise_free(atlas, row, column):
    """What a terminal in a cell of the ground reports of all sectors it can hear."""
    x_m, y_m = atlas.ground.x_centres_m[column], atlas.ground.y_centres_m[row]
    level = atlas.maps_at(np.array([x_m]), np.array([y_m]))[0][0]
    order = np.argsort(-np.nan_to_num(level, nan=-np.inf), kind="stable")
    order = order[np.isfinite(level[order])][:SLOTS]
    padded = np.append(order, np.full(SLOTS - len(order), -1))
    codes = np.where(padded < 0, -1, SS_RSRP.encode(level[padded]))
    missing = torch.full((1, SLOTS), -1)
    report = ReportBatch(
        torch.from_numpy(padded)[None],
        torch.from_numpy(codes.astype(np.int64))[None],
        missing,
        missing,
        torch.tensor([-1]),
    )
    return report, x_m, y_m


def test_a_noise_free_fingerprint_is_found_exactly(quantised):
    row, column = np.nonzero(quantised.outdoor)
    knn = Fingerprints(quantised, neighbours=1)
    exact = 0
    for k in np.random.default_rng(0).integers(len(row), size=30):
        report, x_m, y_m = noise_free(quantised, row[k], column[k])
        found = knn.locate(report)
        exact += found == (x_m, y_m)
    assert exact >= 28  # now and then another cell has the same eight levels


def test_more_neighbours_average_around_it(quantised):
    row, column = np.nonzero(quantised.outdoor)
    report, x_m, y_m = noise_free(quantised, row[900], column[900])
    near = Fingerprints(quantised, neighbours=4).locate(report)
    assert 0 < np.hypot(near[0] - x_m, near[1] - y_m) < 60
    window = quantised.windows[int(report.sector[0, 0])]
    outdoor = quantised.outdoor_in(window)
    everything = Fingerprints(quantised, neighbours=10**9).locate(report)
    assert window.contains(*everything)
    assert outdoor.sum() > 4


def test_an_unmapped_sector_counts_as_far(atlas):
    """A cell that a reported sector does not reach is a worse match than one that it reaches."""
    window = atlas.windows[0]
    maps = np.full((len(atlas.windows), *window.shape), np.nan, dtype=np.float32)
    maps[0] = -90.0
    maps[1] = np.where(np.arange(window.columns) < window.columns // 2, -95.0, np.nan)
    simple = replace(atlas, rsrp_dbm=maps, windows=(window,) * len(atlas.windows))
    codes = torch.full((1, SLOTS), -1)
    codes[0, :2] = torch.from_numpy(SS_RSRP.encode([-90.0, -95.0]).astype(np.int64))
    sectors = torch.tensor([[0, 1, *[-1] * (SLOTS - 2)]])
    report = ReportBatch(
        sectors, codes, torch.full_like(codes, -1), torch.full_like(codes, -1), torch.tensor([-1])
    )
    x_m, _ = Fingerprints(simple, neighbours=20).locate(report)
    assert x_m < window.centre_m[0]


# -- the strongest sector -----------------------------------------------------------------


def test_strongest_sector_is_the_centre_of_what_it_serves(atlas, reports):
    batch, _, _ = reports
    method = StrongestSector(atlas)
    serving = int(batch.sector[0, 0])
    x_m, y_m = method.locate(batch[:1])
    window = atlas.windows[serving]
    maps, _ = atlas.maps_in(window)
    filled = np.nan_to_num(maps, nan=-np.inf)
    own = (filled[serving] == filled.max(axis=0)) & np.isfinite(filled[serving])
    row, column = np.nonzero(own & atlas.outdoor_in(window))
    assert x_m == pytest.approx(window.x_centres_m[column].mean())
    assert y_m == pytest.approx(window.y_centres_m[row].mean())
    assert method.locate(batch[:1]) == (x_m, y_m)


def test_a_sector_that_serves_nowhere_is_at_its_site(atlas):
    silent = replace(
        atlas, rsrp_dbm=np.where(np.arange(18)[:, None, None] == 3, np.nan, atlas.rsrp_dbm)
    )
    report = ReportBatch(
        torch.tensor([[3, *[-1] * 7]]),
        *(torch.full((1, 8), -1) for _ in range(3)),
        torch.tensor([-1]),
    )
    site = atlas.sectors.iloc[3]
    assert StrongestSector(silent).locate(report) == (site.x_m, site.y_m)


# -- the point estimate -------------------------------------------------------------------


def expected_distance(point, mass):
    x, y = np.meshgrid(WINDOW.x_centres_m, WINDOW.y_centres_m)
    return (mass * np.hypot(x - point[0], y - point[1])).sum()


def test_geometric_median_of_a_point():
    mass = np.zeros(WINDOW.shape)
    mass[7, 21] = 0.8  # what is left lies outside of the window
    point = geometric_median(mass, WINDOW)
    assert point == pytest.approx((WINDOW.x_centres_m[21], WINDOW.y_centres_m[7]), abs=0.01)


def test_geometric_median_of_a_symmetric_density():
    x, y = np.meshgrid(WINDOW.x_centres_m, WINDOW.y_centres_m)
    centre = WINDOW.centre_m
    turned = (x - centre[0]) + 0.5 * (y - centre[1])
    mass = np.exp(-((turned / 20) ** 2) - ((y - centre[1]) / 14) ** 2)
    assert geometric_median(mass / mass.sum(), WINDOW) == pytest.approx(centre, abs=0.3)


def test_geometric_median_leans_to_the_heavier_of_two_modes():
    """Half and more of the mass in one cell is where the median is, wherever the mean lies."""
    mass = np.zeros(WINDOW.shape)
    mass[5, 5], mass[25, 35] = 0.6, 0.4
    point = geometric_median(mass, WINDOW)
    assert np.hypot(point[0] - WINDOW.x_centres_m[5], point[1] - WINDOW.y_centres_m[5]) < 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_point_has_a_smaller_expected_distance(seed):
    rng = np.random.default_rng(seed)
    mass = rng.gamma(0.05, 1, WINDOW.shape)
    mass /= mass.sum()
    point = geometric_median(mass, WINDOW)
    best = minimize(expected_distance, WINDOW.centre_m, args=(mass,), method="Nelder-Mead")
    assert expected_distance(point, mass) < best.fun * 1.005


def test_geometric_median_ignores_scale():
    mass = np.random.default_rng(4).gamma(0.1, 1, WINDOW.shape)
    assert geometric_median(mass, WINDOW) == pytest.approx(geometric_median(mass / 1e6, WINDOW))
