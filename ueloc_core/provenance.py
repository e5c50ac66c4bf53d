"""Artifacts, their fingerprints and the store that keeps them: the one place where work is skipped.

A stage's *fingerprint* hashes its code version, its parameters and the content of what it
reads. The *content digest* hashes what it wrote. A stage that finds its fingerprint in the
store is not computed again; what reads it depends on the content digest alone, so a stage
that is computed again with the same result stops the propagation there.

A city that extends another borrows: where the other city holds the artifact of the same stage
and partition with the same fingerprint, its files are taken over instead of computed.

Layout below the root: ``<city>/<stage>/<partition>/<fingerprint>/...`` beside a
``current.json`` (the manifest) that is replaced in one step after its folder is complete. A
killed run leaves either the old or the new artifact. Nothing in a manifest names a machine.
Files of an artifact are never changed in place, so those of several cities may be one (hard
links).
"""

import errno
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ueloc_core.digests import RUN_LOGS, digest, digest_file, digest_folder, files_below
from ueloc_core.errors import StoreError

__all__ = [  # digests too: what is stored and what is read are told apart by them
    "MANIFEST", "RUN_LOGS", "TAKEN_OVER", "Artifact", "ArtifactKey", "Store", "digest",
    "digest_file", "digest_folder", "fingerprint_of", "with_metadata",
]  # fmt: skip

logger = logging.getLogger(__name__)

MANIFEST = "current.json"
TAKEN_OVER = "taken_over_from"
"""Metadata of an artifact that was not computed for its city: the city that held it."""

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
        Whether this call found it in the store, as the city's own or as one to take over.
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
    lenders
        Gives the cities whose artifacts a city may take over, the first one first; by default
        none.

    Raises
    ------
    StoreError
        If the URL is of no kind that fsspec knows, or its driver is not installed.
    """

    def __init__(
        self,
        url: str,
        cache_dir: Path | None = None,
        lenders: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> None:
        self.url = url
        self._lenders = lenders
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

        One that a lender holds is taken over; its metadata then says from whom (`TAKEN_OVER`).

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
        if (taken := self._take_over(key, fingerprint, manifest)) is not None:
            return taken
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
                files={name: (workspace / name).stat().st_size for name in files_below(workspace)},
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

    def _take_over(
        self, key: ArtifactKey, fingerprint: str, previous: _Manifest | None
    ) -> Artifact | None:
        """A lender's artifact of this fingerprint, from now on the city's own; None if none is."""
        for city in self._lenders(key.city):
            source = replace(key, city=city)
            try:
                held = self._manifest(source)
                if held is None or held.fingerprint != fingerprint:
                    continue
                if not self._is_whole(source, held):
                    raise StoreError("it is damaged", where=str(source))  # noqa: TRY301
                metadata = {**held.metadata, TAKEN_OVER: city}
                kept = _previous(previous, fingerprint)
                taken = replace(held, metadata=metadata, previous=kept)
                self._copy(source, key, taken)
            except (StoreError, OSError) as error:  # it can be computed as well
                logger.warning("%s is not taken over from %s: %s", key, city, error)
                continue
            logger.info("%s: taken over from %s", key, city)
            return self._artifact(key, taken, cached=True)
        return None

    def _copy(self, source: ArtifactKey, key: ArtifactKey, manifest: _Manifest) -> None:
        """Publish the files of one artifact as another, without a second copy where possible."""
        folder = self._join(source, manifest.fingerprint)
        if self._local:
            workspace = self._workspace(key)
            try:
                shutil.copytree(folder, workspace, copy_function=_link, dirs_exist_ok=True)
                self._place(key, workspace, manifest)
            finally:
                shutil.rmtree(workspace, ignore_errors=True)
        else:
            for path in self._fs.find(folder):
                name = path.rsplit(f"{manifest.fingerprint}/", 1)[1]
                target = self._join(key, manifest.fingerprint, name)
                self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
                self._fs.cp_file(path, target)
        if not self._is_whole(key, manifest):
            raise StoreError("its files went away in between", where=str(source))
        self._announce(key, manifest)

    def _publish(self, key: ArtifactKey, workspace: Path, manifest: _Manifest) -> None:
        self._place(key, workspace, manifest)
        self._announce(key, manifest)

    def _place(self, key: ArtifactKey, workspace: Path, manifest: _Manifest) -> None:
        """Bring complete files to where they belong."""
        folder = self._join(key, manifest.fingerprint)
        if self._local:
            if Path(folder).exists():  # damaged, or left by a run killed before the manifest
                shutil.rmtree(folder)
            workspace.rename(folder)
            return
        for name in [*manifest.files, *files_below(workspace, logs=True)]:
            self._fs.makedirs(f"{folder}/{name}".rsplit("/", 1)[0], exist_ok=True)
            self._fs.put_file(str(workspace / name), f"{folder}/{name}")

    def _announce(self, key: ArtifactKey, manifest: _Manifest) -> None:
        """Make the files that are there the current ones, in one step, and drop older ones."""
        text = json.dumps(asdict(manifest), indent=1, default=str)
        if self._local:
            aside = self._join(key, f".{MANIFEST}-{uuid.uuid4().hex[:8]}")
            Path(aside).write_text(text)
            Path(aside).replace(self._join(key, MANIFEST))
        else:
            self._fs.pipe_file(self._join(key, MANIFEST), text.encode())
        self._prune(key, manifest)

    def _prune(self, key: ArtifactKey, manifest: _Manifest) -> None:
        kept = {manifest.fingerprint, *manifest.previous}
        for path in self._fs.ls(self._join(key), detail=False):
            name = str(path).rstrip("/").rsplit("/", 1)[1]
            if not name.startswith(".") and name != MANIFEST and name not in kept:
                self._fs.rm(path, recursive=True)


def _link(source: str, target: str) -> None:
    """A second name of a file where the file system has such, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _previous(manifest: _Manifest | None, fingerprint: str) -> list[str]:
    if manifest is None:
        return []
    names = [manifest.fingerprint, *manifest.previous]
    return [name for name in dict.fromkeys(names) if name != fingerprint][: _KEPT_VERSIONS - 1]


def with_metadata(artifact: Artifact, **extra: Any) -> Artifact:
    """A copy of an artifact with more metadata."""
    return replace(artifact, metadata={**artifact.metadata, **extra})
