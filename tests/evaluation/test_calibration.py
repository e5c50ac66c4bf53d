"""Temperature, covariance and conformal levels from calibration reports."""

import json

import numpy as np
import pytest
import torch
from made_up_world import default_atlas, draw_reports

from ueloc_core.errors import ReportError
from ueloc_core.evaluation.calibration import (
    build_calibration,
    conformal_levels,
    fit_scales,
    hpd_levels,
)
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.posterior import Calibration
from ueloc_core.localization.training import network_settings, read_samples
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.dataset import to_dataset
from ueloc_core.measurement.model import MapError, MeasurementModel

LEVELS = (0.1, 0.5, 0.9, 0.95)


@pytest.mark.parametrize("count", [60, 400])
@pytest.mark.parametrize("skew", [0.5, 1.0, 3.0], ids=["conservative", "exact", "overconfident"])
def test_conformal_levels_cover_exchangeable_data(count, skew):
    """Whatever the posterior's fault, new reports fall inside as often as promised."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        held_back, new = rng.uniform(size=(2, count)) ** (1 / skew)
        adjusted = np.array(conformal_levels(held_back, LEVELS))
        covered.append((new[:, None] <= adjusted).mean(axis=0))
    mean = np.mean(covered, axis=0)
    tolerance = 4 * np.std(covered, axis=0) / 20
    assert (mean > np.array(LEVELS) - tolerance).all()
    assert (mean < np.array(LEVELS) + 1 / (count + 1) + tolerance).all()


def test_conformal_levels_are_order_statistics():
    raw = np.random.default_rng(1).permutation(np.arange(1, 20) / 20)  # 19 reports
    assert conformal_levels(raw, (0.05, 0.5, 0.95)) == pytest.approx((0.05, 0.5, 0.95))
    assert conformal_levels(raw, (0.91,)) == pytest.approx((0.95,))
    assert conformal_levels(raw, (0.999,)) == pytest.approx((0.95,))  # no rank beyond the last


def test_exact_levels_need_no_adjustment():
    raw = np.random.default_rng(2).uniform(size=20_000)
    assert conformal_levels(raw, LEVELS) == pytest.approx(LEVELS, abs=0.012)


def test_adjusted_levels_rise_and_stay_inside():
    raw = np.array([0.0] * 30 + [1.0] * 30)
    adjusted = conformal_levels(raw, LEVELS)
    assert list(adjusted) == sorted(adjusted)
    assert 0 < adjusted[0] < adjusted[-1] < 1


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An untrained network in its folder, its reader, and calibration reports."""
    atlas = default_atlas()
    city = atlas.city
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    settings = network_settings(city)
    network = PosteriorNetwork(**settings)
    torch.save({"network": network.state_dict(), "settings": settings}, folder / "checkpoint.pt")
    error = MapError(core_db=1.0, unhit_dbm=-135.0, unhit_db=8.0)
    (folder / "map_error.json").write_text(json.dumps(error.as_dict()))
    batch, x_m, y_m = draw_reports(atlas, 80, seed=10)
    reports = to_dataset(city, atlas, batch, x_m, y_m, np.arange(80))
    reports["split"] = ("report", np.full(80, 2, np.int8))
    reader = WindowReader(atlas, MeasurementModel(city.measurements, city.radio, error))
    return city, atlas, reports, folder, reader, network.eval()


@pytest.mark.slow
def test_scales_lower_the_nll(world):
    _, _, reports, _, reader, network = world
    samples = read_samples(reader, reports, "calibration")
    fitted, before, after = fit_scales(network, reader, samples)
    assert after < before
    assert fitted.temperature > 0
    assert fitted.covariance_scale > 0
    again, repeated, _ = fit_scales(network, reader, samples)
    assert (again, repeated) == (fitted, before)


@pytest.mark.slow
def test_the_stage_writes_what_it_says(world, tmp_path):
    city, atlas, reports, folder, reader, network = world
    metadata = build_calibration(city, atlas, reports, folder, folder, tmp_path)
    calibration = Calibration.load(tmp_path)
    assert metadata["reports"] == 80
    assert metadata["temperature"] == calibration.temperature
    assert metadata["nll_nats_after"] <= metadata["nll_nats_before"]
    assert metadata["region_level_90"] == pytest.approx(float(calibration.region_level(0.9)))
    assert list(calibration.adjusted) == sorted(calibration.adjusted)
    # Half of the reports gave the levels; over all of them coverage is near what is promised.
    samples = read_samples(reader, reports, "calibration")
    raw = hpd_levels(network, reader, samples, calibration, np.random.default_rng(0))
    assert ((raw >= 0) & (raw <= 1)).all()
    assert (raw <= calibration.region_level(0.9)).mean() == pytest.approx(0.9, abs=0.12)


def test_too_few_reports_are_refused(world, tmp_path):
    city, atlas, reports, folder, _, _ = world
    few = reports.isel(report=slice(30))
    with pytest.raises(ReportError, match=r"splits\.calibration"):
        build_calibration(city, atlas, few, folder, folder, tmp_path)
