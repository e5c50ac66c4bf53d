"""What cannot be traced is refused, with its place and a remedy; what is empty gives empty maps."""

import numpy as np
import pytest
from small_scenes import ISO, box, friis, ground, places, small_scene, square, trace

from ueloc_core.errors import RadioError
from ueloc_core.radio.antennas import antenna_named
from ueloc_core.radio.ray_tracing import (
    Interactions,
    Plane,
    RayScene,
    RaySet,
    Sector,
    Surface,
)

GRID = square((0.0, 0.0), 4, 4.0, 1.5)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"batches": 1}, "batches = 1.*two independent batches"),
        ({"batches": 0}, "batches = 0"),
        ({"points": 5}, "points = 5.*square number"),
        ({"points": 0}, "points = 0"),
        ({"rays": 3}, "rays = 3, fewer than the 4 batches"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_ray_sets_that_are_none(values, told):
    with pytest.raises(RadioError, match=f"ray set: {told}"):
        RaySet(**{"rays": 1000, "seed": 1} | values)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Plane((0.0, 0.0), 0, 4, 4.0, 1.5), "4 rows of 0 grid cells"),
        (lambda: Plane((0.0, 0.0), 4, 4, 0.0, 1.5), r"cell_m = 0\.0"),
        (lambda: Plane((0.0, 0.0), 4, 4, float("inf"), 1.5), "cell_m = inf"),
        (lambda: Plane((0.0, float("nan")), 4, 4, 4.0, 1.5), "corner_m = .*nan"),
        (lambda: Plane((0.0, 0.0), 4, 4, 4.0, float("nan")), "height_m = nan"),
        (lambda: Surface((0.0, 0.0), 4.0, np.zeros((1, 5))), "0 rows of 4 grid cells"),
        (lambda: Surface((0.0, 0.0), 4.0, np.zeros(5)), r"heights of shape \(5,\)"),
        (lambda: Surface((0.0, 0.0), 4.0, np.full((3, 3), np.nan)), "9 of 9 heights"),
    ],
)
def test_grids_that_are_none(make, told):
    with pytest.raises(RadioError, match=f"grid: {told}"):
        make()


def test_depths_and_angles_that_are_none():
    with pytest.raises(RadioError, match="max_depth = -1"):
        Interactions(max_depth=-1)
    with pytest.raises(RadioError, match="sector with antenna iso: .*nan.*finite"):
        Sector(antenna_named("iso"), float("nan"), 0.0)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    house = box((10, 20), (-5, 5), (0, 15))
    return small_scene(
        tmp_path_factory.mktemp("house"),
        ground=(ground(100), "concrete"),
        house=(house, "concrete"),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mast_m", "told"),
    [
        ((15.0, 0.0, 10.0), r"antenna at \(15, 0, 10\) m.*in a building or underground.*Move"),
        ((0.0, 0.0, -1.0), r"antenna at \(0, 0, -1\) m.*in a building or underground"),
        ((float("nan"), 0.0, 10.0), "not finite"),
        ((0.0, 0.0, float("inf")), "not finite"),
    ],
)
def test_masts_that_cannot_stand_there(scene, mast_m, told):
    with pytest.raises(RadioError, match=told) as caught:
        trace(scene, mast_m, GRID)
    assert str(scene.file) in str(caught.value)
    assert caught.value.remedy


@pytest.mark.slow
@pytest.mark.parametrize("mast_m", [(15.0, 0.0, 15.5), (9.5, 0.0, 10.0), (0.0, 0.0, 0.5)])
def test_masts_that_stand_near_by(scene, mast_m):
    """Above a roof, before a facade, above the ground; numpy's floats are as good as Python's."""
    found = trace(scene, tuple(np.array(mast_m)), GRID, diffraction=True).sectors[0]
    assert np.isfinite(found.path_gain_db).all()


@pytest.mark.slow
def test_an_open_field_needs_no_buildings(tmp_path):
    """A ground alone has no edge; nothing below the mast has no path but the direct one."""
    scene = small_scene(tmp_path / "field", ground=(ground(100), "concrete"))
    found = trace(scene, (0.0, 0.0, 20.0), GRID, diffraction=True, max_depth=3)
    assert (found.line_of_sight == 1).all()
    assert np.isfinite(found.sectors[0].path_gain_db).all()


@pytest.mark.slow
def test_a_scene_without_bodies_is_free_space(tmp_path):
    scene = small_scene(tmp_path)
    site = trace(scene, (0.0, 0.0, 20.0), GRID, diffraction=True, max_depth=3)
    assert (site.line_of_sight == 1).all()
    power = friis(np.linalg.norm(places(GRID, 4) - (0.0, 0.0, 20.0), axis=-1)).mean(axis=-1)
    np.testing.assert_allclose(site.sectors[0].path_gain_db, 10 * np.log10(power), atol=0.1)


@pytest.mark.slow
def test_a_mast_without_any_path_has_empty_maps(tmp_path):
    """Behind a wall of no reflection: not a number everywhere, and no error."""
    scene = small_scene(tmp_path, wall=(box((5, 6), (-300, 300), (-300, 300)), "black"))
    site = trace(scene, (50.0, 0.0, 20.0), square((-20.0, 0.0), 4, 4.0, 1.5), ISO, max_depth=2)
    assert (site.line_of_sight == 0).all()
    assert (site.outdoor_share == 1).all()
    for name, values in vars(site.sectors[0]).items():
        assert (values == 0 if name == "ray_hits" else np.isnan(values)).all()


@pytest.mark.slow
@pytest.mark.parametrize("shapes", ["<shape/>", "<nonsense>"])
def test_files_that_are_no_scene(tmp_path, shapes):
    file = tmp_path / "scene.xml"
    file.write_text(f'<scene version="2.1.0">{shapes}</scene>')
    with pytest.raises(RadioError, match=r"scene\.xml.*Materialize the tile's scene again"):
        RayScene(file, 3.5e9)
    with pytest.raises(RadioError, match="no such scene"):
        RayScene(tmp_path / "no such scene.xml", 3.5e9)
