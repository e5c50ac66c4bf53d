"""The map error that training reports reveal."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_world import default_atlas, draw_reports, made_up_city

from ueloc_core.errors import ReportError, StoreError
from ueloc_core.measurement.dataset import to_dataset
from ueloc_core.measurement.map_error import build_map_error, fit, load_map_error
from ueloc_core.measurement.model import MapError, MeasurementModel

pytestmark = pytest.mark.slow

COUNT = 300


@pytest.fixture(scope="module")
def world():
    """Reports at known places, the world's levels there, and standard errors."""
    city = made_up_city(measurements={"rsrp_sigma_db": 3.0})
    rng = np.random.default_rng(21)
    level = rng.uniform(-130, -75, (COUNT, 8)).astype(np.float32)
    se = rng.gamma(1.0, 2.0, level.shape).astype(np.float32)
    model = MeasurementModel(city.measurements, city.radio, MapError.none())
    batch = model.sample(torch.from_numpy(level), torch.Generator().manual_seed(22))
    heard = batch.heard[:, 0]
    return city, batch[heard], torch.from_numpy(level)[heard], torch.from_numpy(se)[heard], rng


def core_spread_db(error, se_db):
    return float(np.hypot(error.core_db, error.core_per_se * se_db))


def test_a_planted_core_is_found(world):
    """The twin is off by 4 dB, whatever the standard error says."""
    city, batch, level, se, rng = world
    noise = torch.from_numpy(rng.normal(0, 4, level.shape).astype(np.float32))
    error, before, after = fit(city, batch, level + noise, se)
    assert after < before
    assert core_spread_db(error, 2.0) == pytest.approx(4, abs=1)
    assert 1 / (1 + np.exp(-error.tail_logit)) < 0.25


def test_a_core_that_follows_the_standard_error_is_found(world):
    city, batch, level, se, rng = world
    noise = torch.from_numpy(rng.standard_normal(level.shape).astype(np.float32)) * 2 * se
    error, _, _ = fit(city, batch, level + noise, se)
    assert error.core_per_se == pytest.approx(2, abs=0.5)
    assert error.core_db < 2
    assert core_spread_db(error, 4.0) > 1.5 * core_spread_db(error, 1.0)


def test_without_error_none_is_found(world):
    city, batch, level, se, _ = world
    error, _, _ = fit(city, batch, level, se)
    assert core_spread_db(error, 1.0) < 1.2
    assert error.total_db <= 1.5


def test_a_planted_tail_is_found(world):
    """One place in five is off by 15 dB."""
    city, batch, level, se, rng = world
    wild = (rng.random(level.shape) < 0.2) * rng.normal(0, 15, level.shape)
    error, _, _ = fit(city, batch, level + torch.from_numpy(wild.astype(np.float32)), se * 0)
    share = 1 / (1 + np.exp(-error.tail_logit))
    assert 0.08 < share < 0.4
    assert error.tail_db == pytest.approx(15, abs=5)
    assert core_spread_db(error, 0.0) < 2


def test_levels_where_no_ray_arrived_are_found_from_silence_too(world):
    """Three sectors lie around -125 dBm unmapped: most are not heard, and that is evidence."""
    city, _, level, se, rng = world
    truth = level.clone()
    truth[:, :3] = torch.from_numpy(rng.normal(-125, 6, (len(level), 3)).astype(np.float32))
    model = MeasurementModel(city.measurements, city.radio, MapError.none())
    batch = model.sample(truth, torch.Generator().manual_seed(23))
    heard = batch.heard[:, 0]
    mapped = truth.clone()
    mapped[:, :3] = torch.nan
    error, _, _ = fit(city, batch[heard], mapped[heard], se[heard])
    assert error.unhit_dbm == pytest.approx(-125, abs=2)
    assert error.unhit_db == pytest.approx(6, abs=2)


def test_the_stage_writes_what_it_says(tmp_path):
    city = made_up_city()
    atlas = default_atlas()
    batch, x_m, y_m = draw_reports(atlas, 60, seed=4)
    reports = to_dataset(city, atlas, batch, x_m, y_m, np.arange(len(batch)))
    reports["split"] = ("report", np.zeros(len(batch), np.int8))
    metadata = build_map_error(city, atlas, reports, tmp_path)
    stored = load_map_error(tmp_path)
    assert stored.as_dict() == {k: metadata[k] for k in stored.as_dict()}
    assert metadata["reports"] == 60
    assert metadata["nats_per_report_after"] < metadata["nats_per_report_before"]
    assert np.isfinite(metadata["position_nll_nats"])
    assert 0.3 <= stored.level_exponent <= 1
    # Uniform over the outdoor ground of one window would be about ln(75 000 m2) = 11.2 nats.
    assert metadata["position_nll_nats"] < 10.5
    few = reports.isel(report=slice(20))
    with pytest.raises(ReportError, match="20 training reports"):
        build_map_error(city, atlas, few, tmp_path)


@pytest.mark.parametrize("content", [None, "{", '{"core_db": 1, "unknown": 2}', "[1]"])
def test_a_bad_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "map_error.json").write_text(content)
    with pytest.raises(StoreError, match="map_error.json"):
        load_map_error(tmp_path)


def test_it_survives_its_file(tmp_path):
    error = replace(MapError.none(), core_db=1.25, tail_logit=-2.5)
    (tmp_path / "map_error.json").write_text(json.dumps(error.as_dict()))
    assert load_map_error(tmp_path) == error
