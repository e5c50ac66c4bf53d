"""What all stages share: how they are shown, pooled, automated, versioned and logged."""

import ast
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

Progress = Callable[[int, int, str], None]

CPU_POOL = "cpu"
"""Ray tracing and training use all cores each, so they share one pool and take turns."""

_LOG_EVERY_S = 5.0


def _on_change() -> dg.AutomationCondition[dg.AssetKey]:
    condition = dg.AutomationCondition
    changed = (
        condition.newly_missing()
        | condition.code_version_changed()
        | condition.any_deps_match(condition.data_version_changed() | condition.will_be_requested())
    ).since_last_handled()
    ready = (
        ~condition.any_deps_missing() & ~condition.any_deps_in_progress() & ~condition.in_progress()
    )
    return (changed & ready).with_label("on change")


ON_CHANGE = _on_change()
"""Asks for a partition when its code or the content of what it reads has changed."""


def stage(group: str, module: str, kinds: set[str], *, heavy: bool = False) -> dict[str, Any]:
    """Arguments of ``@dg.asset`` that follow from the stage.

    Parameters
    ----------
    group
        Group of the asset graph.
    module
        Module of `ueloc_core` that holds the stage's function and its ``CODE_VERSION``.
    kinds
        Tools and formats, shown as coloured tags.
    heavy
        Whether the stage uses all cores: then it waits for its turn in the pool.
    """
    return {
        "group_name": group,
        "kinds": kinds,
        "owners": ["team:localization"],
        "code_version": code_version(module),
        "automation_condition": ON_CHANGE,
        "pool": CPU_POOL if heavy else None,
    }


def code_version(module: str) -> str:
    """The ``CODE_VERSION`` of a module, read from its source: nothing heavy is imported.

    Raises
    ------
    AttributeError
        If the module does not define one as a plain string.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {module}")
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and getattr(node.targets[0], "id", "") == "CODE_VERSION"
            and isinstance(node.value, ast.Constant)
        ):
            return str(node.value.value)
    raise AttributeError(f"{spec.origin} defines no CODE_VERSION = '...'")


def log_progress(context: dg.AssetExecutionContext) -> Progress:
    """A callback (done, total, message) that logs, at most once in five seconds, and the end."""
    last_s = time.monotonic()

    def progress(done: int, total: int, message: str) -> None:
        nonlocal last_s
        if done >= total or time.monotonic() - last_s >= _LOG_EVERY_S:
            last_s = time.monotonic()
            context.log.info("%d/%d %s", done, total, message)

    return progress
