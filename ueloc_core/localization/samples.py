"""Reports with their true positions: read, drawn epoch by epoch, and read ahead of their use."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.city import SPLITS
from ueloc_core.localization.windows import SYMMETRIES, WindowBatch, WindowReader
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.dataset import to_batch

Item = TypeVar("Item")
Result = TypeVar("Result")

_ORDER_STREAM, _SYMMETRY_STREAM, _TURN_STREAM = 7, 11, 13  # their random numbers stay apart
_MOST_READERS = 4


@dataclass(frozen=True)
class Samples:
    """Reports of one split with their true positions in the serving sectors' windows.

    Attributes
    ----------
    reports
        n reports.
    truth_m
        True positions [m], shape (n, 2).
    track
        Terminal of each report, shape (n,); by default each has sent one.
    """

    reports: ReportBatch
    truth_m: NDArray[np.float64]
    track: NDArray[np.int64] | None = None

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
    return Samples(batch, truth, reports.track.values)


@dataclass(frozen=True)
class EpochOrder:
    """Which reports each epoch reads, as a function of seed and epoch alone.

    The reports are dealt out in rounds: no report comes twice in a round, and every report
    comes. Within a round the reports of a track keep equal distances, so that each epoch
    holds as many tracks as it can, each by its share.

    Attributes
    ----------
    track
        Terminal of each report, shape (n,).
    per_epoch
        Reports an epoch.
    seed
        Seed.
    """

    track: NDArray[np.int64]
    per_epoch: int
    seed: int

    def reports(self, epoch: int) -> NDArray[np.int64]:
        """Positions of the reports of an epoch in order, shape (per_epoch,)."""
        count = len(self.track)
        place = np.arange(epoch * self.per_epoch, (epoch + 1) * self.per_epoch)
        drawn = np.empty(self.per_epoch, dtype=np.int64)
        for number in np.unique(place // count):
            own = place // count == number
            drawn[own] = self._round(int(number))[place[own] % count]
        return drawn

    def symmetries(self, epoch: int) -> NDArray[np.int64]:
        """A symmetry of the square for each report of an epoch, shape (per_epoch,)."""
        rng = np.random.default_rng([self.seed, _SYMMETRY_STREAM, epoch])
        return rng.integers(SYMMETRIES, size=self.per_epoch)

    def _round(self, number: int) -> NDArray[np.int64]:
        """All reports, each once."""
        rng = np.random.default_rng([self.seed, _ORDER_STREAM, number])
        _, track, length = np.unique(self.track, return_inverse=True, return_counts=True)
        by_track = np.lexsort((rng.random(len(track)), track))
        first = np.cumsum(length) - length
        rank = np.arange(len(track)) - np.repeat(first, length)
        start = np.repeat(rng.random(len(length)), length)
        return by_track[np.argsort((rank + start) / np.repeat(length, length), kind="stable")]


def turns(
    reports: Sequence[int], batches: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which city each batch of a run is of, as a function of the seed alone.

    Each takes its turn at equal distances, as often as its share of the reports asks for.

    Parameters
    ----------
    reports
        Training reports of each city, at least one.
    batches
        Batches of the run.
    seed
        Seed.

    Returns
    -------
    tuple
        Index of each batch's city, and how many batches of that city come before it, shapes
        (batches,). A longer run begins with the same ones.
    """
    share = np.asarray(reports) / sum(reports)
    start = np.random.default_rng([seed, _TURN_STREAM]).random(len(share))
    many = [np.arange(int(np.ceil((batches + len(share)) * s)) + 2) for s in share]
    time = np.concatenate([(k + u) / s for k, u, s in zip(many, start, share, strict=True)])
    city = np.repeat(np.arange(len(share)), [len(k) for k in many])
    number = np.concatenate(many)
    order = np.argsort(time, kind="stable")[:batches]
    return city[order], number[order]


def draw_batch(
    reader: WindowReader,
    samples: Samples,
    chosen: NDArray[np.int64],
    symmetry: NDArray[np.int64] | None = None,
) -> WindowBatch:
    """Chosen samples in their windows."""
    reports = samples.reports[torch.from_numpy(chosen)]
    return reader.read(reports, samples.truth_m[chosen], symmetry)


class ReadAhead:
    """Batches in their order, read by threads while the previous ones are computed on.

    What is read does not depend on how many threads read it. Each of them computes on one core.

    Parameters
    ----------
    read
        Gives the batch of a number, counted from 0 over all epochs. It is called from threads.
    per_epoch
        Batches an epoch.
    position
        Number of the batch that comes next when an epoch begins or goes on; a multiple of
        `per_epoch` at its begin. The epoch ends at the next multiple.
    """

    def __init__(
        self,
        read: Callable[[int], WindowBatch],
        per_epoch: int,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        self._read, self._per_epoch, self._position = read, per_epoch, position

    def __len__(self) -> int:
        return self._per_epoch

    def __iter__(self) -> Iterator[WindowBatch]:
        first = self._position()
        numbers = range(first, (first // self._per_epoch + 1) * self._per_epoch)
        yield from in_order(self._read, numbers, reader_threads())

    def state_dict(self) -> dict[str, int]:
        """Nothing: where it goes on follows from `position`. Lightning asks for it."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to load."""


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Results of work on items, in their order, made ahead by threads of one core each."""
    pool = ThreadPoolExecutor(threads, "ahead", torch.set_num_threads, (1,))
    try:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def reader_threads() -> int:
    """Threads that read: one of two cores, four at most."""
    return max(1, min(_MOST_READERS, available_cores() // 2))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
