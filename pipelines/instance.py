"""The Dagster instance of runs that are started from the command line."""

import os
import socket
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import sqlalchemy
from dagster._core.instance.ref import InstanceRef

from assets.resources import PROJECT_DIR

_OWNER_TAG = "ueloc/process"
_QUIET = {
    # the command line prints for itself, so nothing is captured
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    },
}


@contextmanager
def open_instance(home: Path | None = None) -> Iterator[dg.DagsterInstance]:
    """The instance of a folder: the one given, else ``DAGSTER_HOME``, else ``instance/``.

    It is the instance that ``make ui`` shows, except that the output of steps is not captured.
    """
    folder = home or Path(os.environ.get("DAGSTER_HOME") or PROJECT_DIR / "instance")
    folder.mkdir(parents=True, exist_ok=True)
    reference = InstanceRef.from_dir(str(folder.resolve()), overrides=_QUIET)
    with _swift_sqlite(), dg.DagsterInstance.from_ref(reference) as instance:
        yield instance


def owner_tags() -> dict[str, str]:
    """Tags that tell which process executes a run."""
    return {_OWNER_TAG: f"{socket.gethostname()}:{_process_key(psutil.Process())}"}


def recover_killed_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose process on this machine is gone, and free their pool slots.

    Without it, a run that was killed while it held the pool would block all that follow.

    Returns
    -------
    list
        Identities of the runs that were recovered.
    """
    filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    recovered = []
    for run in instance.get_runs(filters):
        host, _, process = run.tags.get(_OWNER_TAG, "").partition(":")
        if host != socket.gethostname() or _is_alive(process):
            continue
        instance.report_run_failed(run, "The process that executed this run is gone.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        recovered.append(run.run_id)
    return recovered


@contextmanager
def _swift_sqlite() -> Iterator[None]:
    """Spare SQLite the work that Dagster's connection for every event brings (half of a no-op).

    One connection to each database stays open, so that closing another one does not write back
    and delete the write-ahead log; and commits wait for the disk only when the log is written
    back. A power cut may lose the last events, never the database.
    """
    opened: Counter[str] = Counter()
    kept: list[sqlite3.Connection] = []

    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA synchronous = NORMAL")
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        opened[path] += 1
        if opened[path] == 2 and path:  # the first one creates the database
            kept.append(sqlite3.connect(path, check_same_thread=False))
            kept[-1].execute("SELECT count(*) FROM sqlite_master").fetchone()

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", on_connect)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", on_connect)
        for connection in kept:
            connection.close()


def _process_key(process: psutil.Process) -> str:
    return f"{process.pid}@{process.create_time():.0f}"


def _is_alive(key: str) -> bool:
    try:
        return _process_key(psutil.Process(int(key.partition("@")[0]))) == key
    except psutil.NoSuchProcess:
        return False
