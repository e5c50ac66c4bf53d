"""The stages of a city in the order of its lineage, by what they are partitioned by."""

CITY_BEFORE_TILES = ("osm_extract",)
TILE_STAGES = ("scene", "sites", "radio_map")
TILE_AFTER_SITES = ("world_scene", "world_sites", "world_radio_map")
TILE_AFTER_NEIGHBOURS = ("measurements",)
CITY_REPORTS = ("measurement_set",)
CITY_AFTER_TILES = (
    *CITY_REPORTS,
    *("path_traced_measurements", "map_error", "posterior_model", "calibration", "evaluation"),
)
CITY_MAPS = ("coverage",)
"""Stages in the order of the lineage; those of one line share a partition and so a run.

The world of a tile reads the sites of the tiles around it, and its measurements their maps.
No stage reads the city's maps, so they come last and keep nobody waiting.
"""

OF_TILES = (TILE_STAGES, TILE_AFTER_SITES, TILE_AFTER_NEIGHBOURS)
TO_TRAIN_OTHERS = (
    *CITY_BEFORE_TILES,
    *(stage for stages in OF_TILES for stage in stages),
    *CITY_REPORTS,
)
"""Stages of a city that other cities need to be trained on it."""
