"""A made-up town traced again and again: what error bars promise, and what a seed fixes."""

import numpy as np
import pytest
from scipy import stats
from small_scenes import (
    ISO,
    azimuth_deg,
    box,
    delay_ns,
    ground,
    places,
    small_scene,
    square,
    trace,
    turn_deg,
)

from ueloc_core.radio.antennas import antenna_named
from ueloc_core.radio.ray_tracing import Plane, Sector

pytestmark = pytest.mark.slow

MAST = np.array((3.0, -2.0, 28.0))
GRID = square((0.0, 0.0), 40, 4.0, 1.5)
SEEDS = range(6)
TOWN = {"max_depth": 3, "diffraction": True}
SECTOR = Sector(antenna_named("tr38901"), 60.0, 8.0)
DEGREES = 6  # of freedom, of a difference of two sets of four batches


def town(folder, shift_m=(0.0, 0.0, 0.0), turned=False):
    """Four by four houses of 8 to 23 m, streets of 14 to 20 m, on a ground of concrete."""
    rng = np.random.default_rng(5)
    bodies = {"ground": (ground(400), "concrete")}
    for k, (x, y) in enumerate((x, y) for x in (-66, -24, 18, 60) for y in (-66, -24, 18, 60)):
        width, depth = rng.uniform(22, 28, 2)
        house = box((x - 8, x - 8 + width), (y - 8, y - 8 + depth), (0, rng.uniform(8, 23)))
        bodies[f"house{k}"] = (house, "concrete")
    for mesh, _ in bodies.values():
        if turned:  # by 90 degrees, counter-clockwise: x east becomes y north
            mesh.vertices = mesh.vertices[:, [1, 0, 2]] * (-1, 1, 1)
        mesh.apply_translation(shift_m)
    return small_scene(folder, **bodies)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def repeats(scene):
    return [trace(scene, MAST, GRID, ISO, SECTOR, seed=seed, **TOWN) for seed in SEEDS]


def pulls(first, second):
    """Differences of two maps over their error bars, where both are known."""
    difference = first.path_gain_db - second.path_gain_db
    error = np.hypot(first.path_gain_se_db, second.path_gain_se_db)
    known = np.isfinite(difference) & (error > 0)
    return difference[known] / error[known]


def covered(pull, level):
    return (np.abs(pull) < stats.t.ppf((1 + level) / 2, DEGREES)).mean()


def test_error_bars_cover_repeated_seeds_at_their_nominal_rate(repeats):
    """In sight and in the dark, for each sector; the tolerance would notice a factor of 1.4."""
    for index in range(2):
        seen = [site.sectors[index] for site in repeats]
        pull = np.concatenate([pulls(a, b) for a, b in zip(seen[::2], seen[1::2], strict=True)])
        assert len(pull) > 2000
        assert 0.85 < covered(pull, 0.90) < 0.95
        assert 0.42 < covered(pull, 0.50) < 0.58
        assert abs(np.median(pull)) < 0.08
        # such as half of the error bars would
        assert covered(2 * pull, 0.90) < 0.8


def test_the_mean_over_seeds_has_no_bias_of_its_own(repeats):
    """Batches are whole estimates: more rays in fewer seeds agree with fewer rays in more."""
    powers = [10 ** (site.sectors[0].path_gain_db.astype(float) / 10) for site in repeats]
    first, second = (np.nansum(part, axis=0) for part in (powers[:3], powers[3:]))
    heard = (first > 0) & (second > 0)
    assert abs(10 * np.log10(first[heard].sum() / second[heard].sum())) < 0.02
    assert abs(np.median(10 * np.log10(first[heard] / second[heard]))) < 0.02


def test_more_rays_and_points_make_smaller_errors(scene, repeats):
    few, many = repeats[0], trace(
        scene, MAST, GRID, ISO, seed=9, rays=640_000, points=16, **TOWN
    )  # fmt: skip
    errors = [site.sectors[0].path_gain_se_db for site in (few, many)]
    known = np.isfinite(errors[0]) & np.isfinite(errors[1])
    assert np.median(errors[1][known]) < 0.5 * np.median(errors[0][known])
    assert (errors[1][known] < errors[0][known]).mean() > 0.8
    # the error is that of the few: four batches
    pull = np.abs(pulls(few.sectors[0], many.sectors[0]))
    assert 0.86 < (pull < stats.t.ppf(0.95, 3.5)).mean() < 0.95


def test_a_seed_fixes_every_bit(scene, repeats):
    again = trace(scene, MAST, GRID, ISO, SECTOR, seed=SEEDS[0], **TOWN)
    assert again.line_of_sight.tobytes() == repeats[0].line_of_sight.tobytes()
    for found, before in zip(again.sectors, repeats[0].sectors, strict=True):
        for name, values in vars(found).items():
            assert values.tobytes() == getattr(before, name).tobytes(), name


def test_another_seed_has_other_points_and_rays(repeats):
    one, other = repeats[:2]
    np.testing.assert_array_equal(one.outdoor_share, other.outdoor_share)  # the scene's alone
    for name in ("path_gain_db", "path_gain_se_db", "mean_delay_ns", "ray_hits"):
        first, second = (getattr(site.sectors[0], name) for site in (one, other))
        assert ((first != second) & np.isfinite(first)).mean() > 0.15, name


def test_what_is_unknown_is_flagged_and_never_filled(repeats):
    """Indoors, and where no path arrives, every layer of a sector is not a number."""
    for site in repeats[:2]:
        assert np.isnan(site.line_of_sight[site.outdoor_share == 0]).all()
        assert not np.isnan(site.line_of_sight[site.outdoor_share > 0.5]).any()
        found = site.sectors[0]
        unknown = np.isnan(found.path_gain_db)
        assert unknown[site.outdoor_share == 0].all()
        assert not unknown[np.nan_to_num(site.line_of_sight) > 0].any()
        for name, values in vars(found).items():
            if name == "ray_hits":
                assert ((values == 0) == unknown).all()
            elif name != "path_gain_se_db":
                assert (np.isnan(values) == unknown).all(), name
        assert np.isnan(found.path_gain_se_db)[unknown].all()


def test_no_path_is_earlier_than_the_straight_line(repeats):
    """To a grid cell's centre: light has one speed."""
    straight = delay_ns(np.linalg.norm(places(GRID)[:, :, 0] - MAST, axis=-1))
    for site in repeats:
        for found in site.sectors:
            known = np.isfinite(found.path_gain_db)
            late = found.first_arrival_ns - straight
            assert late[known].min() > -0.01
            dark = known & (site.line_of_sight == 0)
            assert np.median(late[dark]) > 2
            assert (found.mean_delay_ns >= found.first_arrival_ns)[known].all()
            assert (found.delay_spread_ns >= 0)[known].all()
        # of an isotropic antenna nothing is 20 dB above the direct path
        seen = np.nan_to_num(site.line_of_sight) > 0
        isotropic = site.sectors[0].first_arrival_ns - straight
        assert np.abs(isotropic[seen]).max() < 0.01


def test_directions_of_a_town(repeats):
    """In sight they are those of the straight line, within the spread that reflections make."""
    way = places(GRID)[:, :, 0] - MAST
    far = np.hypot(way[..., 0], way[..., 1]) > 20
    for site in repeats[:2]:
        found = site.sectors[0]
        seen = (site.line_of_sight == 1) & far
        for azimuth, ahead in (
            (found.departure_azimuth_deg, way),
            (found.arrival_azimuth_deg, -way),
        ):
            turn = turn_deg(azimuth, azimuth_deg(ahead))[seen]
            assert np.median(turn) < 8
        known = np.isfinite(found.path_gain_db)
        for spread in (found.departure_spread_deg, found.arrival_spread_deg):
            assert ((spread >= 0) & (spread <= 180))[known].all()
        assert ((found.arrival_azimuth_deg >= 0) & (found.arrival_azimuth_deg < 360))[known].all()
        # the antenna stands above the terminals: most power leaves downwards, comes from above
        assert np.nanmedian(found.departure_zenith_deg) > 90
        assert np.nanmedian(found.arrival_zenith_deg) < 90


def test_a_scene_with_another_origin_has_the_same_map(tmp_path, repeats):
    """As that of a neighbouring tile has, which holds the same walls: the same paths."""
    shift = np.array((512.0, -1024.0, 3.0))
    moved = town(tmp_path, shift)
    grid = Plane(
        (GRID.corner_m[0] + shift[0], GRID.corner_m[1] + shift[1]), 40, 40, 4.0, 1.5 + shift[2]
    )
    there = trace(moved, MAST + shift, grid, ISO, SECTOR, seed=SEEDS[0], **TOWN)
    same = repeats[0]
    assert np.abs(there.outdoor_share - same.outdoor_share).mean() < 0.002
    for first, second in zip(same.sectors, there.sectors, strict=True):
        difference = np.abs(first.path_gain_db - second.path_gain_db)
        assert np.nanmedian(difference) < 2e-3
        assert np.nanquantile(difference, 0.75) < 0.2
    other = trace(moved, MAST + shift, grid, ISO, seed=77, **TOWN)
    pull = pulls(same.sectors[0], other.sectors[0])
    assert 0.85 < covered(pull, 0.90) < 0.96


def test_a_turned_town_has_the_turned_map(tmp_path, repeats):
    """Rays, edges and points favour no direction."""
    turned = town(tmp_path, turned=True)
    mast = MAST[[1, 0, 2]] * (-1, 1, 1)
    there = trace(turned, mast, GRID, ISO, seed=31, **TOWN).sectors[0]
    back = type(there)(**{name: np.rot90(values, 1) for name, values in vars(there).items()})
    pull = pulls(repeats[0].sectors[0], back)
    assert 0.85 < covered(pull, 0.90) < 0.96
    late = repeats[0].sectors[0].first_arrival_ns - back.first_arrival_ns
    assert np.nanquantile(np.abs(late), 0.8) < 1
    turn = turn_deg(repeats[0].sectors[0].arrival_azimuth_deg, back.arrival_azimuth_deg + 90)
    assert np.nanmedian(turn) < 3


def test_two_windows_side_by_side_are_one(scene, repeats):
    """A window cut in two, as tiles cut the city: each half agrees with the whole."""
    for half, columns in enumerate((np.s_[:, :20], np.s_[:, 20:])):
        grid = Plane((GRID.corner_m[0] + 80.0 * half, GRID.corner_m[1]), 20, 40, 4.0, 1.5)
        part = trace(scene, MAST, grid, ISO, seed=50 + half, **TOWN)
        whole = repeats[0]
        np.testing.assert_array_equal(part.outdoor_share, whole.outdoor_share[columns])
        cut = {name: values[columns] for name, values in vars(whole.sectors[0]).items()}
        pull = pulls(type(whole.sectors[0])(**cut), part.sectors[0])
        assert 0.84 < covered(pull, 0.90) < 0.96
