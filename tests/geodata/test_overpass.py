"""Downloads, against a server on this machine that answers as Overpass does."""

import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import osmnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overpass_server import BUSY_PAGE, FakeServer, overpass_json, read_json, serving

from ueloc_core.city import City
from ueloc_core.errors import GeodataError
from ueloc_core.geodata import osmnx_session, overpass
from ueloc_core.geodata.osm import build_extract, features_digest, load_features
from ueloc_core.geodata.overpass import (
    about_extract,
    cached_extract,
    download_extract,
    geocode_bbox,
)
from ueloc_core.geodata.repair import FEATURE_KEYS, read_elements
from ueloc_core.geodata.sources import local_source, source_label, source_path
from ueloc_core.geodata.tags import MAST_TAGS
from ueloc_core.synthetic import synthetic_city


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return synthetic_city(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def elements(town):
    return read_json(source_path(town))


@pytest.fixture(scope="module")
def running():
    with serving() as server:
        yield server


@pytest.fixture
def naps(monkeypatch):
    """Naps [s] that OSMnx takes, none of which takes time."""
    taken = []
    clock = SimpleNamespace(sleep=taken.append)
    monkeypatch.setattr(osmnx._overpass, "time", clock)
    monkeypatch.setattr(osmnx._nominatim, "time", clock)
    return taken


@pytest.fixture
def server(running, elements, naps, monkeypatch, tmp_path):
    running.__dict__.update(vars(FakeServer(running.url, elements)))
    monkeypatch.setenv("UELOC_OVERPASS_URL", running.url)
    monkeypatch.setenv("UELOC_NOMINATIM_URL", running.url)
    monkeypatch.setenv("UELOC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UELOC_EXTRACTS", raising=False)
    return running


@pytest.fixture
def city(town):
    return City.model_validate(
        {**town.model_dump(), "source": {"kind": "overpass"}, "name": "downloaded"}
    )


def files(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file())


def test_a_download_gives_the_features_of_the_file(server, town, city, tmp_path):
    digests = []
    for number, place in enumerate((town, city)):
        out = tmp_path / str(number)
        out.mkdir()
        build_extract(place, out)
        digests.append(features_digest(load_features(out)))
    assert digests[0] == digests[1]
    assert len(server.queries) == 1


def test_a_download_holds_the_elements_of_the_file(server, town, city):
    downloaded = read_elements(source_path(city), city.bbox)
    original = read_elements(source_path(town), town.bbox)
    assert downloaded == original
    assert any(relation.members for relation in downloaded.relations.values())


def test_the_query_asks_for_every_kind_of_feature_with_its_members(server, city):
    download_extract(city)
    query = server.queries[0]
    for key in FEATURE_KEYS:
        for kind in ("node", "way", "relation"):
            assert f"{kind}['{key}'](poly:" in query
    masts = [value if isinstance(value, list) else [value] for value in MAST_TAGS.values()]
    assert query.count("(._;>;)") == 3 * (len(FEATURE_KEYS) + 1 + sum(map(len, masts)))
    assert "['man_made'='mast']" in query
    assert "['communication:mobile_phone']" in query


def test_a_cached_extract_is_taken_without_a_request(server, city):
    assert local_source(city) is None
    first = source_path(city)
    asked = len(server.requests)
    assert source_path(city) == first == local_source(city) == cached_extract(city)
    assert len(server.requests) == asked
    assert source_label(city) == "overpass"


def test_an_extract_is_downloaded_again_when_it_is_old(server, city):
    path = source_path(city)
    days = city.source.max_age_days
    for age_days, queries in ((days - 1, 1), (days + 1, 2)):
        then = time.time() - age_days * 86_400
        os.utime(path, (then, then))
        assert source_path(city) == path
        assert len(server.queries) == queries


def test_a_moved_bounding_box_is_another_extract(server, city):
    west, south, east, north = city.bbox
    moved = city.model_copy(update={"bbox": (west, south, east, north - 1e-4)})
    assert source_path(city) != source_path(moved)


def test_the_same_data_give_the_same_bytes(server, city):
    first = download_extract(city).read_bytes()
    server.elements = server.elements[::-1]
    assert download_extract(city).read_bytes() == first


def test_the_date_of_the_data_is_noted_beside_the_extract(server, city, tmp_path):
    path = download_extract(city)
    about = about_extract(path)
    assert about["data_of"] == "2026-01-01T11:59:00Z"
    assert about["way"] > 10
    assert about["server"] == server.url
    assert files(tmp_path) == sorted([path.name, path.name.replace(".osm.pbf", ".json")])
    assert about_extract(tmp_path / "other.osm.pbf") == {}


def test_a_large_city_is_asked_for_in_pieces_and_put_together(
    server, town, city, monkeypatch, naps
):
    monkeypatch.setattr(overpass, "_PIECE_M", max(city.extent_m) / 2 + 1)
    steps = []
    path = download_extract(city, progress=lambda done, of: steps.append((done, of)))
    pieces = steps[-1][1]
    assert pieces == len(server.queries) > 1
    assert steps == [(done, pieces) for done in range(pieces + 1)]
    original = read_elements(source_path(town), town.bbox)
    assert read_elements(path, city.bbox) == original


def test_an_interrupted_download_resumes(server, city, monkeypatch, tmp_path):
    monkeypatch.setattr(overpass, "_PIECE_M", max(city.extent_m) / 2 + 1)
    whole = download_extract(city).read_bytes()
    cached_extract(city).unlink()
    pieces = len(server.queries)
    reply = server.reply

    def fails_once(path, body):
        if path.endswith("/interpreter") and len(server.queries) == pieces + 1:
            monkeypatch.setattr(server, "reply", reply)
            return 500, b"it broke"
        return reply(path, body)

    monkeypatch.setattr(server, "reply", fails_once)
    with pytest.raises(GeodataError, match="HTTP 500"):
        download_extract(city)
    assert cached_extract(city) is None
    (answers,) = (tmp_path / "cache").rglob("*.answers")
    (answers / "cut.json").write_text('{"elements": [')
    assert download_extract(city).read_bytes() == whole
    assert len(server.queries) == 2 * pieces


def test_the_server_is_given_the_time_it_asks_for(server, city, naps):
    in_a_while = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 40))
    server.slots = [f"Slot available after: {in_a_while}, in 40 seconds."]
    download_extract(city)
    assert len(naps) == 1
    assert 35 <= naps[0] <= 41


def test_a_running_query_is_waited_for(server, city, naps):
    running = "Currently running queries (pid, space limit, time limit, start time):"
    server.slots = [running, running, "1 slots available now."]
    download_extract(city)
    assert naps == [5, 0]


def test_a_server_without_limit_is_not_waited_for(server, city, naps, monkeypatch):
    monkeypatch.setattr("overpass_server.STATUS", "Rate limit: 0\n{slots}\n")
    download_extract(city)
    assert naps == [0]


@pytest.mark.parametrize("code", [429, 504])
def test_a_busy_server_is_asked_again_and_then_given_up(server, city, naps, code, tmp_path):
    server.answers = [(code, BUSY_PAGE)]
    with pytest.raises(GeodataError, match=f"too busy .HTTP {code}") as caught:
        download_extract(city)
    assert_says_what_helps(caught.value, server)
    assert len(server.queries) == osmnx_session.ATTEMPTS
    assert naps.count(55) == osmnx_session.ATTEMPTS - 1
    assert files(tmp_path) == []


def test_a_server_that_was_busy_once_is_forgiven(server, city, elements, naps):
    server.answers = [(429, BUSY_PAGE), (200, overpass_json(elements))]
    assert download_extract(city).is_file()


def assert_says_what_helps(error, server):
    assert isinstance(error, GeodataError)
    assert server.url in error.where
    assert "source.kind = overpass" in error.where
    for word in ("UELOC_OVERPASS_URL", "UELOC_EXTRACTS", "source.path"):
        assert word in error.remedy


def _answers(elements):
    whole = overpass_json(elements)
    return {
        "cut": ((200, whole[: len(whole) // 2]), "no JSON, or cut off"),
        "page": ((200, b"<html><body>Sign in to the hotel's net</body></html>"), "no JSON"),
        "list": ((200, b"[]"), "no JSON"),
        "nothing": ((200, b""), "no JSON"),
        "other": ((200, b'{"elements": [{"kind": 1}]}'), "not a list"),
        "no elements": ((200, b'{"version": 0.6}'), "not a list"),
        "elsewhere": (
            (200, overpass_json([{"type": "way", "id": 1, "nodes": ["a"]}])),
            "cannot hold",
        ),
        "bad tags": (
            (200, overpass_json([{"type": "way", "id": 7, "nodes": [1, 2], "tags": [[]]}])),
            r"cannot hold .way 7: tags = ",
        ),
        "long tag": (
            (
                200,
                overpass_json([{"type": "way", "id": 1, "nodes": [1], "tags": {"n": "x" * 9999}}]),
            ),
            "cannot hold .*too long",
        ),
        "off the Earth": (
            (
                200,
                overpass_json(
                    [
                        {"type": "node", "id": 1, "lat": 95.0, "lon": 0.0},
                        {"type": "way", "id": 1, "nodes": [1]},
                    ]
                ),
            ),
            "node 1 at 0.0, 95.0",
        ),
        "gave up": (
            (200, overpass_json([], remark="runtime error: Query timed out in 'query'")),
            "gave up .runtime error: Query timed out",
        ),
        "refused": ((403, BUSY_PAGE), "HTTP 403 Forbidden.*probably too busy"),
        "failed": ((500, b""), "HTTP 500.*no reason given"),
    }


@pytest.mark.parametrize("name", list(_answers([])))
def test_an_unusable_answer_leaves_nothing(server, city, elements, tmp_path, name):
    answer, message = _answers(elements)[name]
    server.answers = [answer]
    with pytest.raises(GeodataError, match=message) as caught:
        download_extract(city)
    assert_says_what_helps(caught.value, server)
    assert not [f for f in files(tmp_path) if ".osm.pbf" in f]
    server.answers = []  # and the bad one is not taken out of the cache the next time
    assert download_extract(city).is_file()


def test_an_empty_place_is_told_apart(server, city):
    server.elements = []
    with pytest.raises(GeodataError, match="holds nothing") as caught:
        download_extract(city)
    assert "bbox" in caught.value.remedy


def test_offline_is_told_at_once(server, city, naps, monkeypatch, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
    monkeypatch.setenv("UELOC_OVERPASS_URL", url)
    with pytest.raises(GeodataError, match="cannot be reached .Connection refused") as caught:
        source_path(city)
    assert_says_what_helps(caught.value, SimpleNamespace(url=url))
    assert naps == []
    assert files(tmp_path) == []


def test_a_server_that_never_answers(server, city, monkeypatch):
    over = threading.Event()
    reply = server.reply
    monkeypatch.setattr(osmnx.settings, "requests_timeout", 0.2)
    monkeypatch.setattr(
        server, "reply", lambda path, body: (body and over.wait(5), reply(path, body))[1]
    )
    with pytest.raises(GeodataError, match="did not answer within 0.2 s"):
        download_extract(city)
    over.set()


def test_an_answer_that_breaks_off(server, city):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            for content in (b"Rate limit: 0\n", b'{"elements": ['):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(100_000)
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: "
                        + (b"14" if b"Rate" in content else b"5000")
                        + b"\r\n\r\n"
                        + content
                    )

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("UELOC_OVERPASS_URL", url)
            with pytest.raises(GeodataError, match="broke off|cannot be reached"):
                download_extract(city)
        thread.join()


@pytest.mark.parametrize("url", ["overpass", "ftp://overpass/api", "http://"])
def test_an_address_that_is_none(server, city, monkeypatch, url):
    monkeypatch.setenv("UELOC_OVERPASS_URL", url)
    with pytest.raises(GeodataError, match="UELOC_OVERPASS_URL = .*not the address"):
        download_extract(city)


def test_the_address_of_the_interpreter_will_do(server, city, monkeypatch):
    monkeypatch.setenv("UELOC_OVERPASS_URL", f"{server.url}/interpreter/")
    assert download_extract(city).is_file()


def test_a_cache_that_cannot_be_written(server, city, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("UELOC_CACHE", str(tmp_path / "file"))
    with pytest.raises(GeodataError, match="cannot be stored") as caught:
        download_extract(city)
    assert "UELOC_CACHE" in caught.value.remedy


def test_settings_of_osmnx_stay_as_they_were(server, city):
    before = {k: v for k, v in vars(osmnx.settings).items() if not k.startswith("_")}
    resolve = socket.getaddrinfo
    download_extract(city)
    server.answers = [(500, b"")]
    with pytest.raises(GeodataError):
        download_extract(city)
    assert {k: v for k, v in vars(osmnx.settings).items() if not k.startswith("_")} == before
    assert socket.getaddrinfo is resolve


def place(west, south, east, north, **more):
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "place_id": 1,
        "importance": 0.8,
        "lat": str((south + north) / 2),
        "lon": str((west + east) / 2),
        "boundingbox": [str(south), str(north), str(west), str(east)],
        "geojson": {"type": "Polygon", "coordinates": [ring]},
        "display_name": "Monaco",
        **more,
    }


def test_a_place_gives_its_bounding_box(server):
    server.places = [place(7.40, 43.72, 7.44, 43.75)]
    assert geocode_bbox("Monaco") == (7.40, 43.72, 7.44, 43.75)
    assert "q=Monaco" in server.requests[0]


def test_places_without_area_or_unknown(server):
    with pytest.raises(GeodataError, match="place ' ': a place has a name"):
        geocode_bbox(" ")
    assert server.requests == []
    with pytest.raises(GeodataError, match="place 'Atlantis'.*unknown"):
        geocode_bbox("Atlantis")
    point = {"type": "Point", "coordinates": [7.4, 43.7]}
    server.places = [place(7.40, 43.72, 7.44, 43.75, geojson=point)]
    with pytest.raises(GeodataError, match="no area"):
        geocode_bbox("a statue")
    server.answers = [(200, b"{}")]
    with pytest.raises(GeodataError, match="no JSON") as caught:
        geocode_bbox("Monaco")
    assert "UELOC_NOMINATIM_URL" in caught.value.remedy
    server.answers = [(200, json.dumps([{"importance": 1}]).encode())]
    with pytest.raises(GeodataError, match="no area|no JSON"):
        geocode_bbox("Monaco")


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
_number = st.integers(1, 3) | st.integers() | _anything
_element = st.fixed_dictionaries(
    {"type": st.sampled_from(["node", "way", "relation"]) | _anything, "id": _number},
    optional={
        "lat": st.floats(-100, 100) | _anything,
        "lon": st.floats(-200, 200) | _anything,
        "nodes": st.lists(_number, max_size=4) | _anything,
        "tags": st.dictionaries(st.text(max_size=3), st.text(max_size=300), max_size=2) | _anything,
        "members": st.lists(
            st.fixed_dictionaries(
                {"type": st.sampled_from(["node", "way", "area", ""]) | _anything, "ref": _number},
                optional={"role": st.text(max_size=3) | _anything},
            )
        )
        | _anything,
    },
)
_WAY = {"type": "way", "id": 4, "nodes": [1, 2], "tags": {"building": "yes"}}


@given(st.lists(_element, max_size=4).map(lambda some: [*some, _WAY]) | _anything)
@settings(max_examples=300)
def test_any_answer_is_an_extract_or_an_error(elements):
    server = osmnx_session.Server("overpass", "http://localhost", "", "", "")
    with tempfile.TemporaryDirectory() as folder:
        answers, target = Path(folder) / "answers", Path(folder) / "a.osm.pbf"
        answers.mkdir()
        (answers / "a.json").write_text(json.dumps({"elements": elements}))
        try:
            overpass._write(overpass._merged(answers, server)[0], target, server)
        except GeodataError:
            assert not list(Path(folder).glob("*.pbf"))
        else:
            read_elements(target, (24.0, 60.0, 24.1, 60.1))
