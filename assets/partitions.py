"""Partitions of the asset graph: cities and their tiles, as the city files name them.

They are static and computed when the definitions load, so the graph is known without opening
an extract. A tile's key is ``<city>/<tile>``, such as ``helsinki/e753n13031``.
"""

import dagster as dg

from ueloc_core.city import City, cities_dir, load_cities, load_city
from ueloc_core.errors import CityError
from ueloc_core.grid import Tile


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
