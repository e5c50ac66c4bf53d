"""The state of a training run on disk, so that a killed run goes on where it was."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from typing_extensions import override

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]

_FINGERPRINT, _RANDOM = "ueloc_fingerprint", "ueloc_random_state"


@dataclass(frozen=True)
class ResumePoint:
    """Where a run leaves its state.

    Attributes
    ----------
    folder
        Local folder that outlives a killed run; it need not exist.
    fingerprint
        Of all that the run's result depends on. The state of another one is not gone on with.
    every_s
        Longest time between two writes [s]; the end of an epoch is written too.
    """

    folder: Path
    fingerprint: str
    every_s: float = 120.0

    @property
    def path(self) -> Path:
        """The file of the state."""
        return self.folder / "resume.ckpt"

    def found(self, progress: Progress | None = None) -> dict[str, Any] | None:
        """The state that a killed run of the same fingerprint has left, else None.

        A file that is damaged or of another fingerprint is removed, and a warning and
        `progress` say so.
        """
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            step, fingerprint = int(state["global_step"]), state[_FINGERPRINT]
        except Exception as error:  # noqa: BLE001  (torch raises errors of many kinds)
            reason = f"it is damaged ({type(error).__name__})"
        else:
            if fingerprint == self.fingerprint:
                _say(f"going on at step {step} of a killed run", progress, step)
                return dict(state)
            reason = "it is of another configuration, code or input"
        _say(f"{self.path.name} of a killed run is ignored: {reason}", progress)
        self.remove()
        return None

    def remove(self) -> None:
        """Forget the state."""
        self.path.unlink(missing_ok=True)


class StateWriter(pl.Callback):
    """Writes the state of a run aside and moves it in place: at each epoch's end, and in between.

    It must come last of the callbacks, so that they have done their part of the step.
    """

    def __init__(self, point: ResumePoint) -> None:
        self._point = point
        self._last_s = time.monotonic()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last = batch_idx + 1 >= trainer.num_training_batches  # validation comes before the write
        if not last and time.monotonic() - self._last_s >= self._point.every_s:
            self._write(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        self._point.folder.mkdir(parents=True, exist_ok=True)
        aside = self._point.path.with_suffix(".writing")
        trainer.save_checkpoint(aside, weights_only=False)
        os.replace(aside, self._point.path)  # noqa: PTH105  (what is meant: in one step)
        self._last_s = time.monotonic()

    @override
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[_FINGERPRINT] = self._point.fingerprint
        checkpoint[_RANDOM] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint[_RANDOM]["cuda"] = torch.cuda.get_rng_state_all()

    @override
    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint[_RANDOM]["cpu"])
        if "cuda" in checkpoint[_RANDOM] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(checkpoint[_RANDOM]["cuda"])


def _say(message: str, progress: Progress | None, step: int = 0) -> None:
    logger.warning("training: %s", message)
    if progress is not None:
        progress(step, max(step, 1), message)
