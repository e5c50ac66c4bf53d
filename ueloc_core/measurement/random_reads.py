"""Batches of reports in random order, straight from the store.

An epoch reads the chunks of a store in random order, `WINDOW_CHUNKS` of them at a time, and
shuffles the reports of such a window; the next window is read ahead in a thread. So memory holds
two windows, whatever the size of the store.

How random: each chunk is equally likely to stand anywhere in an epoch, and within a window every
order is equally likely. Reports of different chunks are as far apart as in a full shuffle. Those of
one chunk always meet in one window, so two of them share a batch with a probability of
(batch - 1) / (window - 1) in place of (batch - 1) / (reports - 1). A measurement set stores the
tracks of each split in random order (`ueloc_core.measurement.splits`), so that what meets in a
window is a random sample of the split anyway: only the reports of one track are closer than in a
full shuffle. In a store whose order means something (a tile's measurements), a window of few chunks
is a sample of few places; a store of at most `WINDOW_CHUNKS` chunks is shuffled fully.
"""

from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.errors import ReportError, StoreError
from ueloc_core.measurement.dataset import STORE, open_reports, typed

WINDOW_CHUNKS = 8
"""Chunks that are shuffled together."""

_STREAM = 9  # of the seed: draws of this module


@dataclass(frozen=True)
class _Window:
    """Chunks that are shuffled together: their numbers, and which reports of them in what order."""

    chunks: NDArray[np.int64]
    rows: NDArray[np.int64]


class RandomReads:
    """Reads a store in random batches; every report exactly once an epoch.

    The order is a function of the seed and the epoch alone, so that training can go on at
    (epoch, batch) where it was cut off.

    Parameters
    ----------
    folder
        Where `write_reports` wrote ``reports.zarr``.
    variables
        The variables to read.
    batch_size
        Reports in a batch; the last one of an epoch may have fewer.
    seed
        Of the order.
    where
        Which reports to read, shape (report,); all by default.
    window_chunks
        Chunks that are shuffled together.

    Raises
    ------
    StoreError
        If the store is missing or corrupt, or has no such variable.
    ReportError
        If `where` does not fit the store.
    """

    def __init__(
        self,
        folder: Path,
        variables: Collection[str],
        batch_size: int,
        *,
        seed: int,
        where: NDArray[np.bool_] | None = None,
        window_chunks: int = WINDOW_CHUNKS,
    ) -> None:
        if batch_size < 1 or window_chunks < 1 or not variables:
            raise ReportError(
                f"{len(variables)} variables in batches of {batch_size}, {window_chunks} chunks "
                "together: each must be one at least"
            )
        self._path = folder / STORE
        self._reports = open_reports(folder, variables)
        count = int(self._reports.sizes["report"])
        self._where = np.ones(count, dtype=bool) if where is None else np.asarray(where, dtype=bool)
        if self._where.shape != (count,):
            raise ReportError(
                f"a mask of shape {self._where.shape} for {count} reports", where=str(self._path)
            )
        self.batch_size, self.seed = batch_size, seed
        self._window_chunks = window_chunks
        first = self._reports[next(iter(variables))]
        self._chunk = max(1, int(first.encoding["chunks"][0]))
        starts = np.arange(0, count, self._chunk)
        self._counts = (
            np.add.reduceat(self._where.astype(np.int64), starts) if count else np.zeros(0, int)
        )

    @property
    def reports(self) -> int:
        """Reports in an epoch."""
        return int(self._counts.sum())

    def __len__(self) -> int:
        """Batches in an epoch."""
        return (self.reports + self.batch_size - 1) // self.batch_size

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Positions in the store of an epoch's reports, in the order in which they come."""
        windows = [self._window(epoch, k, c) for k, c in enumerate(self._chunks(epoch))]
        return np.concatenate([np.zeros(0, dtype=np.int64), *(w.rows for w in windows)])

    def epoch(self, number: int, first_batch: int = 0) -> Iterator[xr.Dataset]:
        """Batches of an epoch, dims as in the store.

        Parameters
        ----------
        number
            The epoch; each has another order.
        first_batch
            Batches to skip, without reading what only they need.

        Raises
        ------
        StoreError
            If a chunk cannot be read.
        """
        chunks = self._chunks(number)
        sizes = np.array([self._counts[c].sum() for c in chunks], dtype=np.int64)
        skip = first_batch * self.batch_size
        first = int(np.searchsorted(np.cumsum(sizes), skip, side="right"))
        skip -= int(sizes[:first].sum())
        rest: xr.Dataset | None = None
        for window in self._read_ahead(number, chunks, first):
            ready = window.isel(report=slice(skip, None))
            skip = 0
            if rest is not None and rest.sizes["report"]:
                ready = xr.concat([rest, ready], dim="report", combine_attrs="override")
            whole = ready.sizes["report"] // self.batch_size * self.batch_size
            for start in range(0, whole, self.batch_size):
                yield ready.isel(report=slice(start, start + self.batch_size))
            rest = ready.isel(report=slice(whole, None))
        if rest is not None and rest.sizes["report"]:
            yield rest

    def _read_ahead(
        self, epoch: int, chunks: list[NDArray[np.int64]], first: int
    ) -> Iterator[xr.Dataset]:
        """The windows from the first on, the next one always being read."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reports") as reader:
            coming: Future[xr.Dataset] | None = None
            for k in range(first, len(chunks)):
                current = coming or reader.submit(self._read, self._window(epoch, k, chunks[k]))
                if k + 1 < len(chunks):
                    following = self._window(epoch, k + 1, chunks[k + 1])
                    coming = reader.submit(self._read, following)
                yield current.result()

    def _chunks(self, epoch: int) -> list[NDArray[np.int64]]:
        """Chunks of each window of an epoch; those without a wanted report are left out."""
        rng = np.random.default_rng([self.seed, _STREAM, epoch])
        order = rng.permutation(np.flatnonzero(self._counts))
        return [
            order[k : k + self._window_chunks] for k in range(0, len(order), self._window_chunks)
        ]

    def _window(self, epoch: int, number: int, chunks: NDArray[np.int64]) -> _Window:
        rng = np.random.default_rng([self.seed, _STREAM, epoch, number])
        rows = [self._wanted(c) + c * self._chunk for c in chunks]
        return _Window(chunks, rng.permutation(np.concatenate(rows)))

    def _wanted(self, chunk: int) -> NDArray[np.int64]:
        """Positions in a chunk of the reports to read."""
        return np.flatnonzero(self._where[self._span(chunk)])

    def _span(self, chunk: int) -> slice:
        return slice(int(chunk) * self._chunk, (int(chunk) + 1) * self._chunk)

    def _read(self, window: _Window) -> xr.Dataset:
        """The window's reports in its order."""
        chunks = np.sort(window.chunks)
        try:
            parts = [
                self._reports.isel(report=self._span(c)).load().isel(report=self._wanted(c))
                for c in chunks
            ]
        except Exception as error:
            raise StoreError(
                f"reports cannot be read ({error})",
                where=str(self._path),
                remedy="Materialize the measurements again.",
            ) from error
        together = xr.concat(parts, dim="report", combine_attrs="override")
        held = np.sort(window.rows)
        return typed(together.isel(report=np.searchsorted(held, window.rows)))
