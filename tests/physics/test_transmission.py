"""Through thin walls, and off rough ones: only where it is asked for."""

import numpy as np
import pytest
from small_scenes import (
    BOTH,
    ISO,
    PANE,
    ROUGH,
    ROUGHNESS,
    WAVELENGTH_M,
    box,
    delay_ns,
    friis,
    permittivity,
    places,
    reflectivity,
    sheet,
    slab,
    small_scene,
    square,
    trace,
)

from ueloc_core.radio.ray_tracing.site import launch_over

pytestmark = pytest.mark.slow

MAST, GRID = (0.0, 0.0, 10.0), square((60.0, 0.0), 10, 4.0, 1.5)


def pane(x_m, material):
    """A sheet across the way, that rays meet once."""
    return (
        sheet([(x_m, 90, -90), (x_m, -90, -90), (x_m, -90, 90), (x_m, 90, 90)]),
        material,
    )


@pytest.mark.parametrize("count", [1, 2])
def test_a_pane_lets_power_through_as_fresnel_says(tmp_path, count):
    """Each pane once; its thickness is that of its material, not of its mesh."""
    panes = {f"pane{k}": pane(20.0 + 5 * k, "pane") for k in range(count)}
    scene = small_scene(tmp_path, **panes)
    site = trace(
        scene, MAST, GRID, BOTH, rays=300_000, refraction=True, reflection=False, max_depth=count
    )
    fine = places(GRID, 4)
    way = fine - MAST
    length = np.linalg.norm(way, axis=-1)
    _, (te, tm) = slab(way[..., 0] / length, permittivity(*PANE[:2]), PANE[2])
    share = (np.abs(te) ** (2 * count) + np.abs(tm) ** (2 * count)) / 2
    error = site.sectors[0].path_gain_db - 10 * np.log10((friis(length) * share).mean(axis=-1))
    assert (site.line_of_sight == 0).all()
    assert -6 < 10 * np.log10(share.mean()) < -0.3
    assert abs(error.mean()) < 0.1
    assert np.abs(error).max() < 1


def test_nothing_passes_without_refraction(tmp_path):
    scene = small_scene(tmp_path, pane=pane(20.0, "pane"))
    for options in ({}, {"refraction": True, "max_depth": 0}):
        found = trace(scene, MAST, GRID, **options).sectors[0]
        assert np.isnan(found.path_gain_db).all()


def test_concrete_lets_less_through_than_a_pane(tmp_path):
    gains = {
        material: trace(
            small_scene(tmp_path / material, wall=pane(20.0, material)),
            MAST, GRID, rays=100_000, refraction=True,
        ).sectors[0].path_gain_db
        for material in ("pane", "concrete", "metal")
    }  # fmt: skip
    means = {name: np.nan_to_num(10 ** (gain / 10)).mean() for name, gain in gains.items()}
    assert 0 < means["concrete"] < 0.1 * means["pane"]
    assert means["metal"] == 0


@pytest.fixture(scope="module")
def facades(tmp_path_factory):
    """A wall north of the mast, smooth and rough, and a screen that reflects nothing.

    The grid lies where the wall is seen but no mirror image of the mast in it is.
    """
    wall, screen = box((-40, 15), (40, 42), (-60, 60)), box((30, 31), (-60, 15), (-60, 60))
    return {
        material: small_scene(
            tmp_path_factory.mktemp(material), wall=(wall, material), screen=(screen, "black")
        )
        for material in ("concrete", "rough")
    }


def test_a_rough_wall_scatters_as_lambert_says(facades):
    """Where no mirror image of the mast is: an integral over the part of the wall that rays light.

    They leave the mast so that they would meet the ground within twice the grid's reach, so what
    stands above their flattest slope does not scatter.
    """
    mast, grid = (0.0, 0.0, 40.0), square((60.0, 0.0), 3, 12.0, -30.0)
    smooth, rough, off = (
        trace(facades[material], mast, grid, ISO, rays=1_500_000, scattering=scattering).sectors[0]
        for material, scattering in (("concrete", True), ("rough", True), ("rough", False))
    )
    assert np.isnan(smooth.path_gain_db).all()
    assert np.isnan(off.path_gain_db).all()
    launch = launch_over(mast, grid)
    x, z = np.meshgrid(np.arange(-40, 15) + 0.5, np.arange(-60, 40) + 0.5)
    wall = np.stack([x, np.full_like(x, 40), z], axis=-1).reshape(-1, 3)
    to_wall = wall - mast
    slope = to_wall[:, 2] / np.hypot(to_wall[:, 0], to_wall[:, 1])
    onward = places(grid, 3)[..., None, :] - wall
    before, behind = (np.linalg.norm(way, axis=-1) for way in (to_wall, onward))
    share = ROUGHNESS**2 * reflectivity((0.0, 80.0, 40.0), wall, (0, 1, 0), *ROUGH)
    lambert = (to_wall[:, 1] / before) * (-onward[..., 1] / behind) / np.pi
    power = (WAVELENGTH_M / (4 * np.pi)) ** 2 * share * lambert / (before * behind) ** 2
    # the screen hides a part of the wall from the grid: y falls below its end at x = 30
    at_screen = wall[:, 1] + onward[..., 1] * (30.5 - wall[:, 0]) / onward[..., 0]
    lit = (at_screen > 15) & (slope < -launch.drop_m / launch.reach_m)
    power = np.where(lit, power, 0).sum(axis=-1).mean(axis=-1)
    found = 10 ** (rough.path_gain_db.astype(float) / 10)
    assert 10 * np.log10(found.sum() / power.sum()) == pytest.approx(0, abs=0.8)
    pull = (rough.path_gain_db - 10 * np.log10(power)) / rough.path_gain_se_db
    assert np.abs(pull).max() < 6
    straight = np.linalg.norm(places(grid)[:, :, 0] - mast, axis=-1)
    assert (rough.mean_delay_ns > delay_ns(straight) + 20).all()
    assert (rough.delay_spread_ns > 1).all()


@pytest.mark.parametrize("scattering", [False, True])
def test_a_rough_wall_creates_no_power(facades, scattering):
    """Reflected and scattered together stay below the free-space gain of the image."""
    grid = square((-20.0, 0.0), 8, 4.0, 1.5)
    smooth = trace(facades["concrete"], MAST, grid, rays=200_000).sectors[0]
    rough = trace(facades["rough"], MAST, grid, rays=200_000, scattering=scattering).sectors[0]
    direct = friis(np.linalg.norm(places(grid, 4) - MAST, axis=-1)).mean(axis=-1)
    image = friis(np.linalg.norm(places(grid, 4) - (0.0, 80.0, 10.0), axis=-1)).mean(axis=-1)
    added = 10 ** (rough.path_gain_db.astype(float) / 10) - direct
    mirrored = 10 ** (smooth.path_gain_db.astype(float) / 10) - direct
    assert (added < image).mean() > 0.95
    # what is scattered is taken from the mirror image
    if not scattering:
        assert added.sum() < 0.8 * mirrored.sum()
