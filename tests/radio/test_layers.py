"""Derived layers against the atlas, the measurement model and the formulas of the standards."""

import dataclasses

import numpy as np
import pytest
import xarray as xr
from made_up_world import default_atlas, outdoor_points
from pyproj import CRS

from ueloc_core.errors import RadioError
from ueloc_core.grid import Window
from ueloc_core.measurement.audible import AudibleSectors
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.population import Population
from ueloc_core.measurement.reports import decode_rsrq, decode_sinr
from ueloc_core.measurement.simulate import Terminals
from ueloc_core.radio.layers import derived_layers
from ueloc_core.radio.link import throughput_mbps, timing_advance_step_m
from ueloc_core.units import SPEED_OF_LIGHT_M_S, noise_per_resource_element_dbm

MISSING = -1


@pytest.fixture(scope="module")
def atlas():
    return default_atlas()


@pytest.fixture(scope="module")
def layers(atlas):
    return derived_layers(atlas.city, atlas)


def timed(atlas, delays_ns):
    """The atlas with other delays."""
    return dataclasses.replace(atlas, layers=atlas.layers | {"first_arrival_ns": delays_ns})


def alone(atlas, level_dbm):
    """The atlas with one sector left, of one level everywhere."""
    return dataclasses.replace(
        atlas,
        sectors=atlas.sectors.iloc[:1],
        windows=atlas.windows[:1],
        rsrp_dbm=np.full_like(atlas.rsrp_dbm[:1], level_dbm),
        rsrp_se_db=atlas.rsrp_se_db[:1],
        layers={name: values[:1] for name, values in atlas.layers.items()},
    )


def with_radio(city, **changes):
    return city.model_copy(update={"radio": city.radio.model_copy(update=changes)})


def noise_dbm(city):
    return noise_per_resource_element_dbm(city.radio.numerology, city.radio.noise_figure_db)


# -- contract -------------------------------------------------------------------------------


def test_every_layer_has_units_a_name_and_a_place_on_earth(atlas, layers):
    assert set(layers.data_vars) == {
        "rsrp_dbm", "snr_db", "sinr_db", "rsrq_db", "rssi_dbm", "best_server", "serving_rsrp_dbm",
        "serving_sinr_db", "cqi", "mcs", "throughput_mbps", "timing_advance",
        "serving_timing_advance",
    }  # fmt: skip
    for name, layer in layers.data_vars.items():
        assert layer.dims in (("sector", "y", "x"), ("y", "x")), name
        assert {"units", "long_name", "grid_mapping"} <= set(layer.attrs)
    assert CRS.from_cf(layers.spatial_ref.attrs) == CRS.from_user_input(atlas.city.crs_code)
    np.testing.assert_array_equal(layers.x, atlas.ground.x_centres_m)
    np.testing.assert_array_equal(layers.y, atlas.ground.y_centres_m)
    assert layers.sector.values.tolist() == atlas.sectors.sector_id.tolist()


def test_layers_are_stored_and_read_back(layers, tmp_path):
    layers.to_zarr(tmp_path / "layers.zarr", zarr_format=3, consolidated=False)
    with xr.open_zarr(tmp_path / "layers.zarr", consolidated=False) as stored:
        xr.testing.assert_identical(stored.load(), layers)


def test_any_window_is_a_part_of_the_whole(atlas, layers):
    window = Window.centred(*atlas.ground.centre_m, 120, 4.0)
    part = derived_layers(atlas.city, atlas, window)
    rows, columns = window.slices_in(atlas.ground)
    for name, layer in part.data_vars.items():
        whole = (
            layers[name].isel(y=rows, x=columns).sel(sector=part.sector, drop=False)
            if ("sector" in layer.dims)
            else layers[name].isel(y=rows, x=columns)
        )
        np.testing.assert_array_equal(layer.values, whole.values, err_msg=name)


def test_nothing_is_known_where_no_map_reaches(atlas):
    far = derived_layers(atlas.city, atlas, Window(0, 0, 8, 6, 4.0))
    assert far.sizes["sector"] == 0
    assert far.best_server.shape == (6, 8)
    assert (far.best_server == 0).all()
    assert (far.cqi == MISSING).all()
    assert (far.mcs == MISSING).all()
    assert all(far[n].isnull().all() for n in ("rssi_dbm", "serving_sinr_db", "throughput_mbps"))


def test_a_window_of_other_cells_is_refused(atlas):
    with pytest.raises(RadioError, match="grid cells of 2 m"):
        derived_layers(atlas.city, atlas, Window(0, 0, 8, 8, 2.0))


# -- physics --------------------------------------------------------------------------------


def test_values_stand_where_levels_do(layers):
    known = layers.rsrp_dbm.notnull()
    for name in ("snr_db", "sinr_db", "rsrq_db"):
        assert (layers[name].notnull() == known).all(), name
    some = known.any("sector")
    assert 0.3 < float(some.mean()) < 1
    assert ((layers.best_server > 0) == some).all()
    assert ((layers.cqi >= 0) == some).all()
    assert (layers.rssi_dbm.notnull() == some).all()


def test_sinr_is_at_most_snr(layers):
    assert float((layers.sinr_db - layers.snr_db).max()) < 1e-4
    assert float((layers.sinr_db - layers.snr_db).min()) < -10


def test_best_server_is_the_strongest(atlas, layers):
    np.testing.assert_array_equal(layers.serving_rsrp_dbm, atlas.best_server_dbm())
    known = layers.best_server > 0
    index = np.searchsorted(layers.sector, layers.best_server.where(known, layers.sector[0]))
    at = np.take_along_axis(layers.rsrp_dbm.values, index[None], axis=0)[0]
    np.testing.assert_array_equal(at[known], layers.serving_rsrp_dbm.values[known])
    sinr = np.take_along_axis(layers.sinr_db.values, index[None], axis=0)[0]
    np.testing.assert_array_equal(sinr[known], layers.serving_sinr_db.values[known])


def test_of_equal_sectors_the_first_serves(atlas):
    level = np.full_like(atlas.rsrp_dbm, -80.0)
    equal = derived_layers(atlas.city, dataclasses.replace(atlas, rsrp_dbm=level))
    served = equal.best_server.values[equal.rsrp_dbm.notnull().values[0]]
    assert set(served.tolist()) == {int(atlas.sectors.sector_id[0])}


def test_one_sector_alone(atlas):
    """No interference: SINR is SNR; RSRQ that of its load and the noise; RSSI 12 N_RB of it."""
    city = with_radio(atlas.city, load=1.0)
    only = derived_layers(city, alone(atlas, -60.0))
    reached = only.rsrp_dbm.notnull().values[0]
    np.testing.assert_allclose(only.sinr_db.values[0][reached], -60 - noise_dbm(city), atol=1e-4)
    np.testing.assert_allclose(only.snr_db.values[0][reached], -60 - noise_dbm(city), atol=1e-4)
    np.testing.assert_allclose(only.rsrq_db.values[0][reached], -10.79, atol=0.005)
    rssi = -60 + 10 * np.log10(12 * 273)
    np.testing.assert_allclose(only.rssi_dbm.values[reached], rssi, atol=1e-3)
    half = derived_layers(with_radio(city, load=0.5), alone(atlas, -60.0))
    np.testing.assert_allclose(half.rsrq_db.values[0][reached], -7.78, atol=0.005)


def test_twice_the_power_is_three_decibels(atlas, layers):
    twice = np.float32(10 * np.log10(2))
    louder = derived_layers(atlas.city, dataclasses.replace(atlas, rsrp_dbm=atlas.rsrp_dbm + twice))
    snr = (louder.snr_db - layers.snr_db).values
    np.testing.assert_allclose(snr[np.isfinite(snr)], 3.0103, atol=1e-4)
    gained = (louder.sinr_db - layers.sinr_db).values
    gained = gained[np.isfinite(gained)]
    # interference doubles as well, the noise does not
    assert gained.min() > -1e-4
    assert gained.max() < 3.0104
    rssi = (louder.rssi_dbm - layers.rssi_dbm).values
    assert 0 < np.nanmin(rssi) <= np.nanmax(rssi) < 3.0104


def test_more_load_is_worse(atlas, layers):
    loaded = derived_layers(with_radio(atlas.city, load=1.0), atlas)
    assert float((loaded.sinr_db - layers.sinr_db).max()) < 1e-4
    assert float((loaded.rsrq_db - layers.rsrq_db).max()) < 0
    assert float((loaded.throughput_mbps - layers.throughput_mbps).max()) < 1e-3
    assert float(loaded.throughput_mbps.mean()) < float(layers.throughput_mbps.mean())
    np.testing.assert_array_equal(loaded.snr_db, layers.snr_db)


def test_rsrq_is_within_the_reported_range_where_sectors_serve(layers):
    serving = layers.rsrq_db.where(layers.sector == layers.best_server)
    assert float(serving.max()) < -10.79 - 10 * np.log10(0.5) + 1e-3
    assert float(serving.min()) > -43


def test_quality_rises_with_the_sinr(atlas, layers):
    sinr = layers.serving_sinr_db.values.ravel()
    order = np.argsort(sinr)[: np.isfinite(sinr).sum()]
    for name in ("cqi", "throughput_mbps"):
        assert (np.diff(layers[name].values.ravel()[order]) >= -1e-4).all(), name
    assert 0 <= layers.cqi.values.ravel()[order].min() < layers.cqi.values.max() <= 15
    expected = throughput_mbps(sinr[order], resource_blocks=273, numerology=1)
    np.testing.assert_allclose(layers.throughput_mbps.values.ravel()[order], expected, rtol=1e-6)


# -- the same as reports --------------------------------------------------------------------


def quiet(measurements):
    """All random deviations made small, below what a city file allows."""

    def changed(section, **values):
        return section.model_copy(update=values)

    return changed(
        measurements,
        dropout_probability=0.0,
        shadowing=changed(measurements.shadowing, sigma_db=0.0),
        terminal=changed(
            measurements.terminal, gain_sigma_db=0.0, clock_sigma_ns=0.0, level_sigma_db=1e-4
        ),
        fading=changed(measurements.fading, averaged_samples=10**9),
        timing=changed(measurements.timing, late_share_los=0.0, late_share_nlos=0.0, floor_ns=1e-4),
        quality=changed(
            measurements.quality,
            interference_sigma_db=1e-4,
            sigma_db=1e-4,
            throughput_sigma=1e-4,
        ),
    )


@pytest.fixture(scope="module")
def undisturbed(atlas, layers):
    """Reports without deviations, and the grid cells (row, column) that they come from."""
    settings = quiet(atlas.city.measurements)
    places = PlaceMaps(atlas, settings)
    model = MeasurementModel(settings, atlas.city.radio, MapError.none())
    audible = AudibleSectors.of(places, atlas.ground, atlas.outdoor)
    rng = np.random.default_rng(1)
    x_m, y_m = outdoor_points(atlas, 4000, rng)
    row, column = atlas.ground.indices(x_m, y_m)
    heard = layers.serving_rsrp_dbm.values[row, column] > -118
    x_m, y_m, row, column = (v[heard] for v in (x_m, y_m, row, column))
    around = Population(model, places, audible, 5).surroundings(
        audible.rows_at(x_m, y_m), x_m, y_m, np.zeros(len(x_m))
    )
    return model.sample(around, rng, Terminals.unrelated(len(x_m))), row, column


def test_reports_without_deviations_are_the_layers(atlas, layers, undisturbed):
    """All random deviations made small, a report differs by its encoding alone."""
    (batch, row, column), load = undisturbed, atlas.city.radio.load
    served = batch.sector[:, 0].numpy()
    assert len(served) > 1000
    # of two sectors in one step of the level, either may serve
    level = layers.rsrp_dbm.values[served, row, column]
    assert (layers.serving_rsrp_dbm.values[row, column] - level).max() < 1
    same = layers.sector.values[served] == layers.best_server.values[row, column]
    assert same.mean() > 0.9
    rsrq = layers.rsrq_db.values[served, row, column]
    sinr = layers.sinr_db.values[served, row, column]
    # levels to 0.5 dB, and the ratio to a quarter
    assert np.abs(decode_rsrq(batch.rsrq[:, 0].numpy()) - rsrq).max() < 0.76
    assert np.abs(decode_sinr(batch.sinr[:, 0].numpy()) - sinr).max() < 1.26
    cqi = layers.cqi.values[row, column][same]
    assert np.abs(batch.cqi.numpy()[same] - cqi).max() <= 1
    assert (batch.cqi.numpy()[same] == cqi).mean() > 0.8
    # rounded down to 1 kbit/s; the level's step moves the SINR by half a decibel
    expected = 1e3 * (1 - load) * layers.throughput_mbps.values[row, column][same]
    found = batch.throughput.numpy()[same]
    ratio = found[expected > 2e4] / expected[expected > 2e4]
    assert np.abs(np.log(ratio)).max() < 0.3
    assert np.abs(np.log(ratio)).mean() < 0.05


def test_timing_advances_without_deviations_are_the_layer(layers, undisturbed):
    """The first arrival's step; next to its edge the remaining noise (bandwidth, SNR) decides."""
    batch, row, column = undisturbed
    served = batch.sector[:, 0].numpy()
    advance = layers.timing_advance.values[served, row, column]
    assert advance.max() > advance.min()
    assert np.abs(batch.ta.numpy() - advance).max() <= 1
    assert (batch.ta.numpy() == advance).mean() > 0.8


# -- timing advance -------------------------------------------------------------------------


def straight_delays_ns(atlas, detour_m=0.0):
    delays = np.full_like(atlas.rsrp_dbm, np.nan)
    for k, (window, sector) in enumerate(
        zip(atlas.windows, atlas.sectors.itertuples(), strict=True)
    ):
        east, north = np.meshgrid(window.x_centres_m - sector.x_m, window.y_centres_m - sector.y_m)
        delays[k] = (np.hypot(east, north) + detour_m) / SPEED_OF_LIGHT_M_S * 1e9
    return np.where(np.isnan(atlas.rsrp_dbm), np.nan, delays)


def test_timing_advance_follows_the_first_arrival(atlas):
    city = with_radio(atlas.city, numerology=3, resource_blocks=66)
    step_m = timing_advance_step_m(3)
    for detour_m in (0.0, 300.0):
        delays = straight_delays_ns(atlas, detour_m)
        timed_layers = derived_layers(city, timed(atlas, delays))
        assert timed_layers.attrs["timing_advance_step_m"] == pytest.approx(9.76, abs=0.005)
        for k, sector in enumerate(atlas.sectors.itertuples()):
            east, north = np.meshgrid(timed_layers.x - sector.x_m, timed_layers.y - sector.y_m)
            advance = timed_layers.timing_advance.values[k]
            known = advance != MISSING
            np.testing.assert_array_equal(known, timed_layers.rsrp_dbm.notnull().values[k])
            off_m = advance * step_m - np.hypot(east, north) - detour_m
            assert np.abs(off_m[known]).max() < step_m / 2 + 1e-2
        best = timed_layers.timing_advance.where(
            timed_layers.sector == timed_layers.best_server, MISSING
        ).max("sector")
        np.testing.assert_array_equal(timed_layers.serving_timing_advance, best)


def test_without_delays_there_is_no_timing_advance(atlas, layers):
    """Nothing else changes."""
    unknown = derived_layers(atlas.city, dataclasses.replace(atlas, layers={}))
    assert "timing_advance" not in unknown
    assert "serving_timing_advance" not in unknown
    xr.testing.assert_identical(
        unknown, layers.drop_vars(["timing_advance", "serving_timing_advance"])
    )


def test_delays_of_other_sectors_are_refused(atlas):
    with pytest.raises(RadioError, match="delays of shape"):
        derived_layers(atlas.city, timed(atlas, straight_delays_ns(atlas)[:3]))
