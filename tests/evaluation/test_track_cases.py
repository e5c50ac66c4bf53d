"""Fixes of the last reports of tracks: which tracks, which rows, and what they must agree on."""

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_tracks import as_tracks, paths_to
from made_up_world import default_atlas, population

from ueloc_core.city import SPLITS
from ueloc_core.evaluation.cases import cases_of
from ueloc_core.evaluation.exact import grid_posterior_rows
from ueloc_core.evaluation.schemas import FixSchema
from ueloc_core.evaluation.track_cases import (
    SPLIT,
    choose_tracks,
    fit_tracks,
    read_rasters,
    track_rows,
)
from ueloc_core.localization.baselines import GridBayes
from ueloc_core.localization.calibrated import Calibration
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.tracking import TrackFilter, TrackParameters
from ueloc_core.localization.training import network_settings
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.dataset import to_dataset
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.measurement.motion import MotionPrior

TEST, CALIBRATION = SPLITS.index("test"), SPLITS.index("calibration")
TIMES_S = [0.0, 0.8, 1.7]
TRACKS, MOST = 8, 3
METHODS = {"network", "oracle", "network_track", "oracle_track"}


@pytest.fixture(scope="module")
def reports():
    """Tracks of three reports and some of fewer, half of them to test on."""
    atlas, rng = default_atlas(), np.random.default_rng(91)
    world = population(atlas, scenarios={"full": 1.0})
    places = paths_to(atlas, MotionPrior((0.0, 1.4), (0.5, 0.5)), TIMES_S, TRACKS, rng)
    batch, truth = world.sample(as_tracks(*places, TIMES_S), rng)
    found = to_dataset(atlas.city, atlas, batch, truth)
    split = np.where(found.track.values % 2, TEST, CALIBRATION).astype(np.int8)
    found = found.assign(split=("report", split))
    # of two test tracks two reports, of one a single one; and in no order
    cut = (found.track.isin([1, 3]) & (found.time_s == 0)) | (
        found.track.isin([5]) & (found.time_s < 1.5)
    )
    kept = np.flatnonzero(~cut.values)
    return found.isel(report=rng.permutation(kept)).drop_vars("report", errors="ignore")


@pytest.fixture(scope="module")
def locators(tmp_path_factory):
    """City, windows, and folders of an untrained network and of a calibration."""
    atlas, folder = default_atlas(), tmp_path_factory.mktemp("locators")
    city = atlas.city.model_copy(
        update={"evaluation": atlas.city.evaluation.model_copy(update={"max_tracks": MOST})}
    )
    torch.manual_seed(0)
    settings = network_settings(city)
    network = PosteriorNetwork(**settings).eval()
    torch.save({"network": network.state_dict(), "settings": settings}, folder / "checkpoint.pt")
    Calibration().save(folder)
    TrackFilter().save(folder)
    model = MeasurementModel(city.measurements, city.radio, MapError.none())
    folders = {"posterior_model": folder, "calibration": folder}
    return city, WindowReader(atlas, model), network, folders


def of_test(reports):
    return reports.split.values == TEST


@pytest.fixture(scope="module")
def fixes(locators, reports):
    city, reader, _, folders = locators
    return track_rows(city, reader, reports, of_test(reports), folders)


# -- which tracks -------------------------------------------------------------------------


def test_tracks_are_whole_and_in_order_of_time(locators, reports):
    chosen = choose_tracks(locators[0], reports, of_test(reports), 99)
    names = [set(reports.track.values[own]) for own in chosen]
    assert sorted(name for own in names for name in own) == [1, 3, 7]
    for own in chosen:
        assert (np.diff(reports.time_s.values[own]) > 0).all()
        assert (
            len(own)
            == (reports.track.values[of_test(reports)] == reports.track.values[own[0]]).sum()
        )


def test_long_tracks_come_first_and_their_number_is_held(locators, reports):
    (only,) = choose_tracks(locators[0], reports, of_test(reports), 1)
    assert set(reports.track.values[only]) == {7}
    assert len(only) == 3
    assert choose_tracks(locators[0], reports, of_test(reports), 0) == []


def test_the_choice_is_seeded(locators, reports):
    city = locators[0]
    every = np.ones(reports.sizes["report"], dtype=bool)

    def names(seed):
        found = choose_tracks(city.model_copy(update={"seed": seed}), reports, every, 2)
        return {int(reports.track.values[own[0]]) for own in found}

    assert names(1) == names(1)
    assert len({frozenset(names(seed)) for seed in range(6)}) > 1


# -- the rows -----------------------------------------------------------------------------


def test_each_track_has_a_fix_of_every_method(fixes, reports):
    FixSchema.validate(fixes)
    assert set(fixes.split) == {SPLIT}
    assert set(fixes.method) == METHODS
    assert (fixes.groupby("report").size() == len(METHODS)).all()
    assert fixes.report.nunique() == MOST
    last = fixes.report.to_numpy()
    np.testing.assert_array_equal(fixes.truth_x_m, reports.x_m.values[last])
    assert sorted(fixes.drop_duplicates("report").track_reports) == [2, 2, 3]
    assert fixes[["nll_nats", "hpd_level", "area90_m2", "energy_score_m"]].notna().all(axis=None)


def test_the_oracle_of_one_report_is_that_of_other_evaluations(locators, reports, fixes):
    city, reader, _, _ = locators
    own = fixes[fixes.method == "oracle"].reset_index(drop=True)
    last = own.report.to_numpy()
    cases = cases_of(city, reader, reports.isel(report=last).assign_coords(report=last))
    rows, _ = grid_posterior_rows("oracle", GridBayes(reader.places, reader.model), cases)
    expected = pd.DataFrame(rows)
    for name in ("x_m", "y_m", "nll_nats", "hpd_level", "tarp"):
        np.testing.assert_allclose(own[name], expected[name])


def test_the_network_alone_has_its_raster(locators, reports, fixes):
    city, reader, network, _ = locators
    tracks = choose_tracks(city, reports, of_test(reports), MOST)
    rasters, corrections = read_rasters(reader, network, Calibration(), reports, tracks)
    assert len(rasters) == len(corrections) == MOST
    own = fixes[fixes.method == "network"].set_index("report")
    for track, of in zip(tracks, rasters, strict=True):
        assert len(of) == len(track)
        row = own.loc[track[-1]]
        frame = of.frames[-1]
        at = tuple(int(v) for v in frame.indices(row.truth_x_m, row.truth_y_m))
        assert row.nll_nats == pytest.approx(-np.log(of.masses[-1][at] / frame.cell_m**2), rel=1e-4)


def test_no_track_has_no_rows(locators, reports):
    city, reader, _, folders = locators
    first = reports.isel(report=np.unique(reports.track.values, return_index=True)[1])
    assert len(track_rows(city, reader, first, of_test(first), folders)) == 0


# -- the filter ---------------------------------------------------------------------------


def test_the_filter_is_fitted_to_calibration_tracks(locators, reports, monkeypatch):
    city, reader, network, _ = locators
    asked = {}

    def fit(tracks, truth_m, settings):
        asked.update(tracks=tracks, truth_m=truth_m, settings=settings)
        return TrackFilter(TrackParameters(standing=0.25))

    monkeypatch.setattr(TrackFilter, "fit", fit)
    found = fit_tracks(city, [(reader, reports)], network, Calibration())
    assert found.parameters.standing == 0.25
    assert asked["settings"] == city.measurements.tracks
    mine = reports.split.values == CALIBRATION
    assert len(asked["tracks"]) == len(np.unique(reports.track.values[mine])) == TRACKS // 2
    x_m = {float(x) for x in reports.x_m.values[mine & (reports.time_s.values > 1.5)]}
    assert {x for x, _ in asked["truth_m"]} == x_m


def test_without_tracks_the_filter_is_that_of_the_population(locators, reports):
    city, reader, network, _ = locators
    none = reports.assign(split=("report", np.full(reports.sizes["report"], TEST, np.int8)))
    found = fit_tracks(city, [(reader, none)], network, Calibration())
    assert found.parameters == TrackParameters.of(city.measurements.tracks)
