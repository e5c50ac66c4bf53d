"""A LocUNet-like rival: a UNet that paints a heatmap, whose centre of mass is the estimate.

After Yapar et al., "LocUNet: Fast Urban Positioning Using Radio Maps and Deep Learning" (2022,
arXiv 2202.00738): maps of the sectors' RSRP, the reported levels as constant planes, where the
sectors stand, and the map of buildings go in; the loss is the mean distance of the centroid from
the terminal. What differs: any number of sectors (their planes pass through one shared stem and
are summed, so their order never matters), the timing advance as a constant plane, and a size
for two cores. It works on the half-resolution grid of the windows.

The heatmap is a means to a point, not a posterior: nothing in the loss asks that its mass be
where terminals are. Its score as a density would only say how far that goes.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ueloc_core.city import City
from ueloc_core.errors import ModelError
from ueloc_core.localization.rasters import HalfRasters, turned
from ueloc_core.localization.training import Samples
from ueloc_core.localization.windows import SYMMETRIES, WindowBatch, WindowReader

Progress = Callable[[int, int, str], None]

LEARNING_RATE = 3e-3
"""Peak of the one-cycle schedule."""

_STEM = 16
_WIDTHS = (16, 24, 32, 64)  # at 1, 1/2, 1/4 and 1/8 of the half resolution
_SECTOR_PLANES, _COMMON_PLANES = 5, 5
_OFFSET, _DISTANCE, _TIMING = slice(9, 11), 11, slice(20, 22)  # features of `WindowBatch.tokens`
_MIDDLE_DBM, _SCALE_DB = -90.0, 20.0
_HEIGHT_SCALE_M = 30.0
_MOST_VALIDATION = 400
_CLIP_NORM = 5.0
_WARM_UP_SHARE = 0.1
_SEED = 15  # of drawing reports, beside the city's


class LocUNet(nn.Module):
    """From a `WindowBatch` to a heatmap over the window, and its centroid.

    Parameters
    ----------
    cell_m
        Side of a grid cell at full resolution [m].
    """

    def __init__(self, cell_m: float) -> None:
        super().__init__()
        self.cell_m = cell_m
        self.stem = nn.Sequential(
            nn.Conv2d(_SECTOR_PLANES, _STEM, 3, padding=1), nn.ReLU(), nn.Conv2d(_STEM, _STEM, 1)
        )
        inward = (_STEM + _COMMON_PLANES, *_WIDTHS[:-1])
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip(inward, _WIDTHS, strict=True))
        self.up = nn.ModuleList(
            _Block(deep + skip, skip)
            for skip, deep in zip(_WIDTHS[-2::-1], _WIDTHS[:0:-1], strict=True)
        )
        self.heat = nn.Conv2d(_WIDTHS[0], 1, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, batch: WindowBatch) -> Tensor:
        """Logarithm of the heatmap, shape (report, n/2, n/2); its exponential sums to one."""
        planes = self._planes(batch)
        rows, columns = planes.shape[-2:]
        step = 2 ** (len(_WIDTHS) - 1)
        padding = (0, -columns % step, 0, -rows % step)
        value = nn.functional.pad(planes, padding, mode="replicate") if any(padding) else planes
        kept = []
        for depth, block in enumerate(self.down):
            value = block(nn.functional.max_pool2d(value, 2) if depth else value)
            kept.append(value)
        for block, skip in zip(self.up, reversed(kept[:-1]), strict=True):
            value = block(torch.cat([nn.functional.interpolate(value, scale_factor=2), skip], 1))
        logit: Tensor = turned(self.heat(value)[:, 0, :rows, :columns], batch.symmetry, back=True)
        return torch.log_softmax(logit.flatten(1), dim=1).reshape(logit.shape)

    def centroid(self, log_heat: Tensor) -> Tensor:
        """Centre of mass [m] of heatmaps from the window's centre, shape (report, 2)."""
        rows, columns = log_heat.shape[-2:]
        mass = log_heat.exp()
        return torch.stack(
            [
                mass.sum(dim=1) @ self._axis_m(columns, mass.device),
                mass.sum(dim=2) @ self._axis_m(rows, mass.device),
            ],
            dim=1,
        )

    @torch.no_grad()
    def locate(self, batch: WindowBatch) -> Tensor:
        """Estimated positions [m] from the windows' centres, shape (report, 2)."""
        return self.centroid(self(batch))

    @torch.no_grad()
    def heatmap(self, batch: WindowBatch) -> Tensor:
        """Heatmaps on the half-resolution grid, shape (report, n/2, n/2); each sums to one."""
        log_heat: Tensor = self(batch)
        return log_heat.exp()

    def save(self, path: Path) -> None:
        """Write the weights and what they need."""
        torch.save({"weights": self.state_dict(), "cell_m": self.cell_m}, path)

    @classmethod
    def load(cls, path: Path) -> "LocUNet":
        """A saved network, in evaluation mode.

        Raises
        ------
        ModelError
            If the file is missing or unreadable.
        """
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            network = cls(stored["cell_m"])
            network.load_state_dict(stored["weights"])
        except Exception as error:
            raise ModelError(
                f"LocUNet cannot be read ({error})", where=str(path), remedy="Train it again."
            ) from error
        return network.eval()

    def _axis_m(self, count: int, device: torch.device) -> Tensor:
        return (torch.arange(count, device=device) + 0.5 - count / 2) * 2 * self.cell_m

    def _planes(self, batch: WindowBatch) -> Tensor:
        """Input planes (report, plane, n/2, n/2): the sectors' through the stem, the others."""
        rasters = HalfRasters.of(batch)
        mapped = rasters.rsrp_dbm
        count, slots, rows, columns = mapped.shape
        hit = ~mapped.isnan()
        unit = torch.linspace(-1 + 1 / columns, 1 - 1 / columns, columns, device=mapped.device)
        offset = batch.tokens[:, :, _OFFSET, None, None]
        distance = torch.hypot(unit - offset[:, :, 0], unit[:rows, None] - offset[:, :, 1])
        level = (batch.reports.level_dbm.nan_to_num(0.0) - _MIDDLE_DBM) / _SCALE_DB
        serving = torch.zeros(slots, device=mapped.device)
        serving[0] = 1.0
        planes = [
            torch.where(hit, (mapped.nan_to_num(0.0) - _MIDDLE_DBM) / _SCALE_DB, -2.0),
            level[:, :, None, None].expand_as(mapped),
            hit.float(),
            distance,
            serving[:, None, None].expand_as(mapped),
        ]
        of_sector = torch.stack(planes, dim=2)[batch.present]
        # few channels over many cells: this layout is three times as fast on a CPU
        found = self.stem(of_sector.contiguous(memory_format=torch.channels_last))
        report = torch.nonzero(batch.present)[:, 0]
        summed = found.new_zeros(count, _STEM, rows, columns).index_add(0, report, found)
        timing = batch.tokens[:, 0, _TIMING, None, None].expand(-1, -1, rows, columns)
        height = rasters.height_m[:, None] / _HEIGHT_SCALE_M
        whole = torch.cat(
            [summed, height, rasters.outdoor[:, None], distance[:, :1], timing], dim=1
        )
        return whole.contiguous(memory_format=torch.channels_last)


class _Block(nn.Module):
    """Two convolutions of a UNet."""

    def __init__(self, inward: int, outward: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inward, outward, 3, padding=1),
            nn.GroupNorm(4, outward),
            nn.ReLU(),
            nn.Conv2d(outward, outward, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, value: Tensor) -> Tensor:
        return self.layers(value)  # type: ignore[no-any-return]


def train_locunet(
    city: City,
    reader: WindowReader,
    train: Samples,
    validation: Samples,
    progress: Progress | None = None,
) -> tuple[LocUNet, pd.DataFrame]:
    """Train on reports in random symmetries of their windows, the loss being the mean distance.

    The budget is that of the posterior network, ``training.epochs`` of
    ``training.reports_per_epoch`` reports in batches of ``training.batch_size``, or as many
    epochs of ``evaluation.locunet_reports`` reports together. A step takes
    about 0.1 s of one core a report (window of 256 grid cells, eight sectors heard).

    Parameters
    ----------
    city
        Budget and seed.
    reader
        Cuts the windows.
    train, validation
        Reports with known positions.
    progress
        Called with (epochs done, epochs, message).

    Returns
    -------
    tuple
        The network of the epoch with the least mean distance on (at most 400) validation
        reports, in evaluation mode, and its history: columns epoch, split and distance_m.

    Raises
    ------
    ModelError
        If the loss is not finite.
    """
    config = city.training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(city.seed)
        network = LocUNet(city.grid.cell_m).to(device)
    rng = np.random.default_rng([city.seed, _SEED])
    given = city.evaluation.locunet_reports
    wanted = config.reports_per_epoch if given is None else max(1, given // config.epochs)
    per_epoch = min(wanted, len(train))
    steps = max(1, per_epoch // config.batch_size) * config.epochs
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=steps, pct_start=_WARM_UP_SHARE
    )
    rows: list[dict[str, int | str | float]] = []
    least, best = np.inf, network.state_dict()
    for epoch in range(config.epochs):
        network.train()
        losses = []
        for batch in _drawn(reader, train, per_epoch, config.batch_size, rng):
            loss = distance_loss(network, batch.to(device))
            if not torch.isfinite(loss):
                raise ModelError(
                    f"the loss is {float(loss.detach())}",
                    where=f"{city.name}: LocUNet",
                    remedy="Look for reports without a true position.",
                )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), _CLIP_NORM)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        score = _validate(network, reader, validation, config.batch_size, device)
        rows.append({"epoch": epoch, "split": "train", "distance_m": float(np.mean(losses))})
        rows.append({"epoch": epoch, "split": "validation", "distance_m": score})
        if score < least:
            least = score
            best = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
        if progress is not None:
            progress(epoch + 1, config.epochs, f"LocUNet: {score:.1f} m on validation reports")
    network.load_state_dict(best)
    return network.cpu().eval(), pd.DataFrame(rows)


def distance_loss(network: LocUNet, batch: WindowBatch) -> Tensor:
    """Mean distance [m] of the centroids from the true positions."""
    offset = network.centroid(network(batch)) - batch.truth_m
    return ((offset**2).sum(dim=1) + 1e-6).sqrt().mean()  # smooth at zero


def _drawn(
    reader: WindowReader, samples: Samples, count: int, size: int, rng: np.random.Generator
) -> Iterator[WindowBatch]:
    order = rng.permutation(len(samples))[:count]
    for start in range(0, max(1, len(order) - size + 1), size):
        chosen = order[start : start + size]
        yield _read(reader, samples, chosen, rng.integers(SYMMETRIES, size=len(chosen)))


def _read(
    reader: WindowReader,
    samples: Samples,
    chosen: NDArray[np.int64],
    symmetry: NDArray[np.int64] | None,
) -> WindowBatch:
    reports = samples.reports[torch.from_numpy(chosen)]
    return reader.read(reports, samples.truth_m[chosen], symmetry)


@torch.no_grad()
def _validate(
    network: LocUNet, reader: WindowReader, samples: Samples, size: int, device: torch.device
) -> float:
    network.eval()
    chosen = np.linspace(0, len(samples) - 1, min(_MOST_VALIDATION, len(samples))).astype(int)
    total = 0.0
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        batch = _read(reader, samples, part, None).to(device)
        total += float(distance_loss(network, batch)) * len(part)
    return total / len(chosen)
