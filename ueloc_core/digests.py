"""Digests of values, files and folders: what stages are told apart by."""

import hashlib
import json
from pathlib import Path
from typing import Any

RUN_LOGS = "tensorboard"
"""Folder of an artifact in which a run logged itself.

Its files hold times and machines: they are kept with the artifact, but are part neither of its
digest nor of its manifest, so the same result has the same digest.
"""

_DIGEST_LENGTH = 16


def digest(value: Any) -> str:
    """Hash of a JSON-serialisable value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]


def digest_folder(folder: Path) -> str:
    """Hash of the relative names and the bytes of all files below a folder but `RUN_LOGS`."""
    total = hashlib.sha256()
    for name in files_below(folder):
        total.update(name.encode())
        total.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return total.hexdigest()[:_DIGEST_LENGTH]


def digest_file(path: Path) -> str:
    """Hash of the bytes of one file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:_DIGEST_LENGTH]


def files_below(folder: Path, *, logs: bool = False) -> list[str]:
    """Relative names of the files below a folder but `RUN_LOGS`, or of those in it."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [path.relative_to(folder) for path in found]
    return [name.as_posix() for name in names if (name.parts[0] == RUN_LOGS) == logs]
