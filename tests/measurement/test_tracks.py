"""Simulated terminals of a tile."""

import numpy as np
import pytest
import xarray as xr
from made_up_world import default_atlas

from ueloc_core.errors import StoreError
from ueloc_core.measurement.dataset import load_reports, to_batch
from ueloc_core.measurement.schemas import ReportSchema
from ueloc_core.measurement.tracks import build_measurements, in_serving_window

TILES = ("e3013n52126", "e3014n52126", "e3015n52127")


@pytest.fixture(scope="module")
def atlas():
    return default_atlas()


@pytest.fixture(scope="module")
def built(atlas, tmp_path_factory):
    stored = {}
    for name in (*TILES, "e3013n52125"):
        folder = tmp_path_factory.mktemp(name)
        metadata = build_measurements(atlas.city, atlas.city.tile(name), atlas, folder)
        stored[name] = load_reports(folder), metadata
    return stored


@pytest.mark.parametrize("name", TILES)
def test_reports_are_served_by_the_tile_s_own_sectors(atlas, built, name):
    reports, metadata = built[name]
    ReportSchema.validate(reports)
    own = atlas.sectors.sector_id[atlas.sectors.tile == name]
    assert np.isin(reports.sector_id.values[:, 0], own).all()
    assert len(np.unique(reports.sector_id.values[:, 0])) == len(own)
    assert not np.isin(reports.sector_id.values[:, 1:], [*own, 0]).all()
    assert metadata["reports"] == reports.sizes["report"] > 200
    assert metadata["reports"] < metadata["candidates"]


@pytest.mark.parametrize("name", TILES)
def test_terminals_stand_outdoors(atlas, built, name):
    reports, _ = built[name]
    row, column = atlas.ground.indices(reports.x_m.values, reports.y_m.values)
    assert atlas.outdoor[row, column].all()
    serving = atlas.indices(reports.sector_id.values[:, 0])
    traced = [
        atlas.windows[s].contains(x, y)
        for s, x, y in zip(serving, reports.x_m.values, reports.y_m.values, strict=True)
    ]
    assert all(traced)


def test_the_population_has_the_density_of_the_city_file(atlas, built):
    """Candidates per hectare of outdoor ground that the tile's sectors may reach."""
    _, metadata = built[TILES[0]]
    reach = np.zeros(atlas.ground.shape, dtype=bool)
    for sector in np.flatnonzero(atlas.sectors.tile == TILES[0]):
        shared = atlas.ground.intersection(atlas.windows[sector])
        reach[shared.slices_in(atlas.ground)] = True
    hectares = (reach & atlas.outdoor).sum() * 16 / 10_000
    assert metadata["candidates"] == round(hectares * atlas.city.measurements.reports_per_hectare)


def test_terminals_are_unique_over_the_city(built):
    tracks = np.concatenate([reports.track.values for reports, _ in built.values()])
    assert len(np.unique(tracks)) == len(tracks)


def test_the_same_seed_gives_the_same_reports(atlas, built, tmp_path):
    name = TILES[0]
    (tmp_path / "again").mkdir()
    build_measurements(atlas.city, atlas.city.tile(name), atlas, tmp_path / "again")
    xr.testing.assert_identical(load_reports(tmp_path / "again"), built[name][0])
    (tmp_path / "other").mkdir()
    other = atlas.city.model_copy(update={"seed": 2})
    build_measurements(other, other.tile(name), atlas, tmp_path / "other")
    assert load_reports(tmp_path / "other").sizes != built[name][0].sizes or not np.array_equal(
        load_reports(tmp_path / "other").x_m, built[name][0].x_m
    )


def test_a_tile_without_sectors_has_no_reports(built):
    reports, metadata = built["e3013n52125"]
    ReportSchema.validate(reports)
    assert reports.sizes["report"] == metadata["reports"] == 0


def test_reports_become_tensors_and_come_back(atlas, built):
    reports, _ = built[TILES[0]]
    batch = to_batch(reports, atlas)
    known = np.append(atlas.sectors.sector_id.to_numpy(), 0)
    np.testing.assert_array_equal(known[batch.sector.numpy()], reports.sector_id)
    for name in ("rsrp", "rsrq", "sinr"):
        np.testing.assert_array_equal(getattr(batch, name), reports[f"{name}_code"])
    np.testing.assert_array_equal(batch.cqi, reports.cqi)


def test_who_is_in_its_serving_window(atlas):
    x, y = (np.array([v, v + 1e4]) for v in atlas.windows[3].centre_m)
    assert in_serving_window(atlas, np.array([3, 3]), x, y).tolist() == [True, False]


def test_a_corrupt_store_names_its_file(tmp_path):
    with pytest.raises(StoreError, match=r"reports\.zarr"):
        load_reports(tmp_path)
    (tmp_path / "reports.zarr").mkdir()
    (tmp_path / "reports.zarr" / "zarr.json").write_text("no JSON")
    with pytest.raises(StoreError, match=r"reports\.zarr"):
        load_reports(tmp_path)
