"""Small frozen dataclasses as JSON files: what a stage learned, one file each."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from ueloc_core.errors import StoreError, UelocError

T = TypeVar("T")


def save_fields(value: Any, path: Path) -> None:
    """Write the fields of a dataclass as JSON."""
    path.write_text(json.dumps(asdict(value), indent=1))


def load_fields(kind: type[T], path: Path, what: str, stage: str) -> T:
    """Read what `save_fields` wrote; lists become tuples.

    Parameters
    ----------
    kind
        The dataclass, which may check its values.
    path
        The file.
    what
        What it holds, in the plural, for the message of an error.
    stage
        The stage that writes it.

    Raises
    ------
    StoreError
        If the file is missing or damaged, has other fields, or the dataclass refuses them.
    """
    try:
        stored = json.loads(path.read_text())
        if stored.keys() != {f.name for f in fields(kind)}:  # type: ignore[arg-type]
            raise ValueError(f"its fields are {', '.join(stored)}")  # noqa: TRY301
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()})
    except (OSError, ValueError, TypeError, AttributeError, UelocError) as error:
        raise StoreError(
            f"{what} cannot be read ({error})",
            where=str(path),
            remedy=f"Materialize {stage} again.",
        ) from error
