"""Levels of mismatch in a city's file."""

import itertools

import pytest
import yaml

from ueloc_core.city import load_city
from ueloc_core.errors import CityError
from ueloc_core.evaluation.evaluate import split_name
from ueloc_core.evaluation.strata import TEST_SPLITS
from ueloc_core.world.settings import LEVELS, AntennaAmounts, BuildingAmounts, WorldConfig

CITY = {
    "name": "somewhere",
    "source": {"kind": "bundled"},
    "bbox": [24.935, 60.164, 24.953, 60.179],
}


def _load(folder, world):
    path = folder / "somewhere.yaml"
    path.write_text(yaml.safe_dump({**CITY, "world": world}))
    return load_city(path)


def test_by_default_nothing_differs(tmp_path):
    world = _load(tmp_path, {}).world
    assert world.level == "none"
    assert world.buildings == BuildingAmounts()
    assert world.antennas == AntennaAmounts()


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_gives_every_amount(tmp_path, level):
    world = _load(tmp_path, {"level": level}).world
    assert (world.buildings, world.antennas) == LEVELS[level]


def test_no_amount_falls_from_level_to_level():
    amounts = [[vars(part) for part in parts] for parts in LEVELS.values()]
    for calm, rough in itertools.pairwise(amounts):
        for before, after in zip(calm, rough, strict=True):
            assert all(
                after[name] >= value
                for name, value in before.items()
                if name != "height_m"  # at level osm the height's own uncertainty counts instead
            )


def test_a_given_amount_takes_the_place_of_the_levels_own(tmp_path):
    world = _load(tmp_path, {"level": "osm", "power_db": 0, "missing_share": 0.5}).world
    assert world.antennas.power_db == 0
    assert world.antennas.azimuth_deg == LEVELS["osm"][1].azimuth_deg
    assert world.buildings.missing_share == 0.5
    assert world.buildings.shift_m == LEVELS["osm"][0].shift_m


def test_every_amount_can_be_given():
    names = {*vars(BuildingAmounts()), *vars(AntennaAmounts())}
    assert names == set(WorldConfig.model_fields) - {"level"}
    given = WorldConfig(**dict.fromkeys(names, 0.25))
    assert set(vars(given.buildings).values()) | set(vars(given.antennas).values()) == {0.25}


@pytest.mark.parametrize(
    ("world", "told"),
    [
        ({"level": "worse"}, ["world.level = 'worse'", "'none', 'survey', 'osm' or 'bad'"]),
        ({"power_db": -1}, ["world.power_db = -1", "greater than or equal to 0"]),
        ({"shift_m": -0.5}, ["world.shift_m = -0.5", "greater than or equal to 0"]),
        ({"shift_m": 50}, ["world.shift_m = 50", "less than or equal to 10"]),
        ({"missing_share": 1.5}, ["world.missing_share = 1.5", "less than or equal to 1"]),
        ({"heigth_m": 1}, ["world.heigth_m", "unknown key", "height_m"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(tmp_path, world, told):
    with pytest.raises(CityError) as caught:
        _load(tmp_path, world)
    message = str(caught.value)
    assert str(tmp_path / "somewhere.yaml") in message
    for text in told:
        assert text in message


def test_amounts_that_are_no_levels_have_a_name_of_their_own(tmp_path):
    assert [_load(tmp_path, {"level": name}).world.mismatch for name in LEVELS] == [*LEVELS]
    assert _load(tmp_path, {"power_db": 0}).world.mismatch == "none"
    assert _load(tmp_path, {"power_db": 3}).world.mismatch == "custom"
    assert _load(tmp_path, {"level": "osm", "power_db": 0}).world.mismatch == "custom"


@pytest.mark.parametrize("world", [*({"level": name} for name in LEVELS), {"power_db": 3}])
def test_fixes_may_come_from_every_world(tmp_path, world):
    assert split_name(_load(tmp_path, world)) in TEST_SPLITS
