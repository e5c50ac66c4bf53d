"""Artifacts, their fingerprints and the store that keeps them: the one place where work is skipped.

A stage's *fingerprint* hashes its code version, its parameters and the content of what it
reads. The *content digest* hashes what it wrote. A stage that finds its fingerprint in the
store is not computed again; what reads it depends on the content digest alone, so a stage
that is computed again with the same result stops the propagation there.

Layout below the root: ``<city>/<stage>/<partition>/<fingerprint>/...`` beside a
``current.json`` (the manifest) that is replaced in one step after its folder is complete. A
killed run leaves either the old or the new artifact. Nothing in a manifest names a machine.
"""

import errno
import hashlib
import json
import logging
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ueloc_core.errors import StoreError

logger = logging.getLogger(__name__)

MANIFEST = "current.json"
RUN_LOGS = "tensorboard"
"""Folder of an artifact in which a run logged itself.

Its files hold times and machines: they are kept with the artifact, but are part neither of its
digest nor of its manifest, so the same result has the same digest.
"""
_DIGEST_LENGTH = 16
_KEPT_VERSIONS = 2


@dataclass(frozen=True)
class ArtifactKey:
    """Names what a stage produced: city, stage and partition (a tile, or ``city``)."""

    city: str
    stage: str
    partition: str = "city"

    def __str__(self) -> str:
        return f"{self.city}/{self.stage}/{self.partition}"


@dataclass(frozen=True)
class Artifact:
    """One stored result.

    Attributes
    ----------
    key
        What it is.
    fingerprint
        Hash of code version, parameters and inputs: whether it must be computed again.
    content
        Hash of the files: what downstream stages depend on, and the Dagster data version.
    path
        Local folder with the files.
    metadata
        Scalars and short lists that describe it.
    inputs
        Content digests of what was read.
    elapsed_s
        Seconds that computing it took (not those of a cached return) [s].
    cached
        Whether this call found it in the store.
    """

    key: ArtifactKey
    fingerprint: str
    content: str
    path: Path
    metadata: dict[str, Any]
    inputs: dict[str, str]
    elapsed_s: float
    cached: bool


@dataclass(frozen=True)
class _Manifest:
    fingerprint: str
    content: str
    code_version: str
    params: dict[str, Any]
    inputs: dict[str, str]
    metadata: dict[str, Any]
    files: dict[str, int]
    elapsed_s: float
    previous: list[str] = field(default_factory=list)


def digest(value: Any) -> str:
    """Hash of a JSON-serialisable value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]


def digest_folder(folder: Path) -> str:
    """Hash of the relative names and the bytes of all files below a folder but `RUN_LOGS`."""
    total = hashlib.sha256()
    for name in _files(folder):
        total.update(name.encode())
        total.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return total.hexdigest()[:_DIGEST_LENGTH]


def digest_file(path: Path) -> str:
    """Hash of the bytes of one file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:_DIGEST_LENGTH]


def fingerprint_of(
    key: ArtifactKey, code_version: str, params: Mapping[str, Any], inputs: Mapping[str, str]
) -> str:
    """Fingerprint of a stage's result, as `Store.materialize` takes it."""
    return digest([key.stage, code_version, params, inputs])


class Store:
    """Artifacts below one URL: a local folder, or any fsspec file system.

    Parameters
    ----------
    url
        Root of the store, such as ``data``, ``/srv/ueloc`` or ``s3://bucket/prefix``.
    cache_dir
        Where the files of a remote store are kept for reading; a temporary folder by default.

    Raises
    ------
    StoreError
        If the URL is of no kind that fsspec knows, or its driver is not installed.
    """

    def __init__(self, url: str, cache_dir: Path | None = None) -> None:
        self.url = url
        try:
            self._fs, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"not the place of a store ({error})",
                where=f"store = {url}",
                remedy="Give a folder or a URL such as s3://bucket/prefix, and install its driver.",
            ) from error
        self._local = isinstance(self._fs, LocalFileSystem)
        self._cache_dir = cache_dir

    def current(self, key: ArtifactKey) -> Artifact | None:
        """The stored artifact, or None when there is none that is whole."""
        manifest = self._manifest(key)
        if manifest is None or not self._is_whole(key, manifest):
            return None
        return self._artifact(key, manifest, cached=True)

    def require(self, key: ArtifactKey) -> Artifact:
        """The stored artifact.

        Raises
        ------
        StoreError
            If it was never computed or some of its files are missing or truncated.
        """
        manifest = self._manifest(key)
        if manifest is None:
            raise StoreError(
                f"{key} has not been computed",
                where=self.url,
                remedy=f"Materialize the asset '{key.stage}' first (make demo, or the Dagster UI).",
            )
        if not self._is_whole(key, manifest):
            raise StoreError(
                f"files of {key} are missing or truncated",
                where=self._join(key, manifest.fingerprint),
                remedy=f"Materialize '{key.stage}' again: a damaged artifact is rebuilt.",
            )
        return self._artifact(key, manifest, cached=True)

    def materialize(
        self,
        key: ArtifactKey,
        compute: Callable[[Path], Mapping[str, Any]],
        *,
        code_version: str,
        params: Mapping[str, Any],
        inputs: Mapping[str, str],
    ) -> Artifact:
        """Return the artifact of a stage, computing it only if its fingerprint is new.

        Parameters
        ----------
        key
            What is wanted.
        compute
            Writes files into the empty folder it is given and returns metadata (JSON values).
        code_version
            Version of the stage's code; raise it when the result would change.
        params
            The part of the configuration that the result depends on.
        inputs
            Content digests of everything that is read, by name.

        Raises
        ------
        StoreError
            If the result cannot be written. What was stored before stays as it was.
        """
        fingerprint = fingerprint_of(key, code_version, params, inputs)
        manifest = self._manifest(key)
        if manifest is not None and manifest.fingerprint == fingerprint:
            if self._is_whole(key, manifest):
                return self._artifact(key, manifest, cached=True)
            logger.warning("%s is damaged in %s: computing it again", key, self.url)
        workspace = self._workspace(key)
        try:
            started = time.perf_counter()
            metadata = dict(compute(workspace))
            new = _Manifest(
                fingerprint=fingerprint,
                content=digest_folder(workspace),
                code_version=code_version,
                params=dict(params),
                inputs=dict(inputs),
                metadata=metadata,
                files={name: (workspace / name).stat().st_size for name in _files(workspace)},
                elapsed_s=round(time.perf_counter() - started, 3),
                previous=_previous(manifest, fingerprint),
            )
            self._publish(key, workspace, new)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise StoreError(
                    f"cannot write {key} ({error.strerror})",
                    where=self.url,
                    remedy="Free space or choose another store (UELOC_STORE); nothing was lost.",
                ) from error
            raise
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
        return self._artifact(key, new, cached=False)

    def scratch(self, key: ArtifactKey) -> Path:
        """Local folder in which a stage may leave its state while it computes.

        It outlives a killed run and is no artifact; what writes there also clears it. That of a
        remote store is on this machine. It need not exist.
        """
        if self._local:
            return Path(self._join(key, ".scratch"))
        return Path(tempfile.gettempdir(), f"ueloc-scratch-{digest(self.url)}", str(key))

    def _join(self, key: ArtifactKey, *parts: str) -> str:
        return "/".join([self._root, key.city, key.stage, key.partition, *parts])

    def _manifest(self, key: ArtifactKey) -> _Manifest | None:
        path = self._join(key, MANIFEST)
        try:
            return _Manifest(**json.loads(self._fs.cat_file(path)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"manifest is unreadable ({error})",
                where=path,
                remedy="Delete this file and materialize the asset again.",
            ) from error

    def _is_whole(self, key: ArtifactKey, manifest: _Manifest) -> bool:
        folder = self._join(key, manifest.fingerprint)
        if self._local:
            return all(
                Path(folder, name).is_file() and Path(folder, name).stat().st_size == size
                for name, size in manifest.files.items()
            )
        try:
            found = self._fs.find(folder, detail=True)
        except FileNotFoundError:
            return False
        sizes = {p.rsplit(f"{manifest.fingerprint}/", 1)[1]: i["size"] for p, i in found.items()}
        return all(sizes.get(name) == size for name, size in manifest.files.items())

    def _artifact(self, key: ArtifactKey, manifest: _Manifest, *, cached: bool) -> Artifact:
        return Artifact(
            key=key,
            fingerprint=manifest.fingerprint,
            content=manifest.content,
            path=self._fetch(key, manifest),
            metadata=manifest.metadata,
            inputs=manifest.inputs,
            elapsed_s=manifest.elapsed_s,
            cached=cached,
        )

    def _fetch(self, key: ArtifactKey, manifest: _Manifest) -> Path:
        folder = self._join(key, manifest.fingerprint)
        if self._local:
            return Path(folder)
        if self._cache_dir is None:
            self._cache_dir = Path(tempfile.mkdtemp(prefix="ueloc-cache-"))
        target = self._cache_dir / str(key) / manifest.fingerprint
        if not target.exists():
            aside = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
            aside.parent.mkdir(parents=True, exist_ok=True)
            for name in manifest.files:
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(f"{folder}/{name}", str(aside / name))
            aside.replace(target)
        return target

    def _workspace(self, key: ArtifactKey) -> Path:
        if not self._local:
            return Path(tempfile.mkdtemp(prefix="ueloc-"))
        folder = Path(self._join(key, f".writing-{uuid.uuid4().hex[:8]}"))
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise StoreError(
                f"cannot create {folder} ({error.strerror})",
                where=self.url,
                remedy="Choose a store that can be written (UELOC_STORE).",
            ) from error
        return folder

    def _publish(self, key: ArtifactKey, workspace: Path, manifest: _Manifest) -> None:
        folder = self._join(key, manifest.fingerprint)
        text = json.dumps(asdict(manifest), indent=1, default=str)
        if self._local:
            if Path(folder).exists():  # damaged, or left by a run killed before the manifest
                shutil.rmtree(folder)
            workspace.rename(folder)
            aside = self._join(key, f".{MANIFEST}-{uuid.uuid4().hex[:8]}")
            Path(aside).write_text(text)
            Path(aside).replace(self._join(key, MANIFEST))
        else:
            for name in [*manifest.files, *_files(workspace, logs=True)]:
                self._fs.makedirs(f"{folder}/{name}".rsplit("/", 1)[0], exist_ok=True)
                self._fs.put_file(str(workspace / name), f"{folder}/{name}")
            self._fs.pipe_file(self._join(key, MANIFEST), text.encode())
        self._prune(key, manifest)

    def _prune(self, key: ArtifactKey, manifest: _Manifest) -> None:
        kept = {manifest.fingerprint, *manifest.previous}
        for path in self._fs.ls(self._join(key), detail=False):
            name = str(path).rstrip("/").rsplit("/", 1)[1]
            if not name.startswith(".") and name != MANIFEST and name not in kept:
                self._fs.rm(path, recursive=True)


def _files(folder: Path, *, logs: bool = False) -> list[str]:
    """Relative names of the files below a folder but `RUN_LOGS`, or of those in it."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [path.relative_to(folder) for path in found]
    return [name.as_posix() for name in names if (name.parts[0] == RUN_LOGS) == logs]


def _previous(manifest: _Manifest | None, fingerprint: str) -> list[str]:
    if manifest is None:
        return []
    names = [manifest.fingerprint, *manifest.previous]
    return [name for name in dict.fromkeys(names) if name != fingerprint][: _KEPT_VERSIONS - 1]


def with_metadata(artifact: Artifact, **extra: Any) -> Artifact:
    """A copy of an artifact with more metadata."""
    return replace(artifact, metadata={**artifact.metadata, **extra})
