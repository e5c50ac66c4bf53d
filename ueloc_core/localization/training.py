"""Training: L = L_coarse + fine_weight L_fine + physics_weight L_phys."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ueloc_core.city import SPLITS, City
from ueloc_core.errors import ModelError
from ueloc_core.grid import BLOCK_CELLS
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.physics import physics_loss
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.schemas import HistorySchema
from ueloc_core.localization.windows import SYMMETRIES, WindowBatch, WindowReader
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.dataset import to_batch
from ueloc_core.measurement.map_error import load_map_error
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.radio.atlas import MapAtlas

CODE_VERSION = "2"

Progress = Callable[[int, int, str], None]

_MAX_VALIDATION = 400
_CLIP_NORM = 5.0
_WARM_UP_SHARE = 0.05
_PROGRESS_EVERY = 25


@dataclass(frozen=True)
class Samples:
    """Reports of one split with their true positions in the serving sectors' windows.

    Attributes
    ----------
    reports
        n reports.
    truth_m
        True positions [m], shape (n, 2).
    """

    reports: ReportBatch
    truth_m: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.reports)


def read_samples(reader: WindowReader, reports: xr.Dataset, split: str | None) -> Samples:
    """Reports of a split (all of them for None) as samples."""
    if split is not None:
        reports = reports.isel(report=reports.split.values == SPLITS.index(split))
    batch = to_batch(reports, reader.atlas)
    truth = reader.frame_positions(
        batch.sector[:, 0].numpy(), reports.x_m.values, reports.y_m.values
    )
    return Samples(batch, truth)


def build_posterior_model(
    city: City,
    atlas: MapAtlas,
    reports: xr.Dataset,
    map_error_folder: Path,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the network; write ``checkpoint.pt``, ``history.parquet`` and ``curves.png``.

    Parameters
    ----------
    city
        Training settings and seed.
    atlas
        The twin's radio maps.
    reports
        The city's measurement set.
    map_error_folder
        Folder of the fitted map error.
    out
        Folder to write to.
    progress
        Called with (steps done, steps, message).
    """
    config = city.training
    torch.manual_seed(city.seed)
    model = MeasurementModel(city.measurements, city.radio, load_map_error(map_error_folder))
    reader = WindowReader(atlas, model)
    train = read_samples(reader, reports, "train")
    validation = read_samples(reader, reports, "validation")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = PosteriorNetwork(config.channels, config.components, city.grid.cell_m).to(device)
    trainer = _Trainer(city, network, reader, model, device)
    history, best = trainer.fit(train, validation, progress)
    torch.save({"network": best, "settings": network_settings(city)}, out / "checkpoint.pt")
    table = HistorySchema.validate(pd.DataFrame(history))
    table.to_parquet(out / "history.parquet", index=False)
    _draw_curves(table, out / "curves.png")
    score = table[(table.split == "validation") & (table.term == "nll")].value
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "train_reports": len(train),
        "validation_reports": len(validation),
        "epochs": config.epochs,
        "best_validation_nll_nats": float(score.min()),
        "best_epoch": int(score.to_numpy().argmin()),
        "device": device.type,
    }


def network_settings(city: City) -> dict[str, Any]:
    """What a checkpoint must agree on with the city that it is used in."""
    return {
        "channels": city.training.channels,
        "components": city.training.components,
        "cell_m": city.grid.cell_m,
    }


def load_network(folder: Path) -> PosteriorNetwork:
    """The trained network of a model folder, in evaluation mode.

    Raises
    ------
    ModelError
        If the checkpoint is missing or unreadable.
    """
    path = folder / "checkpoint.pt"
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        network = PosteriorNetwork(**stored["settings"])
        network.load_state_dict(stored["network"])
    except Exception as error:
        raise ModelError(
            f"checkpoint cannot be read ({error})",
            where=str(path),
            remedy="Materialize posterior_model again.",
        ) from error
    return network.eval()


def coarse_loss(coarse: Tensor, truth_m: Tensor, cell_m: float) -> Tensor:
    """Cross-entropy of the block that holds the truth (the last class is beyond the window)."""
    blocks = coarse.shape[1] - 1
    side = round(blocks**0.5)
    block_m = BLOCK_CELLS * cell_m
    index = ((truth_m + side * block_m / 2) / block_m).floor().long()
    inside = ((index >= 0) & (index < side)).all(dim=1)
    target = torch.where(inside, index[:, 1] * side + index[:, 0], blocks)
    return torch.nn.functional.nll_loss(coarse, target)


class _Trainer:
    """The training loop: seeded draws, one-cycle learning rate, best epoch by validation NLL."""

    def __init__(
        self,
        city: City,
        network: PosteriorNetwork,
        reader: WindowReader,
        model: MeasurementModel,
        device: torch.device,
    ) -> None:
        self.name = city.name
        self.config = city.training
        self.network, self.reader, self.model, self.device = network, reader, model, device
        self.rng = np.random.default_rng([city.seed, 7])

    def fit(
        self, train: Samples, validation: Samples, progress: Progress | None
    ) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Train; returns the history's rows and the best state."""
        config = self.config
        per_epoch = min(config.reports_per_epoch, len(train))
        steps = max(1, per_epoch // config.batch_size) * config.epochs
        optimiser = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, config.learning_rate, total_steps=steps, pct_start=_WARM_UP_SHARE
        )
        history: list[dict[str, Any]] = []
        best_score, best, done = np.inf, {}, 0
        for epoch in range(config.epochs):
            sums: dict[str, list[float]] = {}
            self.network.train()
            for batch in self._draw(train, per_epoch):
                terms = self._terms(batch)
                optimiser.zero_grad()
                terms["total"].backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP_NORM)
                optimiser.step()
                schedule.step()
                done += 1
                for name, value in terms.items():
                    sums.setdefault(name, []).append(float(value.detach()))
                if progress is not None and done % _PROGRESS_EVERY == 0:
                    progress(done, steps, f"epoch {epoch}: loss {np.mean(sums['total']):.3f}")
            history += _rows(epoch, "train", {k: float(np.mean(v)) for k, v in sums.items()})
            scores = self._validate(validation)
            history += _rows(epoch, "validation", scores)
            if scores["nll"] < best_score:
                best_score = scores["nll"]
                best = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
        return history, best

    def _draw(self, samples: Samples, count: int) -> Iterator[WindowBatch]:
        order = self.rng.permutation(len(samples))[:count]
        size = self.config.batch_size
        for start in range(0, max(1, len(order) - size + 1), size):
            chosen = order[start : start + size]
            turn = self.rng.integers(SYMMETRIES, size=len(chosen))
            yield self._read(samples, chosen, turn)

    def _read(
        self, samples: Samples, chosen: NDArray[np.int64], turn: NDArray[np.int64] | None
    ) -> WindowBatch:
        reports = samples.reports[torch.from_numpy(chosen)]
        return self.reader.read(reports, samples.truth_m[chosen], turn).to(self.device)

    def _terms(self, batch: WindowBatch) -> dict[str, Tensor]:
        config = self.config
        posterior, coarse = self.network(batch)
        nll = -posterior.log_density(batch.truth_m).mean()
        if not torch.isfinite(nll):
            raise ModelError(
                f"the loss is {float(nll.detach())}",
                where=f"{self.name}: training",
                remedy="Lower training.learning_rate.",
            )
        terms = {"coarse": coarse_loss(coarse, batch.truth_m, posterior.cell_m), "fine": nll}
        total = terms["coarse"] + config.fine_weight * nll
        if config.physics_weight > 0:
            terms["physics"] = physics_loss(posterior, batch, self.model)
            total = total + config.physics_weight * terms["physics"]
        return {**terms, "nll": nll, "total": total}

    @torch.no_grad()
    def _validate(self, samples: Samples) -> dict[str, float]:
        self.network.eval()
        chosen = np.linspace(0, len(samples) - 1, min(_MAX_VALIDATION, len(samples))).astype(int)
        sums: dict[str, float] = {}
        for start in range(0, len(chosen), self.config.batch_size):
            part = chosen[start : start + self.config.batch_size]
            for name, value in self._terms(self._read(samples, part, None)).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(part)
        return {name: value / len(chosen) for name, value in sums.items()}


def _rows(epoch: int, split: str, terms: dict[str, float]) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "split": split, "term": k, "value": v} for k, v in terms.items()]


@torch.no_grad()
def predict(
    network: PosteriorNetwork, reader: WindowReader, samples: Samples, batch_size: int = 16
) -> Iterator[tuple[slice, Posterior, WindowBatch]]:
    """Posteriors of samples in batches, in their order."""
    for start in range(0, len(samples), batch_size):
        part = slice(start, min(start + batch_size, len(samples)))
        batch = reader.read(samples.reports[part], samples.truth_m[part])
        posterior, _ = network(batch)
        yield part, posterior, batch


def _draw_curves(history: pd.DataFrame, path: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(6, 3), dpi=80, layout="constrained")
    axes = figure.add_subplot()
    for (split, term), rows in history.groupby(["split", "term"]):
        if term != "total":
            axes.plot(
                rows.epoch, rows.value, "-" if split == "train" else "--", label=f"{split} {term}"
            )
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats")
    axes.legend(fontsize=6)
    figure.savefig(path, metadata={"Software": None})
