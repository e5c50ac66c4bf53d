"""Files of real cells: what is read, what is assumed, and what is refused by line and column."""

import contextlib
import gzip
import io
import json
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ueloc_core.city import City, load_city
from ueloc_core.city_sections import SitePlanConfig
from ueloc_core.errors import CityError, RadioError
from ueloc_core.geodata.terrain import flat_terrain
from ueloc_core.radio.antenna_places import stable_number
from ueloc_core.radio.antennas import antenna_named, tilt_weights
from ueloc_core.radio.schemas import SectorSchema
from ueloc_core.radio.site_files import LIMITS, read_cells
from ueloc_core.radio.site_tables import OPENCELLID
from ueloc_core.radio.sites import build_sites, plan_sectors, site_plan_params, site_source_digest

BBOX = (24.940, 60.170, 24.9455, 60.1727)
HEADER = "site_id,sector_id,lon_deg,lat_deg,height_m,azimuth_deg,downtilt_deg,power_dbm,pci\n"
GOOD = (
    "A,A1,24.9420,60.1710,30,10,4,43,11\n"
    "A,A2,24.9420,60.1710,30,130,4,43,12\n"
    "B,B1,24.9440,60.1720,25.5,355.5,-2,40,13\n"
)


def city_with(path, **plan):
    return City.model_validate(
        {
            "name": "made_up",
            "source": {"kind": "file", "path": "none.osm"},
            "bbox": BBOX,
            "tiles": {"size_m": 128},
            "window": {"size_m": 256, "shift_m": 40},
            "site_plan": {"kind": "file", "path": str(path), **plan},
        }
    )


@pytest.fixture
def read(tmp_path):
    def of(text, name="cells.csv", **plan):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_cells(city_with(path, **plan))

    return of


def changed(column, value, row=0):
    """The good file with one value changed."""
    table = pd.read_csv(io.StringIO(HEADER + GOOD), dtype=object)
    table.loc[row, column] = value
    return table.to_csv(index=False)


def no_features(city):
    columns = ("kind", "osm_id", "ground_m", "min_height_m", "height_m", "height_source")
    columns = (*columns, "land_class", "road_class", "width_m")
    return gpd.GeoDataFrame({name: [] for name in columns}, geometry=[], crs=city.crs_code)


def building(city, x_m, y_m, height_m, size_m=20.0):
    row = {
        "kind": "building",
        "osm_id": "way/77",
        "ground_m": 0.0,
        "min_height_m": 0.0,
        "height_m": height_m,
        "height_source": "tag",
        "land_class": None,
        "road_class": None,
        "width_m": np.nan,
    }
    half = size_m / 2
    shape = shapely.box(x_m - half, y_m - half, x_m + half, y_m + half)
    return gpd.GeoDataFrame([row], geometry=[shape], crs=city.crs_code)


def planned(city, features=None):
    """Sectors of all tiles of a city."""
    ground = flat_terrain(city.ground_window, city.terrain.step_m)
    features = no_features(city) if features is None else features
    tables = [plan_sectors(city, t, features, ground.crop(t.window)) for t in city.tile_list]
    return pd.concat(tables, ignore_index=True).sort_values("sector_name", ignore_index=True)


def test_what_is_stated_is_taken_as_it_is(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text(HEADER + GOOD)
    city = city_with(path)
    sectors = planned(city)
    SectorSchema.validate(sectors)
    assert sectors.sector_name.tolist() == ["A1", "A2", "B1"]
    assert sectors.height_m.tolist() == [30.0, 30.0, 25.5]
    assert sectors.azimuth_deg.tolist() == [10.0, 130.0, 355.5]
    assert sectors.downtilt_deg.tolist() == [4.0, 4.0, -2.0]
    assert sectors.power_dbm.tolist() == [43.0, 43.0, 40.0]
    assert sectors.pci.tolist() == [11, 12, 13]
    np.testing.assert_allclose(sectors.lon_deg, [24.942, 24.942, 24.944], atol=1e-9)
    np.testing.assert_allclose(sectors.lat_deg, [60.171, 60.171, 60.172], atol=1e-9)
    assert sectors.site_id[0] == sectors.site_id[1] != sectors.site_id[2]
    assert (sectors.position_sigma_m == 0).all()
    assert set(sectors.assumed) == {"antenna electrical_tilt_deg"}
    for row in sectors.itertuples():
        assert city.tile(row.tile).owns(row.x_m, row.y_m)


def test_metres_and_degrees_give_the_same_places(read):
    degrees = read(HEADER + GOOD).antennas
    table = pd.read_csv(io.StringIO(HEADER + GOOD)).drop(columns=["lon_deg", "lat_deg"])
    metres = table.assign(x_m=degrees.x_m, y_m=degrees.y_m)
    again = read(metres.to_csv(index=False)).antennas
    np.testing.assert_allclose(again[["x_m", "y_m"]], degrees[["x_m", "y_m"]], atol=1e-6)
    assert again.sector_id.tolist() == degrees.sector_id.tolist()
    both = pd.read_csv(io.StringIO(HEADER + GOOD)).assign(x_m=metres.x_m, y_m=metres.y_m)
    assert len(read(both.to_csv(index=False)).antennas) == 3
    with pytest.raises(RadioError, match=r"line 3.*x_m.*5 m away"):
        read(both.assign(x_m=both.x_m + np.array([0, 5, 0])).to_csv(index=False))


def test_the_order_of_rows_and_columns_and_the_format_do_not_matter(read):
    table = pd.read_csv(io.StringIO(HEADER + GOOD), dtype=object)
    wanted = read(HEADER + GOOD).antennas.drop(columns="where").sort_values("sector_id")

    def same(file):
        found = file.antennas.drop(columns="where").sort_values("sector_id")
        pd.testing.assert_frame_equal(
            found.reset_index(drop=True), wanted.reset_index(drop=True), check_exact=True
        )

    same(read(table.iloc[::-1, ::-1].to_csv(index=False)))
    same(read(gzip.compress((HEADER + GOOD).encode()), "cells.csv.gz"))
    same(read("\ufeff" + HEADER.replace("lon_deg", "Longitude") + "\n" + GOOD))
    points = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [float(row.lon_deg), float(row.lat_deg)]},
            "properties": {
                k: v if k.endswith("_id") else float(v)
                for k, v in row._asdict().items()
                if k not in ("Index", "lon_deg", "lat_deg")
            },
        }
        for row in table.itertuples()
    ]
    same(read(json.dumps({"type": "FeatureCollection", "features": points}), "cells.geojson"))


def test_what_is_not_stated_is_assumed_and_said_so(read):
    plan = {"downtilt_deg": 5.0, "power_dbm": 41.0, "azimuth_deg": 20.0, "antenna": "iso"}
    text = "site_id,sector_id,lon,lat\nA,1,24.942,60.171\nA,2,24.942,60.171\nA,3,24.942,60.171\n"
    file = read(text, **plan)
    table = file.antennas
    assert table.azimuth_deg.tolist() == pytest.approx([20.0, 140.0, 260.0])
    assert set(table.downtilt_deg) == {5.0}
    assert set(table.power_dbm) == {41.0}
    assert set(table.antenna) == {"iso"}
    assert table.height_m.isna().all()
    assert table.sector_id.tolist() == [1, 2, 3]
    names = "antenna azimuth_deg downtilt_deg electrical_tilt_deg height_m pci power_dbm"
    assert set(table.assumed) == {names}
    assert all(file.counts[f"assumed_{name}"] == 3 for name in names.split())


def test_numbers_of_sectors_follow_from_their_names_alone(read):
    """More rows, in whatever order, change nobody's number; plain numbers are kept."""
    few = read(HEADER + GOOD).antennas.set_index("sector_name")
    more = read(HEADER + "C,907,24.941,60.1705,20,0,4,43,20\n" + GOOD).antennas
    more = more.set_index("sector_name")
    assert (more.sector_id[few.index] == few.sector_id).all()
    assert (more.site_id[few.index] == few.site_id).all()
    assert more.sector_id["907"] == 907
    assert few.sector_id["A1"] == stable_number("sector/A1")
    assert 2**52 <= few.sector_id.min() <= few.sector_id.max() < 2**53


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("height_m", "2550", "0.5 to 400"),  # centimetres
        ("height_m", "0", "0.5 to 400"),
        ("height_m", "-3", "0.5 to 400"),
        ("height_m", "12,5", "point in decimals"),
        ("height_m", "high", "not a number"),
        ("azimuth_deg", "3600", "0 to 360"),
        ("azimuth_deg", "-10", "0 to 360"),
        ("downtilt_deg", "100", "-30 to 90"),
        ("power_dbm", "20000", "dBm, not watts"),
        ("pci", "1008", "0 to 1007"),
        ("pci", "1.5", "whole number"),
        ("lon_deg", "2494.2", "-180 to 180"),
        ("lat_deg", "inf", "-90 to 90"),
        ("lat_deg", "", "missing or unusable"),
        ("sector_id", "", "missing"),
        ("site_id", "n/a", "missing"),
        ("sector_id", "A1", "line 2 already"),
    ],
)
def test_a_wrong_value_is_named_by_file_line_column_and_remedy(read, column, value, reason):
    with pytest.raises(RadioError) as caught:
        read(changed(column, value, row=1))
    text = str(caught.value)
    named = "position" if reason.startswith("missing or") else column
    assert "cells.csv" in caught.value.where
    assert f"line 3, column {named}" in caught.value.where
    assert reason in text
    assert "bad_rows: drop" in caught.value.remedy
    file = read(changed(column, value, row=1), bad_rows="drop")
    assert file.antennas.sector_name.tolist() == ["A1", "B1"]
    assert file.counts["bad_rows"] == 1
    assert file.bad_rows[0].line == 3
    assert file.counts["rows"] == 3


def test_a_row_that_repeats_another_under_a_new_name_is_found(read):
    again = GOOD + "A,A9,24.9420,60.1710,30,10,4,43,11\n"
    with pytest.raises(RadioError, match=r"line 5.*repeats line 2"):
        read(HEADER + again)
    carrier = GOOD + "A,A9,24.9420,60.1710,30,10,4,43,911\n"  # a second carrier has its own PCI
    assert len(read(HEADER + carrier).antennas) == 4


def test_sectors_of_one_site_that_are_far_apart_are_found(read):
    with pytest.raises(RadioError, match=r"line 3.*stands 2.. m from line 2 of the same site"):
        read(changed("lat_deg", "60.1730", row=1))


def test_antennas_of_a_site_at_other_heights_are_masts_of_their_own(read):
    file = read(changed("height_m", "35", row=1))
    assert file.antennas.site_id.nunique() == 3
    assert file.counts["split_sites"] == 1
    assert read(HEADER + GOOD).counts["split_sites"] == 0


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("site_id,sector_id,lon_deg,lat_deg,heigth_m", "'heigth_m' as 'height_m'"),
        ("site,sector_id,lon_deg,lat_deg", "missing column site_id"),
        ("site_id,sector_id,lon_deg", "lon_deg and lat_deg, or x_m and y_m"),
        ("site_id;sector_id;lon_deg;lat_deg", "separated by semicolons"),
        ("site_id,sector_id,lon,lat,lat", "appears twice"),
        ("site_id,sector_id,lon,longitude,lat", "more than one column gives lon_deg"),
    ],
)
def test_a_wrong_header_is_told_with_what_is_meant(read, header, message):
    with pytest.raises(RadioError) as caught:
        read(header + "\n")
    assert message in str(caught.value)
    assert "line 1" in caught.value.where


def test_columns_without_a_meaning_are_named(read):
    file = read((HEADER + GOOD).replace("\n", ",x\n").replace("pci,x", "pci,operator"))
    assert file.ignored_columns == ["operator"]


def test_columns_of_other_names_count_for_nothing(read):
    """Also those that are called like columns of the reader's own."""
    text = (
        "site_id,sector_id,lon_deg,lat_deg,azimuth_deg,position_sigma_m,usual_azimuth_deg,"
        "position_sigma_assumed\nA,A1,24.942,60.171,,5,north,True\n"
    )
    file = read(text)
    assert file.ignored_columns == ["usual_azimuth_deg", "position_sigma_assumed"]
    assert file.antennas.azimuth_deg[0] == SitePlanConfig().azimuth_deg
    assert "position_sigma_m" not in file.antennas.assumed[0].split()


def test_an_electrical_tilt_of_one_row_is_refused_before_tracing(tmp_path):
    path = tmp_path / "cells.csv"
    header, row = HEADER.strip() + ",electrical_tilt_deg,antenna\n", GOOD.splitlines()[0]
    path.write_text(header + row + ",6,column8\n")
    assert planned(city_with(path)).electrical_tilt_deg.tolist() == [6.0]
    path.write_text(header + row + ",6,\n")
    with pytest.raises(RadioError, match=r"line 2: antenna tr38901 of sector A1: .* one row"):
        planned(city_with(path))


def test_units_that_are_wrong_in_the_whole_file_are_recognised(read):
    table = pd.read_csv(io.StringIO(HEADER + GOOD))
    radians = table.assign(azimuth_deg=np.radians(table.azimuth_deg))
    with pytest.raises(RadioError, match="radians"):
        read(radians.to_csv(index=False))
    swapped = table.rename(columns={"lon_deg": "lat_deg", "lat_deg": "lon_deg"})
    with pytest.raises(RadioError, match="swapped"):
        read(swapped.to_csv(index=False))
    metres = table.rename(columns={"lon_deg": "x_m", "lat_deg": "y_m"})
    with pytest.raises(RadioError, match="look like degrees"):
        read(metres.to_csv(index=False))


def test_cells_elsewhere_are_counted_and_a_file_of_another_city_is_refused(read):
    far = "C,C1,24.99,60.171,30,0,4,43,20\nD,D1,25.5,60.171,30,0,4,43,21\n"
    file = read(HEADER + GOOD + far)
    assert file.counts["outside_area"] == 2
    assert len(file.antennas) == file.counts["rows"] - 2 == 3
    with pytest.raises(RadioError, match=r"none of the 2 usable cells.*nearest is 2\.5 km"):
        read(HEADER + far)


@pytest.mark.parametrize("name", ["cells.csv", "cells.csv.gz", "cells.geojson", "cells.xlsx"])
def test_files_that_are_none_are_refused(read, name):
    for content in (b"", b"\x00\xff\xfe", b"{", b"PK\x03\x04", gzip.compress(b"x")[:-9]):
        with pytest.raises(RadioError) as caught:
            read(content, name)
        assert name in caught.value.where
    with pytest.raises(RadioError, match="no such file"):
        read_cells(city_with("/nowhere/cells.csv"))


def test_geojson_is_read_strictly(read):
    def collection(*features, **more):
        return json.dumps({"type": "FeatureCollection", "features": list(features), **more})

    properties = {"site_id": "A", "sector_id": "A1"}
    point = {"geometry": {"type": "Point", "coordinates": [24.942, 60.171, 7]}}
    good = {"type": "Feature", **point, "properties": properties}
    assert len(read(collection(good), "c.geojson").antennas) == 1
    line = {"geometry": {"type": "LineString", "coordinates": [[24.9, 60.1], [24.9, 60.2]]}}
    with pytest.raises(RadioError, match=r"line 2.*LineString"):
        read(collection(good, {**line, "properties": {}}), "c.geojson")
    with pytest.raises(RadioError, match="WGS 84"):
        read(collection(good, crs={"properties": {"name": "EPSG:32635"}}), "c.geojson")
    with pytest.raises(RadioError, match="FeatureCollection"):
        read("[]", "c.geojson")


def opencellid(*rows, header=True):
    lines = [",".join(OPENCELLID)] if header else []
    return "\n".join([*lines, *(",".join(map(str, row)) for row in rows)]) + "\n"


def cell(radio="NR", number=4097, unit="", lon=24.942, lat=60.171, range_m=600, changeable=1):
    return (radio, 244, 91, 7, number, unit, lon, lat, range_m, 12, changeable, 1, 2, -90)


@pytest.mark.parametrize("header", [True, False])
def test_an_export_of_opencellid_is_read_with_its_uncertainty(read, header):
    rows = [
        cell(number=4096, unit=17),
        cell(number=4097, unit=-1, lon=24.943, range_m=0),
        cell(number=4098, lon=24.944, changeable=0),
        cell("LTE", 77),
        cell("GSM", 78),
    ]
    file = read(opencellid(*rows, header=header))
    table = file.antennas
    assert table.sector_name.tolist() == [f"NR-244-91-7-{n}" for n in (4096, 4097, 4098)]
    assert table.position_sigma_m.tolist() == [300.0, 500.0, 10.0]
    assert table.pci[0] == 17
    assert table.height_m.isna().all()
    turns = np.diff(table.azimuth_deg) % 360
    assert turns.tolist() == pytest.approx([120.0, 120.0])
    assert all("azimuth_deg" in text and "position_sigma_m" in text for text in table.assumed)
    assert "pci" not in table.assumed[0].split()
    assert "pci" in table.assumed[1].split()
    assert file.counts["other_radio_LTE"] == file.counts["other_radio_GSM"] == 1
    both = read(opencellid(*rows, header=header), radios=["NR", "LTE"])
    assert len(both.antennas) == 4


def test_an_export_without_cells_of_the_technology_says_what_it_has(read):
    with pytest.raises(RadioError, match=r"no cell of NR.*2 LTE"):
        read(opencellid(cell("LTE", 1), cell("LTE", 2)))


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ({"number": "x"}, "cell"),
        ({"range_m": -5}, "range"),
        ({"range_m": 1e9}, "range"),
        ({"lat": 99}, "lat_deg"),
    ],
)
def test_a_wrong_row_of_an_export_is_named(read, values, column):
    with pytest.raises(RadioError) as caught:
        read(opencellid(cell(number=1), cell(**values)))
    assert "line 3" in caught.value.where
    assert f"line 3, {column} = " in str(caught.value)
    with pytest.raises(RadioError, match="line 2 already"):
        read(opencellid(cell(), cell()))


def test_a_stated_height_inside_a_building_names_the_site_and_an_unknown_one_is_on_its_roof(
    tmp_path,
):
    path = tmp_path / "cells.csv"
    path.write_text(HEADER + GOOD)
    city = city_with(path)
    place = planned(city).iloc[0]
    house = building(city, place.x_m, place.y_m, 40.0)
    with pytest.raises(RadioError) as caught:
        planned(city, house)
    text = str(caught.value)
    assert "A1" in text
    assert "A2" in text
    assert "cells.csv, line 2" in text
    assert "30 m above ground is inside way/77, 40 m high" in text
    assert "height_m" in caught.value.remedy
    lifted = planned(city_with(path, inside_building="roof"), house)
    assert lifted.height_m.tolist() == pytest.approx([43.0, 43.0, 25.5])
    assert ["height_m" in text.split() for text in lifted.assumed] == [True, True, False]
    path.write_text((HEADER + GOOD).replace(",30,", ",,"))
    unknown = planned(city, house)
    assert unknown.height_m.tolist() == pytest.approx([43.0, 43.0, 25.5])
    assert planned(city).height_m.tolist() == pytest.approx([25.0, 25.0, 25.5])
    path.write_text((HEADER + GOOD).replace(",30,", ",40,"))
    assert planned(city, house).height_m.tolist() == [40.0, 40.0, 25.5]  # on the roof itself


def test_every_cell_of_the_area_is_owned_by_one_tile_however_it_is_cut(tmp_path):
    rng = np.random.default_rng(3)
    west, south, east, north = BBOX
    lon, lat = rng.uniform(west, east, 60), rng.uniform(south, north, 60)
    rows = [
        f"S{i},S{i}-1,{x},{y},20,{i},4,43,{i}"
        for i, (x, y) in enumerate(zip(lon, lat, strict=True))
    ]
    path = tmp_path / "cells.csv"
    path.write_text(HEADER + "\n".join(rows) + "\n")
    city = city_with(path)
    whole = type(city).model_validate({**city.model_dump(), "tiles": {"size_m": 1024}})
    tables = [planned(c).drop(columns="tile") for c in (city, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert len(tables[0]) == 60


def test_what_was_read_is_stored_and_counted(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text(HEADER + GOOD + "C,C1,25.5,60.171,30,0,4,43,20\nD,,,,,,,,\n")
    city = city_with(path, bad_rows="drop")
    ground = flat_terrain(city.ground_window, city.terrain.step_m)
    tile = city.tile(planned(city).tile[0])
    out = tmp_path / "out"
    out.mkdir()
    metadata = build_sites(city, tile, no_features(city), ground.crop(tile.window), out)
    assert metadata["source"] == "file"
    assert metadata["sectors"] == 2
    assert metadata["file_counts"]["rows"] == 5
    assert metadata["file_counts"]["outside_area"] == metadata["file_counts"]["bad_rows"] == 1
    assert any(text.startswith("line 6, sector_id") for text in metadata["dropped_rows"])
    assert metadata["assumed_values"] == {"antenna": 2, "electrical_tilt_deg": 2}
    assert (out / "preview.png").read_bytes().startswith(b"\x89PNG")


def test_the_fingerprint_follows_the_content_and_not_the_place_of_the_file(tmp_path):
    path, copy = tmp_path / "cells.csv", tmp_path / "moved.csv"
    path.write_text(HEADER + GOOD)
    shutil.copy(path, copy)
    here, there = city_with(path), city_with(copy)
    assert site_plan_params(here) == site_plan_params(there)
    before = site_source_digest(here)
    assert before == site_source_digest(there)
    path.write_text(HEADER + GOOD.replace("355.5", "355"))
    assert site_source_digest(here) != before
    path.unlink()
    with pytest.raises(RadioError, match="no such file"):
        site_source_digest(here)


def test_a_relative_path_starts_at_the_city_file(tmp_path):
    with pytest.raises(ValueError, match=r"site_plan\.path is needed"):
        SitePlanConfig(kind="file")
    body = (
        "name: x\nsource: {kind: file, path: x.osm}\n"
        f"bbox: {list(BBOX)}\nsite_plan: {{kind: file, path: cells.csv}}\n"
    )
    (tmp_path / "x.yaml").write_text(body)
    assert load_city(tmp_path / "x.yaml").site_plan.path == tmp_path / "cells.csv"
    (tmp_path / "x.yaml").write_text(body.replace(", path: cells.csv", ""))
    with pytest.raises(CityError, match=r"site_plan\.path is needed"):
        load_city(tmp_path / "x.yaml")


def test_the_example_is_in_helsinki_and_states_what_it_says():
    city = load_city("helsinki")
    path = Path(__file__).parents[2] / "examples" / "helsinki_cells.csv"
    plan = SitePlanConfig(kind="file", path=path)
    file = read_cells(city.model_copy(update={"site_plan": plan}))
    assert len(file.antennas) == file.counts["rows"] == 18
    assert file.counts["assumed_height_m"] == file.counts["assumed_power_dbm"] == 3
    assert file.ignored_columns == []
    for row in file.antennas.itertuples():
        tilt_weights(antenna_named(row.antenna), row.electrical_tilt_deg)  # it can be traced


FIELDS = st.one_of(
    st.sampled_from(
        ["", "nan", "A", "A1", "1", "24.942", "60.171", "30", "NR", "LTE", "244", "-1"]
    ),
    st.floats().map(str),
    st.integers(-(10**20), 10**20).map(str),
    st.text(max_size=6),
)
HEADERS = st.one_of(
    st.just(HEADER.strip().split(",")),
    st.just(list(OPENCELLID)),
    st.lists(
        st.sampled_from(["site_id", "sector_id", "antenna", *LIMITS]), unique=True, min_size=4
    ),
)
FUZZ = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(data=st.data(), drop=st.booleans())
def test_whatever_a_table_holds_it_is_read_or_refused(read, data, drop):
    """Good sectors come out whole, or an error of ours tells what is wrong; nothing else."""
    header = data.draw(HEADERS)
    rows = data.draw(
        st.lists(st.lists(FIELDS, min_size=len(header), max_size=len(header)), max_size=5)
    )
    text = pd.DataFrame(rows, columns=header, dtype=object).to_csv(index=False)
    if data.draw(st.booleans()) and header == HEADER.strip().split(","):
        text += GOOD
    with contextlib.suppress(RadioError):
        check_counted(read(text, bad_rows="drop" if drop else "error", radios=["NR", "LTE"]))


def check_counted(file):
    """Every row of a file is a sector or counted, and sectors are whole."""
    table = file.antennas
    assert (
        len(table)
        + file.counts["outside_area"]
        + file.counts["bad_rows"]
        + sum(count for name, count in file.counts.items() if name.startswith("other_radio"))
        == file.counts["rows"]
    )
    assert table.sector_id.is_unique
    assert np.isfinite(table[["x_m", "y_m", "azimuth_deg", "power_dbm"]].to_numpy()).all()
    assert table.azimuth_deg.between(0, 360, inclusive="left").all()


@FUZZ
@given(
    content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)),
    name=st.sampled_from(["cells.csv", "cells.csv.gz", "cells.json", "cells.geojson"]),
)
def test_whatever_bytes_a_file_holds_it_is_refused(read, content, name):
    with pytest.raises(RadioError):
        read(content, name)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=4) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
FEATURE = st.fixed_dictionaries(
    {
        "geometry": st.one_of(
            JSON,
            st.fixed_dictionaries(
                {"type": st.just("Point"), "coordinates": st.lists(st.floats() | JSON, max_size=3)}
            ),
        ),
        "properties": st.one_of(
            JSON, st.dictionaries(st.sampled_from(["site_id", "sector_id", "height_m"]), JSON)
        ),
    }
)


@FUZZ
@given(features=st.lists(JSON | FEATURE, max_size=4))
def test_whatever_json_a_file_holds_it_is_read_or_refused(read, features):
    good = {
        "geometry": {"type": "Point", "coordinates": [24.942, 60.171]},
        "properties": {"site_id": "good", "sector_id": "the good one"},
    }
    text = json.dumps({"type": "FeatureCollection", "features": [*features, good]})
    file = read(text, "cells.geojson", bad_rows="drop")
    assert "the good one" in file.antennas.sector_name.tolist()
