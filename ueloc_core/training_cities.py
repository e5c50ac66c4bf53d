"""The cities whose reports a city's model is trained on: ``training.cities`` of its file.

Only their reports and maps are read, never their models, so cities may name each other. A city
that is not among its own training cities is *unseen*: nothing of it is fitted, and all of its
tiles are test tiles.
"""

from ueloc_core.city import City, cities_dir, load_city
from ueloc_core.errors import CityError


def training_cities(city: City) -> tuple[City, ...]:
    """The cities whose reports train a city's model, by their files; itself by default.

    Raises
    ------
    CityError
        If one has no file or a wrong one, if its windows are not those of the city, or if the
        city is unseen and they share ground.
    """
    names = city.training.cities or (city.name,)
    found = tuple(city if name == city.name else _named(city, name) for name in names)
    for other in found:
        _check_windows(city, other)
        if city.unseen and _share_ground(city, other):
            raise CityError(
                f"'{other.name}' covers the same ground, but the city's own reports shall not "
                "train its model",
                where=_key(city),
                remedy=f"Name cities elsewhere, or '{city.name}' itself to train on its tiles.",
            )
    return found


def _named(city: City, name: str) -> City:
    if not (cities_dir() / f"{name}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in cities_dir().glob("*.yaml")))
        raise CityError(
            f"'{name}' has no city file", where=_key(city), remedy=f"Cities there: {known}."
        )
    return load_city(name)


def _check_windows(city: City, other: City) -> None:
    for section, key in (("grid", "cell_m"), ("window", "size_m")):
        own, their = (getattr(getattr(c, section), key) for c in (city, other))
        if own != their:
            raise CityError(
                f"{section}.{key} = {own:g}, but '{other.name}' has {their:g}",
                where=_key(city),
                remedy="A model has windows of one kind: give both cities the same.",
            )


def _share_ground(city: City, other: City) -> bool:
    west, south, east, north = city.bbox
    their_west, their_south, their_east, their_north = other.bbox
    return west < their_east and their_west < east and south < their_north and their_south < north


def _key(city: City) -> str:
    return f"{cities_dir() / city.name}.yaml: training.cities"
