"""A made-up world without ray tracing: smooth maps of a few sectors over a small city."""

import functools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter

from ueloc_core.city import City
from ueloc_core.measurement.audible import AudibleSectors
from ueloc_core.measurement.dataset import to_dataset
from ueloc_core.measurement.mobility import Tracks
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.population import Population
from ueloc_core.radio.atlas import MapAtlas
from ueloc_core.radio.schemas import SectorSchema

SITES = 6

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: threads of each would queue
    torch.set_num_threads(1)


def made_up_city(**sections):
    """About 300 x 300 m in tiles of 128 m, windows of 256 m; nothing is read from disk."""
    return City.model_validate(
        {
            "name": "made_up",
            "source": {"kind": "file", "path": Path("made_up.osm")},
            "bbox": (24.940, 60.170, 24.9455, 60.1727),
            "tiles": {"size_m": 128},
            "window": {"size_m": 256, "shift_m": 40},
            "training": {"channels": 12, "components": 8},
            **sections,
        }
    )


@functools.cache
def default_atlas():
    """The atlas of the default made-up city: 18 sectors."""
    return build_atlas(made_up_city())


def _sectors(city, rng):
    """Three sectors at each of a few sites, spread over the city."""
    x0, y0, x1, y1 = city.bounds_m
    rows = []
    for site in range(1, SITES + 1):
        x_m = x0 + (0.2 + 0.3 * ((site - 1) % 3)) * (x1 - x0) + rng.uniform(-15, 15)
        y_m = y0 + (0.3 + 0.4 * ((site - 1) // 3)) * (y1 - y0) + rng.uniform(-15, 15)
        lon_deg, lat_deg = city.to_lonlat(x_m, y_m)
        azimuth_deg = rng.uniform(0, 120)
        rows += [
            {
                "sector_id": 10 * site + k,
                "site_id": site,
                "tile": next(t.name for t in city.tile_list if t.owns(x_m, y_m)),
                "x_m": x_m,
                "y_m": y_m,
                "height_m": 25.0 + site,
                "elevation_m": 25.0 + site,
                "azimuth_deg": azimuth_deg + 120 * k,
                "downtilt_deg": 8.0,
                "power_dbm": 46.0,
                "pci": 3 * site + k,
                "lon_deg": lon_deg,
                "lat_deg": lat_deg,
            }
            for k in range(3)
        ]
    return SectorSchema.validate(pd.DataFrame(rows))


def _level_dbm(window, sector, rng):
    """Distance, azimuth and smooth shadows, over a sector's window."""
    east = window.x_centres_m[None, :] - sector.x_m
    north = window.y_centres_m[:, None] - sector.y_m
    slant_m = np.sqrt(east**2 + north**2 + 20**2)
    turn = np.degrees(np.arctan2(east, north)) - sector.azimuth_deg
    turn = (turn + 180) % 360 - 180
    shadow = gaussian_filter(rng.standard_normal(window.shape), 5)
    pattern = -np.minimum(12 * (turn / 65) ** 2, 25)
    return -82 - 32 * np.log10(slant_m / 20) + pattern + 6 * shadow / shadow.std()


def build_atlas(city, seed=0):
    """Maps of all sectors, buildings on a lattice, no ray indoors and below -135 dBm."""
    rng = np.random.default_rng(seed)
    sectors = _sectors(city, rng)
    ground = city.window_cells
    row, column = np.indices(ground.shape)
    built = (row % 16 < 7) & (column % 16 < 7)
    x0, y0, x1, y1 = city.bounds_m
    x, y = np.meshgrid(ground.x_centres_m, ground.y_centres_m)
    in_area = (x > x0) & (x < x1) & (y > y0) & (y < y1)
    windows, maps, errors, layers = [], [], [], []
    for sector in sectors.itertuples():
        window = city.trace_window(sector.x_m, sector.y_m)
        level = _level_dbm(window, sector, rng)
        shared = window.intersection(ground)
        indoor = np.zeros(window.shape, dtype=bool)
        indoor[shared.slices_in(window)] = built[shared.slices_in(ground)]
        level[indoor | (level < -135)] = np.nan
        windows.append(window)
        maps.append(level)
        errors.append(np.where(np.isnan(level), np.nan, rng.gamma(2.0, 0.5, window.shape)))
        layers.append(_layers(window, sector, np.isnan(level), rng))
    return MapAtlas(
        city=city,
        sectors=sectors,
        windows=tuple(windows),
        rsrp_dbm=np.array(maps, dtype=np.float32),
        rsrp_se_db=np.array(errors, dtype=np.float32),
        ground=ground,
        outdoor=in_area & ~built,
        building_height_m=np.where(built, 18.0, 0.0).astype(np.float32),
        scenes={},
        layers={name: np.array([of[name] for of in layers], np.float32) for name in layers[0]},
    )


def _layers(window, sector, unknown, rng):
    """Delays, angles and sight of a sector's map: the straight line, and a smooth detour."""
    east = window.x_centres_m[None, :] - sector.x_m
    north = window.y_centres_m[:, None] - sector.y_m
    drop = sector.height_m - 1.5
    straight_m = np.sqrt(east**2 + north**2 + drop**2)
    smooth = gaussian_filter(rng.standard_normal((3, *window.shape)), (0, 5, 5))
    smooth /= smooth.std(axis=(1, 2), keepdims=True)
    sight = (smooth[0] > 0.3).astype(float)
    azimuth = np.degrees(np.arctan2(east, north)) + (1 - sight) * 8 * smooth[1]
    values = {
        "first_arrival_ns": (straight_m + (1 - sight) * 10 * np.abs(smooth[2])) / 0.299792458,
        "line_of_sight": sight,
        "delay_spread_ns": 20 + 60 * (1 - sight) * np.abs(smooth[1]),
        "departure_azimuth_deg": azimuth % 360,
        "departure_zenith_deg": np.degrees(np.arccos(-drop / straight_m)),
        "departure_spread_deg": 2 + 8 * (1 - sight),
        "mean_delay_ns": straight_m / 0.299792458 + 20,
        "path_gain_db": -40.0 - straight_m / 10,
        "arrival_azimuth_deg": (azimuth + 180) % 360,
        "arrival_zenith_deg": np.full(window.shape, 80.0),
        "arrival_spread_deg": np.full(window.shape, 20.0),
    }
    known = {name: np.where(unknown, np.nan, value) for name, value in values.items()}
    return {**known, "line_of_sight": sight}


def standing_at(x_m, y_m):
    """One report each of terminals that stand outdoors at points."""
    count = len(x_m)
    zeros, int8 = np.zeros(count), np.zeros(count, dtype=np.int8)
    heading = np.full(count, np.nan, np.float32)
    speed = np.zeros(count, np.float32)
    return Tracks(np.arange(count), zeros, x_m, y_m, speed, heading, int8, int8)


def outdoor_points(atlas, count, rng):
    """Points [m], uniform over the outdoor ground."""
    row, column = np.nonzero(atlas.outdoor)
    drawn = rng.integers(len(row), size=count)
    x0, y0, _, _ = atlas.ground.bounds_m
    part = rng.uniform(0, 1, (2, count))
    x_m = x0 + (column[drawn] + part[0]) * atlas.ground.cell_m
    y_m = y0 + (row[drawn] + part[1]) * atlas.ground.cell_m
    return x_m, y_m


def population(atlas, **settings):
    """Draws reports from the atlas as if it were the world."""
    measurements = type(atlas.city.measurements).model_validate(
        {**atlas.city.measurements.model_dump(), **settings}
    )
    places = PlaceMaps(atlas, measurements)
    model = MeasurementModel(measurements, atlas.city.radio, MapError.none())
    return Population(model, places, AudibleSectors.of(places, atlas.ground, atlas.outdoor), 5)


def draw_reports(atlas, count, seed=0, **settings):
    """Reports of terminals that hear something, uniform over the outdoor ground; their x and y."""
    rng = np.random.default_rng([seed, 1])
    tracks = standing_at(*outdoor_points(atlas, 2 * count, rng))
    batch, truth = population(atlas, **settings).sample(tracks, rng)
    return batch[torch.arange(count)], truth.x_m[:count], truth.y_m[:count]


def draw_dataset(atlas, count, seed=0, **settings):
    """The same as a data set."""
    rng = np.random.default_rng([seed, 1])
    tracks = standing_at(*outdoor_points(atlas, 2 * count, rng))
    batch, truth = population(atlas, **settings).sample(tracks, rng)
    return to_dataset(atlas.city, atlas, batch, truth).isel(report=slice(count))


@functools.cache
def quarter_atlas(cells=28):
    """The same maps, but only a block in the middle of the city is outdoor ground."""
    atlas = default_atlas()
    row, column = np.indices(atlas.ground.shape)
    rows, columns = atlas.ground.shape
    inside = (abs(row - rows // 2) < cells // 2) & (abs(column - columns // 2) < cells // 2)
    return replace(atlas, outdoor=atlas.outdoor & inside)


def draw_apart(atlas, count, seed=0, **settings):
    """Reports as of `draw_reports`, two from each of many cities with shadowing of their own.

    Reports of one city share its shadowing, so that they would not be independent.
    """
    rng = np.random.default_rng([seed, 2])
    first = population(atlas, **settings)
    batches, x_m, y_m = [], [], []
    while sum(len(batch) for batch in batches) < count:
        city = Population(first.model, first.places, first.audible, int(rng.integers(2**31)))
        batch, truth = city.sample(standing_at(*outdoor_points(atlas, 2, rng)), rng)
        batches.append(batch)
        x_m.append(truth.x_m)
        y_m.append(truth.y_m)
    kept = torch.arange(count)
    return type(batches[0]).cat(batches)[kept], *(np.concatenate(v)[:count] for v in (x_m, y_m))


def world_off_by(atlas, rng, *, core=0.0, common=0.0, site=0.0):
    """A world whose levels differ from an atlas's by errors [dB] that are new in every grid cell.

    Of each sector, of all sectors together, and of the sectors of a site.
    """
    windows, own = atlas.windows, rng.standard_normal
    column, row = (min(getattr(w, n) for w in windows) for n in ("column", "row"))
    shape = (
        max(w.row + w.rows for w in windows) - row,
        max(w.column + w.columns for w in windows) - column,
    )
    everyone, sites = common * own(shape), site * own((SITES, *shape))
    levels = atlas.rsrp_dbm.copy()
    for sector, window in enumerate(windows):
        top, left = window.row - row, window.column - column
        part = (slice(top, top + window.rows), slice(left, left + window.columns))
        error = everyone[part] + sites[atlas.site[sector]][part] + core * own(window.shape)
        levels[sector] += error.astype(np.float32)
    return replace(atlas, rsrp_dbm=levels)
