"""A server on this machine that answers as Overpass and Nominatim do, out of an OSM file."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote_plus, urlsplit

import osmium

STATUS = """Connected as: 2130706433
Current time: 2026-01-01T12:00:00Z
Announced endpoint: none
Rate limit: 2
{slots}
Currently running queries (pid, space limit, time limit, start time):
"""
BUSY_PAGE = (
    b"<?xml version='1.0'?><html><head><title>OSM3S Response</title></head><body>"
    b"<p><strong>Error</strong>: runtime error: open64: 0 Success. "
    b"The server is probably too busy to handle your request. </p></body></html>"
)


def read_json(path: Path) -> list[dict]:
    """The elements of an OSM file, as Overpass writes them."""
    elements = []
    for element in osmium.FileProcessor(path):
        common = {"id": element.id, "tags": {t.k: t.v for t in element.tags}}
        if element.is_node():
            place = {"lat": element.location.lat, "lon": element.location.lon}
            elements.append({"type": "node", **common, **place})
        elif element.is_way():
            nodes = [n.ref for n in element.nodes]
            elements.append({"type": "way", **common, "nodes": nodes})
        else:
            kinds = {"n": "node", "w": "way", "r": "relation"}
            members = [
                {"type": kinds[m.type], "ref": m.ref, "role": m.role} for m in element.members
            ]
            elements.append({"type": "relation", **common, "members": members})
    return elements


def select(elements: list[dict], query: str) -> list[dict]:
    """What `(kind['key'](poly:'lat lon ...');(._;>;););` of OSMnx's queries selects."""
    asked = set(re.findall(r"\((node|way|relation)\['([^']+)'(?:='([^']+)')?\]", query))
    poly = [float(number) for number in re.search(r"poly:'([^']*)'", query)[1].split()]
    south, north, west, east = min(poly[::2]), max(poly[::2]), min(poly[1::2]), max(poly[1::2])
    by_id = {(e["type"], e["id"]): e for e in elements}
    near = {
        key
        for key, e in by_id.items()
        if key[0] == "node" and west <= e["lon"] <= east and south <= e["lat"] <= north
    }
    near |= {key for key, e in by_id.items() if {("node", n) for n in e.get("nodes", ())} & near}
    near |= {
        key
        for key, e in by_id.items()
        if {(m["type"], m["ref"]) for m in e.get("members", ())} & near
    }
    found = set()
    for kind, tag, value in asked:
        for key in near:
            tags = by_id[key]["tags"]
            if key[0] == kind and tag in tags and value in ("", tags[tag]):
                found.add(key)
    for kind in ("relation", "way"):
        for key in [key for key in found if key[0] == kind]:
            found |= {("node", n) for n in by_id[key].get("nodes", ())}
            found |= {(m["type"], m["ref"]) for m in by_id[key].get("members", ())}
    order = ("node", "way", "relation")
    return [by_id[key] for key in sorted(found, key=lambda key: (order.index(key[0]), key[1]))]


@dataclass
class FakeServer:
    """What the server says, and what it was asked."""

    url: str
    elements: list[dict] = field(default_factory=list)
    places: list[dict] = field(default_factory=list)
    slots: list[str] = field(default_factory=lambda: ["2 slots available now."])
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def queries(self) -> list[str]:
        """The Overpass queries that came."""
        return [body for body in self.requests if "poly:" in body]

    def reply(self, path: str, body: str) -> tuple[int, bytes]:
        """Status code and body of an answer; `answers` come first, one after the other."""
        self.requests.append(unquote_plus(body) or path)
        if path.endswith("/status"):
            slots = self.slots.pop(0) if len(self.slots) > 1 else self.slots[0]
            return 200, STATUS.format(slots=slots).encode()
        if self.answers:
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if path.endswith("/interpreter"):
            found = select(self.elements, parse_qs(body)["data"][0])
            return 200, overpass_json(found)
        return 200, json.dumps(self.places).encode()


def overpass_json(elements: list[dict], **more: object) -> bytes:
    """An Overpass answer."""
    answer = {
        "version": 0.6,
        "generator": "Overpass API 0.7.62",
        "osm3s": {"timestamp_osm_base": "2026-01-01T11:59:00Z", "copyright": "ODbL"},
        "elements": elements,
        **more,
    }
    return json.dumps(answer).encode()


@contextmanager
def serving() -> Iterator[FakeServer]:
    """A server on a free port, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("")

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self._answer(self.rfile.read(length).decode())

        def _answer(self, body: str) -> None:
            parts = urlsplit(self.path)
            code, content = server.reply(parts.path, body or parts.query)
            with suppress(ConnectionError):  # the client may have given up waiting
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = FakeServer(f"http://127.0.0.1:{http.server_port}/api")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
