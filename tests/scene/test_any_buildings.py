"""Any tags on any polygons, through all rules at once: closed surfaces that share no space."""

import math
from collections import Counter

import geopandas as gpd
import pandas as pd
import shapely
import shapely.affinity
from hypothesis import given, settings
from hypothesis import strategies as st

from ueloc_core.geodata.building_table import build_buildings
from ueloc_core.geodata.overlaps import overlapping_pairs
from ueloc_core.geodata.tags import MAX_HEIGHT_M
from ueloc_core.scene.meshes import building_mesh
from ueloc_core.scene.roofs import Roof

CRS = "EPSG:32632"
CORNER_M = (370_000.0, 4_840_000.0)  # where single precision would be half a metre

LENGTHS = st.sampled_from(
    ["10", "3;4", "-5", "0", "nan", "40'", "6'10\"", "1e9", "~7", "", "999", "1000", "0.2", "12;"]
)
TAGS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            (
                *("height", "min_height", "building:levels", "building:min_level"),
                *("roof:height", "roof:levels", "roof:angle"),
            ),
            LENGTHS,
        ),
        "roof:shape": st.sampled_from(["gabled", "hipped", "pyramidal", "skillion", "dome", "?"]),
        "roof:direction": st.sampled_from(["N", "0", "400", "upwards"]),
        "roof:orientation": st.sampled_from(["along", "across"]),
        "roof:material": st.sampled_from(["copper", "straw", "?"]),
        "building:material": st.sampled_from(["brick", "glass", "?"]),
        "location": st.just("underground"),
    },
)
KINDS = st.sampled_from(
    [
        {"building": "yes"},
        {"building": "roof"},
        {"building": "church"},
        {"building:part": "yes"},
        {"building": "no"},
    ]
)
PLACES_M = st.integers(-8, 8).map(lambda step: 2.5 * step)
RECTANGLES = st.tuples(PLACES_M, PLACES_M, st.integers(1, 12), st.integers(1, 12)).map(
    lambda box: shapely.box(box[0], box[1], box[0] + 2.5 * box[2], box[1] + 2.5 * box[3])
)
TURNED = st.tuples(RECTANGLES, st.floats(0, 90)).map(
    lambda pair: shapely.affinity.rotate(pair[0], pair[1])
)
RINGS = st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=3, max_size=8).map(
    shapely.Polygon  # most of them cross themselves
)
FRAMES = RECTANGLES.map(lambda box: box.buffer(4, join_style="mitre").difference(box))
BUILDINGS = st.lists(
    st.tuples(KINDS, TAGS, RECTANGLES | TURNED | RINGS | FRAMES), min_size=1, max_size=8
)


class _Level:
    def lowest_within(self, _geometry):
        return 12.5


@given(BUILDINGS)
@settings(max_examples=150)
def test_any_tags_on_any_polygons_give_closed_surfaces_that_share_no_space(buildings):
    counts = Counter()
    rows = [{**kind, **tags} for kind, tags, _ in buildings]
    shapes = [shapely.affinity.translate(shape, *CORNER_M) for _, _, shape in buildings]
    names = [f"way/{number}" for number in range(len(rows))]
    raw = gpd.GeoDataFrame(
        pd.DataFrame(rows, index=names, dtype=object),
        geometry=shapes,
        crs=CRS,
    )
    table = build_buildings(raw, _Level(), counts, outline_of={}, seed=1)
    if table is None:
        return
    frame = table.frame
    assert overlapping_pairs(frame) == []
    for row in frame.itertuples():
        assert 0 <= row.min_height_m < row.height_m <= MAX_HEIGHT_M
        assert 0 <= row.roof_height_m < row.height_m - row.min_height_m
        assert row.height_sigma_m > 0
        mesh = building_mesh(
            row.geometry,
            base_m=row.ground_m + row.min_height_m,
            top_m=row.ground_m + row.height_m,
            roof=Roof(
                row.roof_shape,
                row.roof_height_m,
                None if math.isnan(row.roof_direction_deg) else row.roof_direction_deg,
            ),
            origin_m=(*CORNER_M, 0.0),
            counts=counts,
        )
        assert mesh is not None
        assert mesh.is_closed
        box_m3 = row.geometry.area * (row.height_m - row.min_height_m)
        eaves_m3 = box_m3 - row.geometry.area * row.roof_height_m
        assert 0.97 * eaves_m3 - 0.1 <= mesh.volume_m3 <= 1.001 * box_m3 + 0.1
