"""Progress of a command-line run: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

import dagster as dg
from tqdm import tqdm

_LINE_EVERY_S = 10.0
_MESSAGE_WIDTH = 60


class Progress:
    """Counts finished steps and shows what the assets log.

    Attributes
    ----------
    logger
        The Dagster logger that feeds it.

    Parameters
    ----------
    total
        Number of steps.
    quiet
        Show nothing.
    """

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self._done = 0
        self._total = total
        self._quiet = quiet
        self._on_terminal = sys.stderr.isatty()
        self._bar: tqdm[None] | None = None
        self._last_line_s = time.monotonic()
        self.logger = _logger_for(self)

    def __enter__(self) -> Self:
        if self._on_terminal and not self._quiet:
            form = "{percentage:3.0f}%|{bar:30}| {n_fmt}/{total_fmt} [{elapsed}] {desc}"
            self._bar = tqdm(total=self._total, bar_format=form)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, stage: str, partition_key: str) -> None:
        """Count one finished step."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(1)
        self._show(f"{stage} {partition_key}", at_once=self._done == self._total)

    def message(self, stage: str, partition_key: str, text: str) -> None:
        """Show what a step says while it works."""
        self._show(f"{stage} {partition_key}: {text}", at_once=False)

    def _show(self, text: str, *, at_once: bool) -> None:
        if self._bar is not None:
            self._bar.set_description_str(text[:_MESSAGE_WIDTH])
        elif not self._quiet:
            now_s = time.monotonic()
            if at_once or now_s - self._last_line_s >= _LINE_EVERY_S:
                self._last_line_s = now_s
                print(f"[{self._done}/{self._total}] {text}", file=sys.stderr, flush=True)


class _Handler(logging.Handler):
    """Passes Dagster's log records on to a `Progress`."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        meta = record.dagster_meta  # type: ignore[attr-defined]
        event = meta["dagster_event"]
        stage = meta["step_key"] or ""
        partition_key = meta["job_tags"].get("dagster/partition", "")
        if event is None:
            if record.levelno >= logging.INFO:
                self._progress.message(stage, partition_key, meta["orig_message"])
        elif event.event_type == dg.DagsterEventType.STEP_SUCCESS:
            self._progress.step(stage, partition_key)


def _logger_for(progress: Progress) -> dg.LoggerDefinition:
    @dg.logger(description="Feeds the command line's progress.")
    def progress_logger(_context: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.getLogger("ueloc.progress")
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        logger.handlers = [_Handler(progress)]
        return logger

    return progress_logger
