"""The exact grid posterior, fingerprints, the serving sector's ground, and the point estimate."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_world import default_atlas, draw_reports
from scipy.optimize import minimize

from ueloc_core.grid import Window
from ueloc_core.localization.baselines import GridBayes, geometric_median
from ueloc_core.localization.classics import Fingerprints, StrongestSector
from ueloc_core.measurement.batch import ReportBatch, missing_code
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.reports import INT16_MISSING, SS_RSRP
from ueloc_core.measurement.scenarios import SCENARIOS
from ueloc_core.measurement.schemas import SLOTS

WINDOW = Window(10, 20, 40, 32, 4.0)
EVERY_SCENARIO = dict.fromkeys(SCENARIOS, 1.0)
ASTRAY = 1e-3


@pytest.fixture(scope="module")
def atlas():
    return default_atlas()


def measurements(atlas):
    return atlas.city.measurements.model_copy(update={"scenarios": EVERY_SCENARIO})


@pytest.fixture(scope="module")
def model(atlas):
    error = MapError(core_db=1.0, tail_logit=-2.0, tail_db=10.0, unhit_dbm=-135.0, unhit_db=8.0)
    return MeasurementModel(measurements(atlas), atlas.city.radio, error)


@pytest.fixture(scope="module")
def exact_model(atlas):
    """The model that reports are drawn from."""
    return MeasurementModel(measurements(atlas), atlas.city.radio, MapError.none())


@pytest.fixture(scope="module")
def places(atlas, model):
    return PlaceMaps(atlas, model.settings)


@pytest.fixture(scope="module")
def reports(atlas):
    return draw_reports(atlas, 24, seed=8, scenarios=EVERY_SCENARIO)


# -- the exact grid posterior -------------------------------------------------------------


def test_grid_bayes_is_the_softmax_of_the_model(atlas, model, places, reports):
    """Over the outdoor cells of the serving sector's traced window, all sectors' maps at hand."""
    batch, _, _ = reports
    bayes = GridBayes(places, model)
    for i in range(6):
        serving = int(batch.sector[i, 0])
        exact = bayes.posterior(batch[i : i + 1])
        window = atlas.windows[serving]
        assert exact.window == window
        outdoor = atlas.outdoor_in(window)
        everywhere = np.ones(window.shape, dtype=bool)
        log_prob = model.log_prob(
            batch[i : i + 1],
            places.levels_in(window, everywhere),
            places.serving_in(serving, window, everywhere),
        )[0].double()
        inside = torch.from_numpy(outdoor.ravel())
        expected = torch.softmax(torch.where(inside, log_prob, -torch.inf), 0).numpy()
        expected = ASTRAY / outdoor.size + (1 - ASTRAY) * expected
        np.testing.assert_allclose(exact.mass.ravel(), expected, rtol=1e-3, atol=1e-9)
        assert exact.mass.sum() == pytest.approx(1)
        np.testing.assert_allclose(exact.mass[~outdoor], ASTRAY / outdoor.size)


def test_its_density_is_mass_over_area(atlas, model, places, reports):
    batch, x_m, y_m = reports
    exact = GridBayes(places, model).posterior(batch[:1])
    row, column = exact.window.indices(x_m[0], y_m[0])
    assert exact.nll_nats(x_m[0], y_m[0]) == pytest.approx(-np.log(exact.mass[row, column] / 16))
    assert exact.nll_nats(0.0, 0.0) > 600
    frame = atlas.city.sector_window(*exact.window.centre_m, 0.0)
    inside = exact.in_frame(frame.intersection(exact.window))
    assert 0 < inside.sum() <= 1


def test_a_terminal_where_the_map_has_a_building_costs_a_bounded_score(model, places, reports):
    """A thousandth of the mass over the whole square: ln(area / 0.001) at most, anywhere in it."""
    batch, _, _ = reports
    for i in range(4):
        exact = GridBayes(places, model).posterior(batch[i : i + 1])
        indoors = ~places.around(int(batch.sector[i, 0])).outdoor
        row, column = (v[0] for v in np.nonzero(indoors))
        found = exact.nll_nats(exact.window.x_centres_m[column], exact.window.y_centres_m[row])
        area_m2 = exact.mass.size * exact.window.cell_m**2
        assert found == pytest.approx(np.log(area_m2 / ASTRAY))


def test_it_finds_terminals(atlas, model, places, reports):
    """Better than the centre of all that the sector serves, on the whole."""
    batch, x_m, y_m = reports
    bayes, strongest = GridBayes(places, model), StrongestSector(atlas)
    errors = {"bayes": [], "strongest": []}
    for i in range(len(batch)):
        exact = bayes.posterior(batch[i : i + 1])
        for name, (x, y) in (
            ("bayes", geometric_median(exact.mass, exact.window)),
            ("strongest", strongest.locate(batch[i : i + 1])),
        ):
            errors[name].append(np.hypot(x - x_m[i], y - y_m[i]))
    assert np.median(errors["bayes"]) < 0.7 * np.median(errors["strongest"])


def test_maps_kept_for_one_sector_are_not_used_for_another(model, places, reports):
    batch, _, _ = reports
    chosen = np.unique(batch.sector[:, 0].numpy(), return_index=True)[1][:4]
    assert len(chosen) == 4
    bayes = GridBayes(places, model)
    first = {
        i: GridBayes(PlaceMaps(places.atlas, model.settings), model).posterior(batch[i : i + 1])
        for i in chosen
    }
    for k in (0, 1, 2, 1, 3, 0, 2):
        i = chosen[k]
        np.testing.assert_array_equal(bayes.posterior(batch[i : i + 1]).mass, first[i].mass)


# -- what each feature tells ----------------------------------------------------------------

FEATURES = {"ta": ("ta", "ta_offset"), "aoa": ("aoa",), "beams": ("beam", "beam_level")}


def without(batch, features):
    """The reports as if features had not been measured, of terminals that nobody knows.

    The scenario is left unknown on both sides of a comparison: whether a field is missing says
    nothing about the place.
    """
    gone = {
        field: torch.full_like(getattr(batch, field), missing_code(field))
        for feature in features
        for field in FEATURES[feature]
    }
    return replace(batch, scenario=torch.full_like(batch.scenario, -1), **gone)


@pytest.fixture(scope="module")
def full(atlas):
    """Reports that hold timing, angle and beams, and where they come from."""
    batch, x_m, y_m = draw_reports(atlas, 100, seed=21, scenarios={"full": 1.0})
    told = (batch.ta >= 0) & (batch.ta_offset > INT16_MISSING)
    told &= (batch.aoa >= 0) & (batch.beam[:, 0] >= 0)
    chosen = told.nonzero()[:60, 0]
    assert len(chosen) == 60
    chosen = chosen[batch.sector[chosen, 0].argsort()]  # maps of a sector are kept for the next
    return batch[chosen], x_m[chosen.numpy()], y_m[chosen.numpy()]


def scores(bayes, full, features):
    """NLL [nats] and entropy [nats] of each report without some of its features."""
    batch, x_m, y_m = full
    reduced = without(batch, features)
    nll, entropy = [], []
    for i in range(len(batch)):
        exact = bayes.posterior(reduced[i : i + 1])
        nll.append(exact.nll_nats(x_m[i], y_m[i]))
        entropy.append(-(exact.mass * np.log(exact.mass)).sum())
    return np.array(nll), np.array(entropy)


@pytest.fixture(scope="module")
def everything(atlas, exact_model, full):
    bayes = GridBayes(PlaceMaps(atlas, exact_model.settings), exact_model)
    return bayes, *scores(bayes, full, ())


@pytest.mark.parametrize("features", [("ta",), ("aoa",), ("beams",), ("ta", "aoa", "beams")])
def test_posteriors_are_sharper_with_each_feature(everything, full, features):
    """The mean NLL falls by the information that a feature adds; so does the mean entropy.

    Both gains are positive in expectation under the model that draws the reports; here each is
    more than three standard errors of the mean above zero.
    """
    bayes, nll, entropy = everything
    reduced_nll, reduced_entropy = scores(bayes, full, features)
    for gain in (reduced_nll - nll, reduced_entropy - entropy):
        assert gain.mean() > 3 * gain.std(ddof=1) / np.sqrt(len(gain))


def test_an_exact_posterior_scores_what_it_promises(everything):
    """Under the model that draws the reports the NLL is the entropy of the density, on average."""
    _, nll, entropy = everything
    off = nll - (entropy + np.log(16.0))
    assert abs(off.mean()) < 3.3 * off.std(ddof=1) / np.sqrt(len(off))


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
    return ReportBatch.of(padded[None], codes[None]), x_m, y_m


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
    report = ReportBatch.of([[0, 1]], SS_RSRP.encode([[-90.0, -95.0]]))
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
    report = ReportBatch.of([[3, *[-1] * 7]], np.full((1, SLOTS), -1))
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
