"""Corrections follow what a locator sees of a fix, rise with the level, and survive their file."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up_world import default_atlas, draw_dataset

from ueloc_core.errors import ModelError, StoreError
from ueloc_core.localization.calibrated import (
    BEND_TERMS,
    FEATURES,
    Calibration,
    bend_terms,
    bent,
    corrections,
    entropy_nats,
    read_features,
)
from ueloc_core.localization.localize import Locator, posterior_rasters
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.training import network_settings, predict, read_samples
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.measurement.reports import MISSING

COUNT = len(FEATURES)
CURVE = {"levels": (0.1, 0.5, 0.9, 0.95), "adjusted": (0.2, 0.55, 0.97, 0.99)}
CONSTANT = Calibration(1.3, 0.8, **CURVE)
ADJUSTED = Calibration(
    1.3,
    0.8,
    **CURVE,
    temperature_slopes=(0.1, -0.2, 0.0, 0.05, 0.3),
    covariance_slopes=(0.0, 0.2, 0.1, 0.0, -0.1),
    bend_slopes=(-0.2, 0.3, 0.0, 0.1, 0.0, 0.1, -0.05, 0.02),
    centre=(3.0, 7.0, -90.0, 1.0, 0.4),
    spread=(2.0, 1.5, 12.0, 1.0, 0.3),
)
CENTRE = torch.tensor([ADJUSTED.centre], dtype=torch.float64)

values = st.lists(st.floats(-1e3, 1e3), min_size=COUNT, max_size=COUNT)


def some_features(count=50, seed=0):
    standard = np.random.default_rng(seed).normal(size=(count, COUNT))
    return torch.from_numpy(standard * ADJUSTED.spread + ADJUSTED.centre)


# -- levels -------------------------------------------------------------------------------


@given(values)
def test_region_level_and_nominal_level_are_inverse_and_rise(features):
    one = ADJUSTED.of(torch.tensor([features], dtype=torch.float64))
    levels = np.linspace(0, 1, 41)
    regions = np.array([one.region_level(level)[0] for level in levels])
    back = np.array([one.nominal_level(mass)[0] for mass in regions])
    np.testing.assert_allclose(back, levels, atol=1e-4)
    assert regions[0] == 0
    assert regions[-1] == 1
    assert (np.diff(regions) > 0).all()


def test_the_centre_takes_the_curve_and_the_constants():
    at = CENTRE.repeat(2, 1)
    flat = replace(ADJUSTED, bend_slopes=ADJUSTED.bend_slopes[:COUNT]).of(at)
    np.testing.assert_allclose(flat.region_level(0.9), 0.97)
    np.testing.assert_allclose(flat.nominal_level(0.97), 0.9)
    torch.testing.assert_close(flat.temperature, torch.full((2,), 1.3))
    torch.testing.assert_close(flat.covariance_scale, torch.full((2,), 0.8))


def test_without_slopes_all_reports_are_corrected_alike():
    found = CONSTANT.of(some_features())
    assert (found.temperature == np.float32(1.3)).all()
    assert (found.covariance_scale == np.float32(0.8)).all()
    assert (found.bend == 1).all()
    np.testing.assert_array_equal(found.region_level(0.9), 0.97)
    plain = Calibration().of(some_features())
    for level in np.linspace(0, 1, 11):
        np.testing.assert_array_equal(plain.region_level(level), level)
        np.testing.assert_array_equal(plain.nominal_level(level), level)


def test_corrections_are_log_linear_in_each_feature():
    for k in range(COUNT):
        step = CENTRE.clone()
        step[0, k] += 0.5 * ADJUSTED.spread[k]
        found = ADJUSTED.of(step)
        temperature = 1.3 * np.exp(0.5 * ADJUSTED.temperature_slopes[k])
        scale = 0.8 * np.exp(0.5 * ADJUSTED.covariance_slopes[k])
        assert float(found.temperature[0]) == pytest.approx(temperature, rel=1e-6)
        assert float(found.covariance_scale[0]) == pytest.approx(scale, rel=1e-6)


def test_a_missing_feature_is_at_its_centre_and_far_ones_count_as_three_deviations():
    missing = CENTRE.clone()
    missing[0, 2] = torch.nan
    torch.testing.assert_close(ADJUSTED.of(missing).temperature, ADJUSTED.of(CENTRE).temperature)
    far = [CENTRE + sign * torch.tensor([1e6] * COUNT) for sign in (1, -1)]
    for at, sign in zip(far, (1, -1), strict=True):
        edge = CENTRE + 3 * sign * torch.tensor([ADJUSTED.spread], dtype=torch.float64)
        np.testing.assert_allclose(ADJUSTED.of(at).bend, ADJUSTED.of(edge).bend)


def test_corrections_of_some_reports_are_those_of_all():
    found = ADJUSTED.of(some_features())
    part = found[3:7]
    assert len(part) == 4
    np.testing.assert_array_equal(part.region_level(0.9), found.region_level(0.9)[3:7])
    levels = np.linspace(0.1, 0.9, len(found))
    one_by_one = [found[i : i + 1].region_level(v)[0] for i, v in enumerate(levels)]
    np.testing.assert_allclose(found.region_level(levels), one_by_one)


def test_the_bend_is_exact_for_a_gaussian_of_the_wrong_width():
    """Squared distances b times too large: a region of 1 - (1 - q)^b holds a share q."""
    rng = np.random.default_rng(0)
    q, n = 0.9, 40_000
    for b in (0.4, 1.0, 2.5):
        level = -np.expm1(-b * rng.exponential(size=n))
        share = (level <= bent(q, b)).mean()
        assert abs(share - q) < 4 * np.sqrt(q * (1 - q) / n)
    np.testing.assert_array_equal(bent(np.linspace(0, 1, 7), 1.0), np.linspace(0, 1, 7))


def test_curved_terms_vanish_on_average():
    standard = torch.from_numpy(np.random.default_rng(1).normal(size=(20_000, COUNT)))
    terms = bend_terms(standard)
    assert terms.shape == (20_000, BEND_TERMS)
    assert float(terms.mean(dim=0).abs().max()) < 4 * np.sqrt(2 / 20_000)


@pytest.mark.parametrize("count", [COUNT - 1, COUNT + 1])
def test_other_numbers_of_features_are_refused(count):
    with pytest.raises(ModelError, match="heard"):
        ADJUSTED.of(torch.zeros(3, count))


# -- file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("calibration", [Calibration(), CONSTANT, ADJUSTED])
def test_a_calibration_survives_its_file(tmp_path, calibration):
    calibration.save(tmp_path)
    assert Calibration.load(tmp_path) == calibration
    assert (tmp_path / "calibration.json").stat().st_size < 4000


def test_the_file_is_plain_json(tmp_path):
    ADJUSTED.save(tmp_path)
    stored = json.loads((tmp_path / "calibration.json").read_text())
    assert stored.keys() == {f.name for f in fields(Calibration)}
    assert stored["temperature"] == 1.3
    assert stored["format"] == 3


@pytest.mark.parametrize("content", [None, "{", "{}", "3", "[]", '{"levels": [], "adjusted": []}'])
def test_a_bad_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(StoreError, match=r"calibration\.json"):
        Calibration.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 1),
        ("features", ["heard"]),
        ("temperature", -1.0),
        ("temperature", "hot"),
        ("covariance_scale", 0.0),
        ("adjusted", [0.5, 0.4, 0.9, 0.95]),
        ("levels", [0.5]),
        ("temperature_slopes", [0.1]),
        ("bend_slopes", [0.1] * (BEND_TERMS + 1)),
        ("spread", [0.0] * COUNT),
        ("centre", [0.0]),
        ("more", 1),
    ],
)
def test_every_field_of_the_file_is_checked(tmp_path, field, value):
    path = tmp_path / "calibration.json"
    ADJUSTED.save(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(StoreError, match=r"calibration\.json"):
        Calibration.load(tmp_path)


# -- features -----------------------------------------------------------------------------


def flat_posterior(outside, cells=32, side=8, outside_m2=4096.0):
    """Mass even over a window of outdoor ground, and some beyond it."""
    inside = torch.full((1, side, side), float(np.log((1 - outside) / side**2)))
    return Posterior(
        log_mass=inside,
        log_outside=torch.tensor([float(np.log(outside))]),
        top=torch.zeros(1, 1, dtype=torch.long),
        mean_m=torch.full((1, 1, 2), -56.0),
        covariance_m2=torch.eye(2).expand(1, 1, 2, 2) * 1e4,
        outdoor=torch.ones(1, cells, cells, dtype=torch.bool),
        outside_m2=torch.tensor([outside_m2]),
        cell_m=4.0,
    )


def test_the_entropy_of_even_mass_is_the_logarithm_of_its_area():
    """16384 m2 inside and 4096 m2 beyond; one block of 64 is a Gaussian of 640,000 m2."""
    raw = flat_posterior(outside=0.2)
    share = 0.8 / 64
    wide = share * np.log(2 * np.pi * np.e * 1e4 / 256)
    assert float(entropy_nats(raw)[0]) == pytest.approx(np.log(16384 + 4096) + wide, abs=1e-3)


@pytest.fixture(scope="module")
def world():
    """An untrained network over made-up maps, its reader, and reports of all scenarios."""
    atlas = default_atlas()
    city = atlas.city
    torch.manual_seed(0)
    network = PosteriorNetwork(**network_settings(city)).eval()
    error = MapError(core_db=1.0, unhit_dbm=-135.0, unhit_db=8.0)
    reader = WindowReader(atlas, MeasurementModel(city.measurements, city.radio, error))
    return reader, network, draw_dataset(atlas, 24, seed=3)


def features_of(world, reports):
    reader, network, _ = world
    samples = read_samples(reader, reports, split=None)
    found = [read_features(batch, raw) for _, raw, batch in predict(network, reader, samples)]
    return torch.cat(found)


def test_features_are_what_the_reports_say(world):
    _, _, reports = world
    by_name = dict(zip(FEATURES, features_of(world, reports).T.numpy(), strict=True))
    np.testing.assert_array_equal(by_name["heard"], (reports.sector_id.values > 0).sum(axis=1))
    code = reports.rsrp_code.values[:, 0]
    expected = np.where(code >= 0, code - 156.5, np.nan)  # TS 38.133, table 10.1.6.1-1
    np.testing.assert_allclose(by_name["level_dbm"], expected, atol=1.0)
    told = sum(
        (v != MISSING).astype(int)
        for v in (reports.ta_code.values, reports.aoa_code.values, reports.beam_index.values[:, 0])
    )
    np.testing.assert_array_equal(by_name["told"], told)
    assert len(set(told)) > 1
    assert ((by_name["line_of_sight"] >= 0) & (by_name["line_of_sight"] <= 1)).all()
    assert np.ptp(by_name["line_of_sight"]) > 0.01


def test_sight_is_averaged_under_the_posterior(world):
    """All mass in one block: the map's sight in its middle."""
    reader, network, reports = world
    samples = read_samples(reader, reports.isel(report=[0]), split=None)
    (_, raw, _), *_ = predict(network, reader, samples)
    serving = int(samples.reports.sector[0, 0])
    batch = reader.read(samples.reports)
    rows = reader.maps.grid.square_rows(torch.tensor([serving]), batch.corner, batch.blocks)[0]
    sight = reader.maps.serving.block_sight[rows]
    assert 0 < float(sight.mean()) < 1
    side = raw.log_mass.shape[-1]
    for block in (side * side // 3, side * side // 2 + 5):
        mass = torch.full((1, side, side), -60.0)
        mass[0, block // side, block % side] = 0.0
        sharp = replace(raw, log_mass=mass, log_outside=torch.tensor([-60.0]))
        found = read_features(batch, sharp)[0, FEATURES.index("line_of_sight")]
        assert float(found) == pytest.approx(float(sight[block]), abs=1e-5)


def test_features_never_see_the_truth(world):
    _, _, reports = world
    moved = reports.copy(deep=True)
    for name in reports.data_vars:
        if name in ("x_m", "y_m", "speed_m_s", "heading_deg") or name.startswith("rt_"):
            moved[name] = reports[name] + 37.0
    torch.testing.assert_close(features_of(world, moved), features_of(world, reports))


def test_constants_need_no_features(world):
    """The same corrections as from features that are read, without a line of sight to read."""
    reader, network, reports = world
    samples = read_samples(reader, reports, split=None)
    _, raw, batch = next(predict(network, reader, samples))
    for calibration in (CONSTANT, ADJUSTED):
        expected = calibration.of(read_features(batch, raw))
        found = corrections(calibration, batch, raw)
        torch.testing.assert_close(found.temperature, expected.temperature)
        torch.testing.assert_close(found.covariance_scale, expected.covariance_scale)
        np.testing.assert_array_equal(found.region_level(0.9), expected.region_level(0.9))
    blind = replace(batch, maps=None)
    assert len(corrections(CONSTANT, blind, raw)) == len(batch)
    with pytest.raises(AttributeError):
        corrections(ADJUSTED, blind, raw)


def test_a_fix_has_the_level_of_its_own_features(world):
    reader, network, reports = world
    features = features_of(world, reports)
    spread = tuple(float(v) for v in features.nan_to_num(-100.0).std(dim=0).clamp_min(1e-3))
    centre = tuple(float(v) for v in features.nan_to_num(-100.0).mean(dim=0))
    calibration = replace(ADJUSTED, centre=centre, spread=spread)
    fixes = Locator(reader, network, calibration).locate(reports)
    correction = calibration.of(features)
    expected = correction.region_level(0.9)
    np.testing.assert_allclose([f.region_level(0.9) for f in fixes], expected, rtol=1e-5)
    assert np.ptp(expected) > 1e-3
    samples = read_samples(reader, reports, split=None)
    part, raw, _ = next(predict(network, reader, samples))
    masses, outside = posterior_rasters(raw, correction[part])
    np.testing.assert_allclose(fixes[0].mass, masses[0], atol=1e-7)
    np.testing.assert_allclose(masses.sum(axis=(1, 2)) + outside, 1, atol=1e-5)


def test_fixes_are_those_of_their_reports_located_alone(world):
    """Whatever is located beside them; rasters are made when they are asked for."""
    reader, network, reports = world
    locator = Locator(reader, network, CONSTANT)
    many = reports.isel(report=np.arange(40) % reports.sizes["report"])
    fixes = locator.locate(many)
    assert len(fixes) == 40
    assert not any("mass" in vars(fix) for fix in fixes)
    for k in (0, 7, 39):
        (alone,) = locator.locate(many.isel(report=[k]))
        assert fixes[k].window == alone.window
        assert fixes[k].x_m == pytest.approx(alone.x_m, abs=0.05)
        assert fixes[k].y_m == pytest.approx(alone.y_m, abs=0.05)
        assert fixes[k].std_m == pytest.approx(alone.std_m, rel=1e-3)
        assert fixes[k].outside_mass == pytest.approx(alone.outside_mass, rel=1e-3)
        np.testing.assert_allclose(fixes[k].mass, alone.mass, atol=1e-5)
        assert fixes[k].mass.shape == fixes[k].window.shape
        assert fixes[k].mass.sum() + fixes[k].outside_mass == pytest.approx(1, abs=1e-5)
