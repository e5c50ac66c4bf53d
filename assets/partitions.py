"""Partitions of the asset graph: cities and their tiles, as the city files name them.

They are static and computed when the definitions load, so the graph is known without opening
an extract. A tile's key is ``<city>/<tile>``, such as ``helsinki/e753n13031``.
"""

from collections.abc import Collection, Mapping

import dagster as dg

from ueloc_core.city import City, cities_dir, load_cities, load_city
from ueloc_core.errors import CityError
from ueloc_core.grid import Tile
from ueloc_core.training_cities import training_cities


def tile_key(city: City, tile_name: str) -> str:
    """Partition key of a tile."""
    return f"{city.name}/{tile_name}"


def city_and_tile(partition_key: str) -> tuple[City, Tile]:
    """The city (read afresh from its file) and the tile of a partition key.

    Raises
    ------
    CityError
        If the city's file is gone or wrong, or the city has no such tile any more.
    """
    name, _, tile_name = partition_key.partition("/")
    city = load_city(name)
    return city, city.tile(tile_name)


def _cities() -> dict[str, City]:
    cities = load_cities()
    if not cities:
        raise CityError(
            "no city files",
            where=str(cities_dir()),
            remedy="Write one (see cities/helsinki.yaml), or set UELOC_CITIES to their folder.",
        )
    return cities


CITIES = _cities()
"""The cities when the definitions were loaded, by name."""

TILE_KEYS = {
    name: [tile_key(city, tile) for tile in city.tile_names] for name, city in CITIES.items()
}
"""Partition keys of each city's tiles."""

city_partitions = dg.StaticPartitionsDefinition(list(CITIES))
tile_partitions = dg.StaticPartitionsDefinition(
    [key for keys in TILE_KEYS.values() for key in keys]
)

city_to_its_tiles = dg.StaticPartitionMapping(TILE_KEYS)
"""A tile reads its city."""

tiles_to_their_city = dg.StaticPartitionMapping(
    {key: name for name, keys in TILE_KEYS.items() for key in keys}
)
"""A city reads all its tiles."""

tile_to_neighbours = dg.StaticPartitionMapping(
    {
        tile_key(city, tile): {tile_key(city, near) for near in city.neighbour_tiles(tile)}
        for city in CITIES.values()
        for tile in city.tile_names
    }
)
"""A tile reads itself and the tiles around it (to be near is mutual)."""

TWIN_OF_THE_CITY = tuple(
    dg.AssetDep(name, partition_mapping=tiles_to_their_city)
    for name in ("radio_map", "scene", "sites")
)
"""What a stage of a whole city reads of its tiles."""

TRAINED_BY = {
    name: tuple(other.name for other in training_cities(city)) for name, city in CITIES.items()
}
"""The cities whose reports train each city's model."""


def _read_by(cities: Mapping[str, Collection[str]]) -> tuple[dg.AssetDep, ...]:
    """Measurement set and tiles of the cities that each city reads."""
    readers = {name: [city for city, read in cities.items() if name in read] for name in CITIES}
    of_cities = {name: found for name, found in readers.items() if found}
    of_tiles = {key: found for name, found in of_cities.items() for key in TILE_KEYS[name]}
    return (
        dg.AssetDep("measurement_set", partition_mapping=dg.StaticPartitionMapping(of_cities)),
        *(
            dg.AssetDep(name, partition_mapping=dg.StaticPartitionMapping(of_tiles))
            for name in ("radio_map", "scene", "sites")
        ),
    )


TRAINING_DATA = _read_by(TRAINED_BY)
"""What a stage that learns reads: reports and maps of the training cities."""

EVALUATION_DATA = _read_by(
    {
        name: (name, *TRAINED_BY[name][:1]) if city.unseen else (name,)
        for name, city in CITIES.items()
    }
)
"""What an evaluation reads: its city, and where that is unseen, the first training city too."""

ABLATION_DATA = _read_by({name: {name, *read} for name, read in TRAINED_BY.items()})
"""What ablations read: the city, where they are tested, and those that train."""
