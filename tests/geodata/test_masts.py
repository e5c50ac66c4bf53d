"""Telecom masts of an extract: which tags make one, heights, shapes, and what is left out."""

import gzip

import pytest
import shapely

from ueloc_core.errors import GeodataError
from ueloc_core.geodata.masts import (
    MastSchema,
    is_telecom_mast,
    load_masts,
    read_masts,
    write_masts,
)
from ueloc_core.synthetic import synthetic_city

MOBILE = {"communication:mobile_phone": "yes"}


@pytest.mark.parametrize(
    "tags",
    [
        {"man_made": "communications_tower"},
        {"man_made": "mast", "tower:type": "communication"},
        {"man_made": "tower", "communication:television": "yes"},
        {"man_made": "water_tower", **MOBILE},
        {"building": "yes", **MOBILE},
        {"telecom": "antenna"},
        {"telecom": "bts"},
    ],
)
def test_what_carries_antennas_of_a_network_is_a_mast(tags):
    assert is_telecom_mast(tags)
    assert not is_telecom_mast({**tags, "communication:mobile_phone": "no"})
    assert not is_telecom_mast({**tags, "disused": "yes"})


@pytest.mark.parametrize(
    "tags",
    [
        {"man_made": "mast"},
        {"man_made": "mast", "tower:type": "lighting"},
        {"man_made": "tower", "tower:type": "bell_tower"},
        {"man_made": "mast", "communication:radio": "no"},
        {"telecom": "exchange"},
        {"telecom": "data_center"},
    ],
)
def test_other_masts_and_towers_are_none(tags):
    assert not is_telecom_mast(tags)


@pytest.fixture
def city(tmp_path):
    return synthetic_city(tmp_path)


def masts_of(city, extra, path):
    """The masts of the made-up city with more elements; points in degrees are node 9001, 9002..."""
    text = gzip.decompress(city.source.path.read_bytes()).decode()
    path.write_text(text.replace("</osm>", f"{extra}</osm>"), encoding="utf-8")
    return read_masts(city, path)


def node(number, lon, lat, **tags):
    held = "".join(f'<tag k="{k.replace("__", ":")}" v="{v}"/>' for k, v in tags.items())
    return f'<node id="{number}" version="1" lat="{lat}" lon="{lon}">{held}</node>\n'


def test_points_and_polygons_are_read_in_place_with_their_heights(city, tmp_path):
    corners = [(24.942, 60.171), (24.9421, 60.171), (24.9421, 60.1711), (24.942, 60.1711)]
    ring = "".join(f'<nd ref="{9101 + i % 4}"/>' for i in range(5))
    way = (
        f'<way id="9001" version="1">{ring}<tag k="man_made" v="tower"/>'
        '<tag k="tower:type" v="communication"/><tag k="height" v="120 ft"/></way>'
    )
    extra = (
        "".join(node(9101 + i, *corner) for i, corner in enumerate(corners))
        + node(9001, 24.944, 60.1715, man_made="mast", tower__type="communication", height="31 m")
        + node(9002, 24.941, 60.1712, telecom="antenna", communication__mobile_phone="yes")
        + node(9003, 24.940, 60.2500, telecom="antenna")
        + node(9004, 24.943, 60.1713, man_made="mast", tower__type="lighting", height="12")
        + way
    )
    masts, counts = masts_of(city, extra, tmp_path / "more.osm")
    MastSchema.validate(masts)
    assert masts.osm_id.tolist() == ["node/9001", "node/9002", "way/9001"]
    assert masts.height_m.tolist()[::2] == pytest.approx([31.0, 120 * 0.3048])
    assert masts.height_m.isna().tolist() == [False, True, False]
    assert masts.mobile_phone.tolist() == [False, True, False]
    lon_deg, lat_deg = city.to_lonlat(masts.geometry[0].x, masts.geometry[0].y)
    assert (lon_deg, lat_deg) == pytest.approx((24.944, 60.1715), abs=1e-6)
    assert masts.geometry[2].geom_type == "Polygon"
    assert masts.geometry[2].area == pytest.approx(11.1 * 5.5, rel=0.05)
    assert counts == {"masts": 3, "with_height": 2, "mobile_phone": 1}


def test_heights_that_cannot_be_read_and_lines_are_counted(city, tmp_path):
    line = (
        '<way id="9005" version="1"><nd ref="9001"/><nd ref="9002"/><tag k="man_made" v="mast"/>'
        '<tag k="tower:type" v="communication"/></way>'
    )
    extra = (
        node(9001, 24.944, 60.1715, telecom="bts", height="tall")
        + node(9002, 24.9441, 60.1715)
        + line
    )
    masts, counts = masts_of(city, extra, tmp_path / "more.osm")
    assert masts.height_m.isna().all()
    assert counts["unreadable_height"] == counts["without_geometry"] == counts["masts"] == 1


def test_an_extract_without_masts_gives_an_empty_table_that_can_be_read_again(city, tmp_path):
    masts, counts = read_masts(city, city.source.path)
    assert counts["masts"] == len(masts) == 0
    write_masts(masts, tmp_path)
    again = load_masts(tmp_path)
    MastSchema.validate(again)
    assert again.empty
    assert again.crs == city.crs_code
    (tmp_path / "masts.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(GeodataError, match="osm_extract"):
        load_masts(tmp_path)


def test_what_is_stored_is_what_was_read(city, tmp_path):
    masts, _ = masts_of(city, node(9001, 24.944, 60.1715, telecom="bts"), tmp_path / "more.osm")
    write_masts(masts, tmp_path)
    again = load_masts(tmp_path)
    assert shapely.equals(again.geometry.to_numpy(), masts.geometry.to_numpy()).all()
    assert again.drop(columns="geometry").equals(masts.drop(columns="geometry"))
