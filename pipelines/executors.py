"""How the steps of a run are executed: chosen by configuration, unknown to the assets."""

import os

import dagster as dg

from ueloc_core.errors import UelocError

VARIABLE = "UELOC_EXECUTOR"
_CONCURRENT_STEPS = 2


def build_executor(name: str | None = None) -> dg.ExecutorDefinition:
    """The executor of a name; by default the one that ``UELOC_EXECUTOR`` names.

    ``multiprocess`` (the default) gives each step a process of its own, two at a time;
    ``in_process`` runs step after step.

    Raises
    ------
    UelocError
        If there is no such executor.
    """
    executors = {
        "multiprocess": dg.multiprocess_executor.configured(
            {
                "max_concurrent": _CONCURRENT_STEPS,
                "start_method": {"forkserver": {"preload_modules": ["pipelines.definitions"]}},
            }
        ),
        "in_process": dg.in_process_executor,
    }
    chosen = name or os.environ.get(VARIABLE) or "multiprocess"
    if chosen not in executors:
        raise UelocError(
            f"unknown executor '{chosen}'",
            where=VARIABLE,
            remedy=f"Allowed: {', '.join(executors)}.",
        )
    return executors[chosen]
