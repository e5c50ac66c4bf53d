"""Cities that train a city's model: which they are, and what is refused."""

import pytest
import yaml

from ueloc_core.city import load_cities, load_city
from ueloc_core.errors import CityError
from ueloc_core.training_cities import training_cities

PLACES = {"north": [24.935, 60.164, 24.953, 60.179], "south": [24.935, 60.104, 24.953, 60.119]}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("UELOC_CITIES", str(tmp_path))

    def write_file(name, **keys):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, **keys}))
        return load_city(name)

    for name, bbox in PLACES.items():
        write_file(name, bbox=bbox, source={"kind": "bundled"})
    return write_file


def test_a_city_trains_its_own_model_by_default(write):
    city = load_city("north")
    assert training_cities(city) == (city,)
    assert not city.unseen


def test_a_city_that_is_not_among_them_is_unseen(write):
    city = write("north_unseen", extends="north", training={"cities": ["south"]})
    assert [other.name for other in training_cities(city)] == ["south"]
    assert city.unseen


def test_a_city_may_be_among_them_in_any_place(write):
    city = write("north_both", extends="north", training={"cities": ["south", "north_both"]})
    assert training_cities(city) == (load_city("south"), city)
    assert not city.unseen


def test_cities_may_train_each_other(write):
    """Reports are read, not models: there is no circle."""
    first = write("first", extends="north", training={"cities": ["south"]})
    second = write("second", extends="south", training={"cities": ["first"]})
    assert [c.name for c in training_cities(second)] == ["first"]
    assert training_cities(first)[0].name == "south"


def test_a_world_of_its_own_may_train_with_the_base(write):
    """It names itself, so its own tiles are split and the base's are checked against them."""
    city = write(
        "north_osm",
        extends="north",
        world={"level": "osm"},
        training={"cities": ["north_osm", "north"]},
    )
    assert len(training_cities(city)) == 2


def test_an_unknown_city_is_named(write):
    city = write("north_unseen", extends="north", training={"cities": ["south", "west"]})
    with pytest.raises(CityError, match="'west' has no city file") as caught:
        training_cities(city)
    assert caught.value.where.endswith("north_unseen.yaml: training.cities")
    assert "Cities there: north, north_unseen, south." in caught.value.remedy


def test_a_broken_one_is_blamed_itself(write, tmp_path):
    city = write("north_unseen", extends="north", training={"cities": ["south"]})
    (tmp_path / "south.yaml").write_text("name: south\n")
    with pytest.raises(CityError, match="source is missing") as caught:
        training_cities(city)
    assert caught.value.where == str(tmp_path / "south.yaml")


def test_the_same_ground_under_another_name_is_not_unseen(write):
    city = write("north_unseen", extends="north", training={"cities": ["south", "north"]})
    with pytest.raises(CityError, match="'north' covers the same ground") as caught:
        training_cities(city)
    assert "or 'north_unseen' itself" in caught.value.remedy


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("window", {"size_m": 512}, "window.size_m = 512, but 'south' has 1024"),
        ("grid", {"cell_m": 8}, "grid.cell_m = 8, but 'south' has 4"),
    ],
)
def test_windows_are_of_one_kind(write, section, values, told):
    city = write(
        "north_unseen", extends="north", training={"cities": ["south"]}, **{section: values}
    )
    with pytest.raises(CityError, match=told):
        training_cities(city)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"training": {"cities": ["south", "south"]}}, "training.cities names south twice"),
        ({"training": {"cities": ["South West"]}}, r"training.cities.0 = 'South West'"),
        ({"training": {"cities": "south"}}, r"training.cities = 'south'"),
        (
            {"training": {"cities": ["south"]}, "evaluation": {"locunet": True}},
            "evaluation.locunet = true: LocUNet learns from the city's own reports",
        ),
    ],
)
def test_what_cannot_be_is_said_when_the_file_is_read(write, keys, told):
    with pytest.raises(CityError, match=told):
        write("north_unseen", extends="north", **keys)


def test_a_city_without_them_has_the_fingerprint_that_it_had(write):
    params = load_city("north").params("training")["training"]
    assert "cities" not in params
    city = write("north_unseen", extends="north", training={"cities": ["south"]})
    assert city.params("training")["training"] == params | {"cities": ["south"]}


def test_shipped_cities_find_theirs():
    for city in load_cities().values():
        assert training_cities(city)
