"""The training loop, on Lightning: one task, its curves, its average of the weights."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from ueloc_core.city_sections import TrainingConfig
from ueloc_core.errors import ModelError
from ueloc_core.localization.losses import loss_terms
from ueloc_core.localization.resume import Progress, ResumePoint, StateWriter
from ueloc_core.localization.samples import (
    EpochOrder,
    ReadAhead,
    Samples,
    draw_batch,
    turns,
)
from ueloc_core.localization.windows import WindowBatch, WindowReader

BEFORE = -1
"""Epoch of the network that has learned nothing."""

_WARM_UP_SHARE = 0.05
_SEED_STEP = 7919  # between the seeds of the cities' orders
_TELL_EVERY = 25  # steps between two messages and two points of the TensorBoard curves


class PosteriorTask(pl.LightningModule):
    """What is learned: the network's loss, optimiser and learning rate.

    Parameters
    ----------
    network
        The network; trained in place.
    config
        Weights of the terms, learning rate, precision.
    steps
        Steps of the whole run, for the one-cycle learning rate.
    """

    def __init__(self, network: nn.Module, config: TrainingConfig, steps: int) -> None:
        super().__init__()
        self.network, self.config, self.steps = network, config, steps

    @override
    def training_step(self, batch: WindowBatch, batch_idx: int) -> dict[str, Tensor]:
        """The terms of a batch; ``loss`` is their weighted sum."""
        terms = loss_terms(self.network, batch, self.config)
        return {"loss": terms["total"], **{k: v.detach() for k, v in terms.items()}}

    @override
    def validation_step(self, batch: WindowBatch, batch_idx: int) -> dict[str, Tensor]:
        """The terms of a batch and its negative log-density."""
        return loss_terms(self.network, batch, self.config, scored=True)

    @override
    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle learning rate."""
        config = self.config
        optimiser = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, config.learning_rate, total_steps=self.steps, pct_start=_WARM_UP_SHARE
        )
        schedule_every_step = {"scheduler": schedule, "interval": "step"}
        return {"optimizer": optimiser, "lr_scheduler": schedule_every_step}


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights; validation sees it instead of the weights.

    The forgetting factor grows with the number n of averaged steps, (1 + n) / (10 + n) up to
    `decay`: a constant one would keep the random start for long.
    """

    def __init__(self, decay: float) -> None:
        def update(average: Any, current: Any, count: Any) -> None:
            steps = float(count)
            forget = 1 - min(decay, (1 + steps) / (10 + steps))
            torch._foreach_lerp_(average, current, forget)

        super().__init__(multi_avg_fn=torch.no_grad()(update))


class Curves(pl.Callback):
    """Means of the terms over each epoch, and the best weights by validation NLL.

    The network before any training counts as epoch `BEFORE`.

    It must come before `MovingAverage`, which puts the plain weights back at the end of a
    validation.
    """

    def __init__(self, steps: int, progress: Progress | None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.best_score, self.best_epoch = float("inf"), BEFORE
        self.best: dict[str, Tensor] = {}
        self.samples, self.seconds = 0, 0.0
        self._steps, self._progress = steps, progress
        self._sums: dict[str, dict[str, float]] = {"train": {}, "validation": {}}
        self._counts = {"train": 0, "validation": 0}
        self._started_s = 0.0

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        self._started_s = self._started_s or time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        terms = {name: float(v) for name, v in outputs.items() if name != "loss"}
        self._add("train", terms, len(batch))
        self.samples += len(batch)
        now_s = time.perf_counter()
        self.seconds, self._started_s = self.seconds + now_s - self._started_s, now_s
        done = trainer.global_step
        if done % _TELL_EVERY == 0:
            self._log(trainer, {f"step/{k}": v for k, v in terms.items()})
            if self._progress is not None:
                mean = self._sums["train"]["total"] / self._counts["train"]
                message = f"epoch {trainer.current_epoch}: loss {mean:.3f}"
                self._progress(done, self._steps, message)

    @override
    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._add("validation", {name: float(v) for name, v in outputs.items()}, len(batch))

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking and self.rows:  # the run goes on: it has been judged before
            self._sums["validation"], self._counts["validation"] = {}, 0
            return
        epoch = BEFORE if trainer.sanity_checking else trainer.current_epoch
        logged: dict[str, float] = {}
        means: dict[str, float] = {}
        for split, sums in self._sums.items():
            if not self._counts[split]:
                continue  # nothing has been learned from yet
            means = {name: value / self._counts[split] for name, value in sums.items()}
            self.rows += [
                {"epoch": epoch, "split": split, "term": name, "value": value}
                for name, value in means.items()
            ]
            logged |= {f"{split}/{name}": value for name, value in means.items()}
            self._sums[split], self._counts[split] = {}, 0
        self._log(trainer, logged)
        self._started_s = 0.0  # the time of a validation is not a step's
        if means["nll"] < self.best_score:
            self.best_score, self.best_epoch = means["nll"], epoch
            weights = pl_module.network.state_dict()
            self.best = {name: _plain(value) for name, value in weights.items()}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "best": self.best,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "sums": self._sums,
            "counts": self._counts,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.best = state_dict["rows"], state_dict["best"]
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
        self._sums, self._counts = state_dict["sums"], state_dict["counts"]

    def _add(self, split: str, terms: dict[str, float], count: int) -> None:
        sums = self._sums[split]
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + count * value
        self._counts[split] += count

    def _log(self, trainer: pl.Trainer, values: dict[str, float]) -> None:
        assert trainer.logger is not None
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        trainer.logger.log_metrics({**values, "learning_rate": rate}, trainer.global_step)


@dataclass(frozen=True)
class TrainingData:
    """What a run reads of a city: windows of its training and of its validation reports."""

    reader: WindowReader
    train: Samples
    validation: Samples

    def drawn(self, batch_size: int, block: int, seed: int) -> Callable[[int], WindowBatch]:
        """The training batch of a number, counted from 0; `block` of them are drawn at once."""
        track = np.arange(len(self.train)) if self.train.track is None else self.train.track
        order = EpochOrder(track, block * batch_size, seed)
        of_block = lru_cache(maxsize=2)(lambda b: (order.reports(b), order.symmetries(b)))

        def read(number: int) -> WindowBatch:
            own, place = divmod(number, block)
            part = slice(place * batch_size, (place + 1) * batch_size)
            chosen, symmetry = (values[part] for values in of_block(own))
            return draw_batch(self.reader, self.train, chosen, symmetry)

        return read


@dataclass(frozen=True)
class TrainedNetwork:
    """What a run gives.

    Attributes
    ----------
    weights
        Averaged weights of the best epoch by validation NLL, those of the start among them.
    history
        Rows of `HistorySchema`.
    best_nll_nats, best_epoch
        That epoch and its score.
    samples_per_s
        Training reports read and learned from in a second [1/s], validations not counted; NaN
        if this process made no step.
    precision
        Lightning's name of it.
    resumed_at_step
        Step at which a killed run was gone on with, 0 for a run from the start.
    """

    weights: dict[str, Tensor]
    history: list[dict[str, Any]] = field(repr=False)
    best_nll_nats: float
    best_epoch: int
    samples_per_s: float
    precision: str
    resumed_at_step: int


def train_network(
    task: PosteriorTask,
    data: Sequence[TrainingData],
    *,
    seed: int,
    logs: Path,
    progress: Progress | None = None,
    resume: ResumePoint | None = None,
) -> TrainedNetwork:
    """Train a network.

    Parameters
    ----------
    task
        What is learned; its `steps` are those of `steps_of`.
    data
        What it is learned from, by city. A batch is of one city; the cities take turns in
        proportion to their training reports, and all are validated.
    seed
        Of the order of the reports and their symmetries.
    logs
        Folder of the TensorBoard logs; emptied when the run starts anew.
    progress
        Called with (steps done, steps, message).
    resume
        Where the state is kept; by default nowhere. It is removed when the run is done.

    Raises
    ------
    ModelError
        If the loss is no number.
    """
    config = task.config
    state = None if resume is None else resume.found(progress)
    start = int(state["global_step"]) if state is not None else 0
    if not start:
        shutil.rmtree(logs, ignore_errors=True)
    curves = Curves(task.steps, progress)
    callbacks: list[pl.Callback] = [curves, MovingAverage(config.ema_decay)]
    if resume is not None:
        callbacks.append(StateWriter(resume))
    precision = precision_of(config)
    with _quiet():
        trainer = pl.Trainer(
            accelerator="auto" if torch.cuda.is_available() else "cpu",
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            max_epochs=config.epochs,
            gradient_clip_val=config.clip_norm,
            num_sanity_val_steps=-1,  # what the network knows before it learns is a candidate too
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=callbacks,
            default_root_dir=logs,
            logger=TensorBoardLogger(logs, name="", version="", purge_step=start + 1),
        )
        loaders = _loaders(task, data, seed, trainer)
        path = None if state is None or resume is None else str(resume.path)
        trainer.fit(task, *loaders, ckpt_path=path, weights_only=True)
    if not curves.best:
        raise ModelError(
            "no epoch has a validation NLL that is a number",
            where="training",
            remedy="Lower training.learning_rate.",
        )
    if resume is not None:
        resume.remove()
    return TrainedNetwork(
        weights=curves.best,
        history=curves.rows,
        best_nll_nats=curves.best_score,
        best_epoch=curves.best_epoch,
        samples_per_s=curves.samples / curves.seconds if curves.samples else float("nan"),
        precision=precision,
        resumed_at_step=start,
    )


def steps_of(config: TrainingConfig, reports: int) -> int:
    """Steps of a run on so many training reports."""
    return config.epochs * max(1, min(config.reports_per_epoch, reports) // config.batch_size)


def precision_of(config: TrainingConfig) -> str:
    """Lightning's name of the precision on this machine."""
    if config.precision == "full" or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def _loaders(
    task: PosteriorTask, data: Sequence[TrainingData], seed: int, trainer: pl.Trainer
) -> tuple[ReadAhead, ReadAhead]:
    config, device = task.config, trainer.strategy.root_device
    per_epoch = task.steps // config.epochs
    reports = [len(one.train) for one in data]
    size = min(config.batch_size, sum(reports))
    city, turn = turns(reports, task.steps + per_epoch, seed)
    seeds = [seed, *(seed + _SEED_STEP * k for k in range(1, len(data)))]
    drawn = [one.drawn(size, per_epoch, s) for one, s in zip(data, seeds, strict=True)]
    held_back = _held_back(data, config.validation_reports, size)

    def read_train(number: int) -> WindowBatch:
        return drawn[int(city[number])](int(turn[number])).to(device)

    def read_validation(number: int) -> WindowBatch:
        one, chosen = held_back[number]
        return draw_batch(one.reader, one.validation, chosen).to(device)

    return (
        ReadAhead(read_train, per_epoch, lambda: trainer.global_step),
        ReadAhead(read_validation, len(held_back)),
    )


def _held_back(
    data: Sequence[TrainingData], most: int, size: int
) -> list[tuple[TrainingData, NDArray[np.int64]]]:
    """An even choice of the validation reports of all cities, in batches of one city each."""
    last = np.cumsum([len(one.validation) for one in data])
    chosen = np.linspace(0, last[-1] - 1, min(most, int(last[-1]))).astype(np.int64)
    own = np.searchsorted(last, chosen, side="right")
    batches = []
    for k, one in enumerate(data):
        mine = chosen[own == k] - (last[k] - len(one.validation))
        batches += [(one, mine[i : i + size]) for i in range(0, len(mine), size)]
    return batches


def _plain(value: Tensor) -> Tensor:
    """A copy on the CPU, in the usual order of dimensions."""
    return value.detach().to("cpu", copy=True).contiguous()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from telling what machine it found."""
    talker = logging.getLogger("lightning.pytorch")
    before = talker.level
    talker.setLevel(logging.WARNING)
    try:
        yield
    finally:
        talker.setLevel(before)
