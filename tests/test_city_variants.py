"""Cities that extend another: what is taken over, how often, and what is said of mistakes."""

import pytest
import yaml

from ueloc_core.city import City, load_cities, load_city
from ueloc_core.errors import CityError

BASE = {
    "name": "base",
    "title": "Base",
    "source": {"kind": "file", "path": "base.osm.gz"},
    "bbox": [24.935, 60.164, 24.953, 60.179],
    "schedule": "0 3 * * 0",
    "radio": {"frequency_ghz": 3.6, "load": 0.3},
    "measurements": {
        "scenarios": {"full": 0.5, "nr_beams": 0.5},
        "tracks": {"tracks_per_hectare": 50.0, "reports_per_track": 2},
    },
    "splits": {"test": ["e752n13030"], "validation": ["e753n13033"]},
}


@pytest.fixture
def write(tmp_path):
    def write_file(name, **keys):
        content = {"name": name, **keys} if name != "base" else BASE | keys
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    write_file("base")
    return write_file


def test_what_a_file_does_not_say_is_as_in_the_one_that_it_extends(write, tmp_path):
    path = write("far", extends="base", world={"level": "osm"}, schedule=None)
    base, far = load_city(tmp_path / "base.yaml"), load_city(path)
    assert (far.name, far.extends, far.world.level, far.schedule) == ("far", ("base",), "osm", None)
    assert base.extends == ()
    own = {"name", "extends", "world", "schedule"}
    for key in City.model_fields.keys() - own:
        assert getattr(far, key) == getattr(base, key), key
    assert far.source.path == tmp_path / "base.osm.gz"


def test_sections_are_laid_over_key_by_key_and_values_as_a_whole(write):
    city = load_city(
        write(
            "far",
            extends="base",
            radio={"load": 0.9},
            measurements={"scenarios": {"nr_rsrp_only": 1.0}, "tracks": {"interval_s": 5.0}},
            splits={"test": ["e753n13030"]},
        )
    )
    assert (city.radio.frequency_ghz, city.radio.load) == (3.6, 0.9)
    assert city.measurements.scenarios == {"nr_rsrp_only": 1.0}  # shares of one whole
    tracks = city.measurements.tracks
    assert (tracks.tracks_per_hectare, tracks.reports_per_track, tracks.interval_s) == (50, 2, 5)
    assert city.splits.test == ("e753n13030",)
    assert city.splits.validation == ("e753n13033",)


def test_a_chain_ends_at_its_base(write):
    write("near", extends="base", seed=2, radio={"load": 0.4})
    far = load_city(write("far", extends="near", radio={"noise_figure_db": 5.0}))
    assert far.extends == ("near", "base")
    assert (far.seed, far.title) == (2, "Base")
    radio = far.radio
    assert (radio.frequency_ghz, radio.load, radio.noise_figure_db) == (3.6, 0.4, 5.0)


def test_what_a_city_extends_is_in_no_fingerprint(write, tmp_path):
    base = load_city(tmp_path / "base.yaml")
    far = load_city(write("far", extends="base", title="Far"))
    sections = [key for key in City.model_fields if key not in {"name", "title"}]
    assert far.params(*sections) == base.params(*sections)
    assert "extends" not in far.model_dump()


@pytest.mark.parametrize("loop", [("a",), ("a", "b"), ("a", "b", "c")])
def test_a_circle_is_refused_and_shown(write, loop):
    for name, extends in zip(loop, (*loop[1:], loop[0]), strict=True):
        path = write(name, extends=extends)
    last = loop[-1]
    with pytest.raises(CityError, match="goes round in a circle") as caught:
        load_city(path)
    assert " -> ".join((last, *loop[:-1], last)) in str(caught.value)
    assert "must extend none" in caught.value.remedy


@pytest.mark.parametrize(
    ("extends", "told"),
    [
        ("nowhere", "extends = 'nowhere': no such city file"),
        ("../base", "extends = '../base' is not the name of a city"),
        (["base"], "extends = ['base'] is not the name of a city"),
        (7, "extends = 7 is not the name of a city"),
    ],
)
def test_an_unknown_base_is_named_with_the_file_that_names_it(write, extends, told):
    path = write("far", extends=extends)
    with pytest.raises(CityError) as caught:
        load_city(path)
    assert str(caught.value).startswith(f"{path}: {told}")
    assert "Cities there: base, far." in caught.value.remedy


def test_a_mistake_is_blamed_on_the_file_that_makes_it(write):
    far = write("far", extends="base", radio={"loda": 0.3})
    with pytest.raises(CityError, match=r"radio\.loda = 0\.3: unknown key") as caught:
        load_city(far)
    assert caught.value.where == str(far)
    base = write("base", radio={"load": 3})
    with pytest.raises(CityError, match=r"radio\.load = 3") as caught:
        load_city(far)
    assert caught.value.where == str(base)


def test_the_name_is_no_part_of_what_is_taken_over(write, tmp_path):
    (tmp_path / "far.yaml").write_text("extends: base\n")
    with pytest.raises(CityError, match="name is missing; it is required"):
        load_city(tmp_path / "far.yaml")


def test_shipped_variants_lie_over_their_base():
    cities = load_cities()
    osm = cities["helsinki_osm"]
    assert osm.extends == ("helsinki",)
    assert osm.world.level == "osm"
    for city in cities.values():
        assert all(base in cities for base in city.extends)
        if city.extends:
            assert city.schedule is None
            assert city.tile_names == cities[city.extends[0]].tile_names
