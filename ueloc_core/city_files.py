"""City files as they lie on the disk: reading them, laying one over another, telling what is wrong.

What they mean is in `ueloc_core.city`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ueloc_core.errors import CityError

EXTENDS = "extends"
"""Key that names the city whose file this one is laid over."""

NAME_PATTERN = r"^[a-z][a-z0-9_]*$"

_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the faster one, where it is built


def read_city_file(path: Path) -> dict[str, Any]:
    """The keys of a city file, as they stand there.

    Raises
    ------
    CityError
        If there is no such file, or it is no mapping of keys.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_YAML_LOADER)  # noqa: S506
    except FileNotFoundError as error:
        raise CityError("no such city file", where=str(path), remedy=_known(path)) from error
    except OSError as error:
        raise CityError(f"it cannot be read ({error.strerror})", where=str(path)) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CityError(f"not valid YAML ({error})", where=str(path)) from error
    if not isinstance(content, dict):
        raise CityError("a city file is a mapping of keys", where=str(path))
    return content


def base_file(path: Path, extends: Any, below: tuple[Path, ...]) -> Path:
    """The file that a city file extends.

    Parameters
    ----------
    path
        The file that extends another one.
    extends
        What it names: a city of the same folder.
    below
        The files that extend this one, the first of them first.

    Raises
    ------
    CityError
        If it is no name, there is no such file, or it extends this one in turn.
    """
    if not isinstance(extends, str) or not re.match(NAME_PATTERN, extends):
        raise CityError(
            f"{EXTENDS} = {extends!r} is not the name of a city",
            where=str(path),
            remedy=_known(path),
        )
    base = path.with_name(f"{extends}.yaml")
    if not base.is_file():
        raise CityError(
            f"{EXTENDS} = '{extends}': no such city file", where=str(path), remedy=_known(path)
        )
    chain = (*below, path)
    if base in chain:
        loop = " -> ".join(file.stem for file in (*chain[chain.index(base) :], base))
        raise CityError(
            f"{EXTENDS} = '{extends}' goes round in a circle ({loop})",
            where=str(path),
            remedy="One of these cities must extend none.",
        )
    return base


def laid_over(
    base: Mapping[str, Any], content: Mapping[str, Any], model: type[BaseModel]
) -> dict[str, Any]:
    """Keys of one mapping over those of another: section by section, other values as a whole."""
    merged = dict(base)
    for key, value in content.items():
        section = _section(model, str(key))
        if section is not None and isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = laid_over(merged[key], value, section)
        else:
            merged[key] = value
    return merged


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with a model's keys: each with its value and what is allowed."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            allowed = _allowed_keys(item["loc"], model)
            lines.append(f"{key} = {item['input']!r}: unknown key; {allowed}")
        elif item["type"] == "missing":
            lines.append(f"{key} is missing; it is required")
        elif item["type"] == "value_error":
            lines.append(str(item["ctx"]["error"]))
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            lines.append(f"{key} = {item['input']!r}: {message}")
    return "; ".join(lines)


def _known(path: Path) -> str:
    known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
    return f"Cities there: {known}."


def _allowed_keys(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    for part in location[:-1]:
        section = _section(model, str(part))
        if section is None:
            break
        model = section
    return f"allowed: {', '.join(model.model_fields)}"


def _section(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The model of a key that is a section."""
    field = model.model_fields.get(key)
    annotation = None if field is None else field.annotation
    return (
        annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    )
