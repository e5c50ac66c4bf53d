"""Temperatures, covariance scales and conformal levels from calibration reports."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_world import default_atlas, draw_dataset

from ueloc_core.city import SPLITS
from ueloc_core.errors import ReportError
from ueloc_core.evaluation.calibration import (
    Located,
    build_calibration,
    coverage_table,
    fit_scales,
    held_levels,
    locate_known,
)
from ueloc_core.localization.calibrated import FEATURES, Calibration
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.tracking import TrackFilter
from ueloc_core.localization.training import network_settings
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.city_reports import CityReports
from ueloc_core.measurement.model import MapError, MeasurementModel

CALIBRATION = SPLITS.index("calibration")
COUNT = 90
CELL_M, CELLS, SIDE = 4.0, 64, 16


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
    reports = draw_dataset(atlas, COUNT, seed=10)
    reports["split"] = ("report", np.full(COUNT, CALIBRATION, np.int8))
    reader = WindowReader(atlas, MeasurementModel(city.measurements, city.radio, error))
    return city, atlas, reports, folder, reader, network.eval()


# -- scales of posteriors that are made up ------------------------------------------------


def gaussians(rng, count, log_width):
    """Posteriors of one Gaussian each whose truth is exp(log_width(features)) too far off.

    Nearly all mass is in the block of the one component, so that no temperature helps.
    """
    features = torch.from_numpy(rng.normal(size=(count, len(FEATURES))))
    sigma_m = torch.from_numpy(rng.uniform(6, 20, count)).float()
    middle = SIDE * SIDE // 2 + SIDE // 2
    log_mass = torch.full((count, SIDE * SIDE), -25.0)
    log_mass[:, middle] = 0.0
    width = sigma_m * torch.exp(log_width(features)).float()
    raw = Posterior(
        log_mass=log_mass.reshape(count, SIDE, SIDE),
        log_outside=torch.full((count,), -25.0),
        top=torch.full((count, 1), middle),
        mean_m=torch.zeros(count, 1, 2),
        covariance_m2=torch.eye(2).expand(count, 1, 2, 2) * sigma_m[:, None, None, None] ** 2,
        outdoor=torch.ones(1, CELLS, CELLS, dtype=torch.bool).expand(count, -1, -1),
        outside_m2=torch.full((count,), 1e5),
        cell_m=CELL_M,
    )
    truth_m = torch.from_numpy(rng.normal(size=(count, 2))).float() * width[:, None]
    return Located(raw, truth_m, features, np.arange(count) // 2)


def test_a_width_that_follows_a_feature_is_found():
    """Variances too small by exp(2 (0.3 + 0.25 z)): within four standard errors and the prior."""
    rng = np.random.default_rng(0)
    located = gaussians(rng, 1500, lambda z: 0.3 + 0.25 * z[:, 1])
    calibration, before, after = fit_scales(located, rng)
    assert after < before - 0.05
    error = 1 / np.sqrt(1500)  # Fisher information of the logarithm of a variance in 2-D is 1
    slopes = np.array(calibration.covariance_slopes)
    assert slopes[1] == pytest.approx(0.5, abs=4 * error + 0.02)
    assert np.abs(np.delete(slopes, 1)).max() < 4 * error + 0.02
    assert np.log(calibration.covariance_scale) == pytest.approx(0.6, abs=4 * error + 0.03)


def test_features_that_do_not_matter_leave_constants():
    """In at least nine of ten draws."""
    kept = 0
    for seed in range(10):
        rng = np.random.default_rng([seed, 1])
        calibration, _, _ = fit_scales(gaussians(rng, 300, lambda z: 0.3 + 0 * z[:, 0]), rng)
        kept += not (calibration.temperature_slopes or calibration.covariance_slopes)
    assert kept >= 9


def test_constants_are_the_scales_of_least_nll():
    """No other constants do better, and the NLL that is stated is theirs."""
    rng = np.random.default_rng(2)
    located = gaussians(rng, 300, lambda z: 0.4 + 0 * z[:, 0])
    calibration, _, after = fit_scales(located, rng)
    assert not calibration.covariance_slopes

    def nll(heat, scale):
        corrected = located.raw.calibrated(
            calibration.temperature * heat, calibration.covariance_scale * scale
        )
        return -float(corrected.log_density(located.truth_m).double().mean())

    assert nll(1, 1) == pytest.approx(after, abs=1e-5)
    assert all(nll(heat, scale) > after - 1e-5 for heat in (0.9, 1, 1.1) for scale in (0.9, 1, 1.1))


def test_the_order_of_reports_does_not_move_constants():
    rng = np.random.default_rng(3)
    located = gaussians(rng, 200, lambda z: 0.2 + 0 * z[:, 0])
    order = torch.from_numpy(rng.permutation(200))
    tensors = {k: v[order] for k, v in vars(located.raw).items() if isinstance(v, torch.Tensor)}
    turned = Located(
        replace(located.raw, **tensors),
        located.truth_m[order],
        located.features[order],
        located.track[order.numpy()],
    )
    found = [fit_scales(part, np.random.default_rng(4))[0] for part in (located, turned)]
    assert found[0].covariance_scale == pytest.approx(found[1].covariance_scale, rel=0.01)


# -- the stage ----------------------------------------------------------------------------


@pytest.mark.slow
def test_scales_lower_the_nll(world):
    _, _, reports, _, reader, network = world
    located = locate_known(network, reader, reports)
    fitted, before, after = fit_scales(located, np.random.default_rng(0))
    assert after < before
    again, repeated, _ = fit_scales(located, np.random.default_rng(0))
    assert (again, repeated) == (fitted, before)


@pytest.mark.slow
def test_equal_corrections_give_equal_levels(world):
    """The same draws for all calibrations."""
    _, _, reports, _, reader, network = world
    same = (Calibration(), Calibration())
    features, levels = held_levels(network, reader, reports, same, np.random.default_rng(1))
    np.testing.assert_array_equal(*levels)
    assert features.shape == (COUNT, len(FEATURES))
    assert ((levels[0] >= 0) & (levels[0] <= 1)).all()


@pytest.mark.slow
def test_the_stage_writes_what_it_says(world, tmp_path):
    city, atlas, reports, folder, _, _ = world
    metadata = build_calibration(
        city, [CityReports(city, atlas, reports)], folder, folder, tmp_path
    )
    calibration = Calibration.load(tmp_path)
    assert metadata["reports"] == metadata["tracks"] == COUNT
    assert metadata["temperature"] == calibration.temperature
    track = TrackFilter.load(tmp_path).parameters
    assert metadata["track_redundancy_standing"] == track.standing
    assert metadata["nll_nats_after"] <= metadata["nll_nats_before"]
    assert list(calibration.adjusted) == sorted(calibration.adjusted)
    table = pd.read_parquet(tmp_path / "coverage.parquet")
    assert set(table.method) == {"before", "one_level", "after"}
    heard = table[(table.stratum == "heard") & (table.method == "after")]
    whole = (heard.estimate * heard.n).sum() / heard.n.sum()
    assert whole == pytest.approx(metadata["coverage_90_after"])
    assert heard.n.sum() == round(COUNT * 2 / 3)
    assert (heard.low <= heard.estimate).all()
    assert (heard.estimate <= heard.high).all()
    by_stratum = metadata["coverage_90_by_stratum"]
    assert by_stratum["heard"].keys() == set(heard.value)
    json.dumps(metadata)
    # Coverage is near what is promised: 60 reports, judged by others, at four standard errors.
    assert metadata["coverage_90_after"] == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 60 * 2))


@pytest.mark.slow
def test_the_stage_repeats_itself(world, tmp_path):
    city, atlas, reports, folder, _, _ = world
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        sets = [CityReports(city, atlas, reports)]
        found.append(build_calibration(city, sets, folder, folder, tmp_path / name))
    assert found[0] == found[1]
    texts = [(tmp_path / name / "calibration.json").read_text() for name in ("a", "b")]
    assert texts[0] == texts[1]


def test_coverage_is_counted_by_stratum(world):
    city, _, reports, _, reader, _ = world
    levels = np.where(np.arange(COUNT) % 3 == 0, 0.95, 0.5)
    table = coverage_table(city, [(reader, reports)], {"x": levels})
    heard = (reports.sector_id.values > 0).sum(axis=1)
    one = table[(table.stratum == "heard") & (table.value == "4-6")].iloc[0]
    mine = (heard >= 4) & (heard <= 6)
    assert one.n == mine.sum()
    assert one.estimate == pytest.approx((levels[mine] <= 0.9).mean())


def test_too_few_reports_are_refused(world, tmp_path):
    city, atlas, reports, folder, _, _ = world
    few = reports.isel(report=slice(30))
    with pytest.raises(ReportError, match=r"splits\.calibration"):
        build_calibration(city, [CityReports(city, atlas, few)], folder, folder, tmp_path)
    one_track = reports.assign(track=("report", np.zeros(COUNT, np.int64)))
    with pytest.raises(ReportError, match=r"splits\.calibration"):
        build_calibration(city, [CityReports(city, atlas, one_track)], folder, folder, tmp_path)
