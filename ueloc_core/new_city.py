"""City files for places that have none yet."""

import re
import tempfile
from pathlib import Path

import yaml

from ueloc_core.city import City, load_city
from ueloc_core.errors import CityError, UelocError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SMALLEST = 3  # rows and columns of tiles, for splits that stand apart


def write_new_city(
    name: str, bbox: tuple[float, float, float, float], folder: Path, *, title: str, asked: str
) -> City:
    """Write the file of a city whose extract Overpass gives, and check it by loading it.

    Where the city has at least three rows and three columns of tiles, five of them are put
    into the validation, calibration and test splits by their place alone.

    Parameters
    ----------
    name
        Of the city and its file: small letters, digits and underscores.
    bbox
        West, south, east, north [deg].
    folder
        Of the city files.
    title
        The city's name for people.
    asked
        The option that gave the bounding box, for errors.

    Raises
    ------
    CityError
        If the name or the bounding box will not do, or the file is there already.
    """
    if not _NAME.fullmatch(name):
        raise CityError(
            "a city's name has small letters, digits and underscores, and starts with a letter",
            where=f"NAME = {name}",
        )
    path = folder / f"{name}.yaml"
    if path.exists():
        raise CityError("there is such a city file already", where=str(path))
    content: dict[str, object] = {
        "name": name,
        "title": " ".join(title.split()),
        "source": {"kind": "overpass"},
        "bbox": [round(side, 6) for side in bbox],
    }
    try:
        splits = _splits(_checked(content, name))
        if splits:
            content["splits"] = splits
            _checked(content, name)
    except CityError as error:
        raise CityError(error.problem, where=asked, remedy=error.remedy) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(_text(content))
    except OSError as error:
        raise UelocError(f"cannot be written ({error.strerror})", where=str(path)) from error
    return load_city(path)


def _checked(content: dict[str, object], name: str) -> City:
    """The city, loaded as from its file."""
    with tempfile.TemporaryDirectory(prefix="ueloc-") as folder:
        path = Path(folder) / f"{name}.yaml"
        path.write_text(_text(content), encoding="utf-8")
        return load_city(path)


def _splits(city: City) -> dict[str, list[str]]:
    """Test tiles in the south, calibration tiles in the north, validation beside them."""
    rows: dict[int, list[str]] = {}
    for tile in city.tile_list:
        rows.setdefault(tile.window.row, []).append(tile.name)
    grid = [rows[row] for row in sorted(rows)]
    columns = len(grid[0])
    if len(grid) < _SMALLEST or columns < _SMALLEST:
        return {}
    south, north = grid[len(grid) // 4], grid[-1 - len(grid) // 4]
    middle = (columns - 2) // 2
    return {
        "validation": [north[0 if middle else -1]],
        "calibration": north[middle : middle + 2],
        "test": south[middle : middle + 2],
    }


def _text(content: dict[str, object]) -> str:
    head = "# Every key that is left out takes its default; cities/helsinki.yaml shows them.\n"
    if "splits" in content:
        head += "# The splits were chosen by place alone: move them where they hold no sites.\n"
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return f"{head}{body}"
