"""File formats of OpenStreetMap extracts, by name and by content."""

from pathlib import Path

from ueloc_core.errors import GeodataError

SUFFIXES = (".osm", ".osm.gz", ".osm.bz2", ".osm.pbf")
LARGEST_BYTES = 1_000_000_000
"""Largest packed extract that is read; plain XML may be ten times as large."""


def check_source(path: Path) -> None:
    """Refuse a file that is missing, too large, or of a format that is not read.

    Raises
    ------
    GeodataError
        Naming the file.
    """
    if not path.name.endswith(SUFFIXES):
        raise GeodataError(
            "not an OpenStreetMap extract by its name",
            where=str(path),
            remedy=f"Give a file that ends in {', '.join(SUFFIXES)}.",
        )
    if not path.is_file():
        raise GeodataError(
            "no such extract",
            where=str(path),
            remedy="Set source.path of the city file to an extract.",
        )
    size, largest = path.stat().st_size, LARGEST_BYTES * (10 if path.suffix == ".osm" else 1)
    if size > largest:
        raise GeodataError(
            f"the extract has {size / 1e9:.1f} GB, more than the {largest / 1e9:.0f} GB that "
            "are read; it covers far more than a city",
            where=str(path),
            remedy="Cut it first: osmium extract --bbox WEST,SOUTH,EAST,NORTH.",
        )


def mismatch(path: Path) -> str:
    """What a file that cannot be read holds where that is not what its name says, else ''."""
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError:
        return ""
    if not head:
        return "it is empty"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it holds a web page, perhaps the error message of a download"
    kinds = {
        ".osm.gz": head.startswith(b"\x1f\x8b"),
        ".osm.bz2": head.startswith(b"BZh"),
        ".osm.pbf": b"OSMHeader" in head[:64],
        ".osm": start.startswith(b"<"),
    }
    held = next((suffix for suffix, fits in kinds.items() if fits), None)
    named = next(suffix for suffix in reversed(SUFFIXES) if path.name.endswith(suffix))
    return f"its content looks like {held}" if held not in (None, named) else ""
