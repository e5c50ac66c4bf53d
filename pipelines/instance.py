"""The Dagster instance of runs that are started from the command line."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster._core.instance.config import dagster_instance_config
from dagster._core.instance.ref import InstanceRef

from assets.resources import PROJECT_DIR

_OWNER_TAG = "ueloc/process"
_NO_CAPTURE = {
    # the command line prints for itself
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    },
}
_STORAGES = ("storage", "event_log_storage", "run_storage")


@contextmanager
def open_instance(home: Path | None = None) -> Iterator[dg.DagsterInstance]:
    """The instance of a folder: the one given, else ``DAGSTER_HOME``, else ``instance/``.

    It is the instance that ``make ui`` shows, except that the output of steps is not captured.
    """
    folder = home or Path(os.environ.get("DAGSTER_HOME") or PROJECT_DIR / "instance")
    folder.mkdir(parents=True, exist_ok=True)
    overrides = _NO_CAPTURE | _open_storages(folder.resolve())
    reference = InstanceRef.from_dir(str(folder.resolve()), overrides=overrides)
    with dg.DagsterInstance.from_ref(reference) as instance:
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


def _open_storages(folder: Path) -> dict[str, Any]:
    """Settings that keep SQLite's connections open, unless ``dagster.yaml`` names a storage."""
    config, _ = dagster_instance_config(str(folder))
    if any(key in config for key in _STORAGES):
        return {}
    module = "pipelines.sqlite_storage"
    history = folder / "history"
    events = {"base_dir": str(history / "runs")}
    return {
        "event_log_storage": {"module": module, "class": "OpenEventLogStorage", "config": events},
        "run_storage": {
            "module": module,
            "class": "OpenRunStorage",
            "config": {"base_dir": str(history)},
        },
    }


def _process_key(process: psutil.Process) -> str:
    return f"{process.pid}@{process.create_time():.0f}"


def _is_alive(key: str) -> bool:
    try:
        return _process_key(psutil.Process(int(key.partition("@")[0]))) == key
    except psutil.NoSuchProcess:
        return False
