"""Calibration on the tiles of several cities: their reports count together."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_world import build_atlas, default_atlas, draw_dataset, made_up_city

from ueloc_core.city import SPLITS
from ueloc_core.errors import ReportError
from ueloc_core.evaluation import calibration
from ueloc_core.evaluation.calibration import build_calibration
from ueloc_core.localization.calibrated import Calibration
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.refinement_rule import RefinementRule
from ueloc_core.localization.training import network_settings
from ueloc_core.measurement.city_reports import CityReports, in_split, taken, with_tracks_apart
from ueloc_core.measurement.model import MapError

COUNT, FIRST = 90, 50
ERROR = MapError(core_db=1.0, unhit_dbm=-135.0, unhit_db=8.0)


def calibrating(atlas, count, seed):
    reports = draw_dataset(atlas, count, seed=seed, scenarios={"nr_rsrp_ta": 1.0})
    split = np.full(count, SPLITS.index("calibration"), np.int8)
    return CityReports(atlas.city, atlas, reports.assign(split=("report", split)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained network and a map error."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    settings = network_settings(made_up_city())
    network = PosteriorNetwork(**settings)
    torch.save({"network": network.state_dict(), "settings": settings}, folder / "checkpoint.pt")
    (folder / "map_error.json").write_text(json.dumps(ERROR.as_dict()))
    return folder


@pytest.fixture(scope="module")
def whole():
    return calibrating(default_atlas(), COUNT, seed=10)


@pytest.fixture(scope="module")
def halves(whole):
    parts = (slice(None, FIRST), slice(FIRST, None))
    return [CityReports(whole.city, whole.atlas, whole.reports.isel(report=p)) for p in parts]


# ---- reports of several cities ----


def test_what_is_chosen_of_all_is_dealt_back_to_the_cities(whole, halves):
    positions = np.array([3, 49, 50, 89, 4])
    parts = taken(halves, positions)
    assert [len(part) for part in parts] == [3, 2]
    x_m = np.concatenate([part.reports.x_m.values for part in parts])
    np.testing.assert_array_equal(x_m, whole.reports.x_m.values[[3, 49, 4, 50, 89]])
    assert [len(part) for part in taken(halves, np.array([60]))] == [0, 1]
    np.testing.assert_array_equal(in_split(halves, "calibration"), np.arange(COUNT))
    assert not len(in_split(halves, "train"))


def test_tracks_of_two_cities_are_two_tracks(whole):
    twice = with_tracks_apart([whole, whole, whole])
    tracks = [set(one.reports.track.values.tolist()) for one in twice]
    assert not tracks[0] & tracks[1]
    assert not (tracks[0] | tracks[1]) & tracks[2]
    assert tracks[0] == set(whole.reports.track.values.tolist())
    assert twice[0].reports is whole.reports  # a city alone is left as it is


def test_whole_tracks_of_all_cities_are_chosen(whole, halves):
    rng, readers = np.random.default_rng(0), [object(), object()]
    fitting, conformal = calibration._choose(halves, readers, rng)
    tracks = [
        set(np.concatenate([reports.track.values for _, reports in part]))
        for part in (fitting, conformal)
    ]
    assert not tracks[0] & tracks[1]
    assert len(tracks[0] | tracks[1]) == COUNT
    assert len(tracks[0]) == COUNT // 3
    assert len(fitting) == len(conformal) == 2
    assert [reader for reader, _ in fitting] == [reader for reader, _ in conformal] == readers
    few = [taken([one], np.arange(15))[0] for one in halves]
    with pytest.raises(ReportError, match=r"made_up, made_up: splits\.calibration: 30 calibration"):
        calibration._choose(few, readers, rng)


def test_many_reports_are_enough(halves, monkeypatch):
    """So many of either part at most, one of each track first."""
    monkeypatch.setattr(calibration, "_MOST_FITTED", 8)
    monkeypatch.setattr(calibration, "_MOST_CONFORMAL", 12)
    fitting, conformal = calibration._choose(halves, [None, None], np.random.default_rng(0))
    for part, most in ((fitting, 8), (conformal, 12)):
        tracks = np.concatenate([reports.track.values for _, reports in part])
        assert len(tracks) == len(set(tracks)) == most


# ---- the stage ----


@pytest.mark.slow
def test_cities_together_calibrate_as_one(whole, halves, folder, tmp_path):
    """How reports are dealt out to cities does not matter, up to rounding."""
    found = []
    for name, sets in (("whole", [whole]), ("halves", halves)):
        (tmp_path / name).mkdir()
        found.append(build_calibration(whole.city, sets, folder, folder, tmp_path / name))
    one, two = found
    assert two["cities"] == ["made_up", "made_up"]
    for key in ("temperature", "covariance_scale", "nll_nats_before", "nll_nats_after"):
        assert two[key] == pytest.approx(one[key], rel=1e-3), key
    assert (two["reports"], two["tracks"]) == (one["reports"], one["tracks"])
    calibrations = [Calibration.load(tmp_path / name) for name in ("whole", "halves")]
    np.testing.assert_allclose(calibrations[1].adjusted, calibrations[0].adjusted, atol=1e-3)
    rules = [RefinementRule.load(tmp_path / name) for name in ("whole", "halves")]
    assert rules[0].acts == rules[1].acts
    assert rules[0].note == rules[1].note
    tables = [pd.read_parquet(tmp_path / name / "coverage.parquet") for name in ("whole", "halves")]
    np.testing.assert_array_equal(tables[0].n, tables[1].n)


@pytest.mark.slow
def test_a_city_with_other_maps_counts_by_its_reports(whole, folder, tmp_path):
    other = build_atlas(made_up_city(name="other"), seed=3)
    sets = [whole, calibrating(other, 30, seed=11)]
    metadata = build_calibration(made_up_city(name="third"), sets, folder, folder, tmp_path)
    assert metadata["cities"] == ["made_up", "other"]
    assert metadata["reports"] == metadata["tracks"] == COUNT + 30
    table = pd.read_parquet(tmp_path / "coverage.parquet")
    heard = table[(table.stratum == "heard") & (table.method == "after")]
    assert heard.n.sum() == round((COUNT + 30) * 2 / 3)
    json.dumps(metadata)
