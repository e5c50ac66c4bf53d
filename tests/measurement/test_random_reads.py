"""Random reads: a permutation of the store, near enough to a uniform one, and resumable."""

import shutil
import threading

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ueloc_core.errors import ReportError, StoreError
from ueloc_core.measurement import dataset
from ueloc_core.measurement.dataset import complete, load_reports, write_reports
from ueloc_core.measurement.random_reads import RandomReads

CHUNK = 64
COUNT = 40 * CHUNK + 17
READ = ("track", "x_m", "rsrp_code", "rt_path_gain_db")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store of 41 chunks in the order of ``track``; x_m grows along it."""
    rng = np.random.default_rng(5)
    code = np.full((COUNT, 8), -1, np.int16)
    code[:, 0] = rng.integers(20, 100, COUNT)
    sector = np.zeros((COUNT, 8), np.int64)
    sector[:, 0] = 7
    gain = np.full((COUNT, 8), np.nan, np.float32)
    gain[:, 0] = -code[:, 0]
    reports = complete(
        xr.Dataset(
            {
                "sector_id": (("report", "slot"), sector),
                "rsrp_code": (("report", "slot"), code),
                "rt_path_gain_db": (("report", "slot"), gain),
                "x_m": ("report", 1000.0 * np.arange(COUNT)),
                "y_m": ("report", np.zeros(COUNT)),
            }
        )
    )
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "CHUNK", CHUNK)
        write_reports(reports, folder)
    return folder


def tracks(batches):
    return [b.track.values.tolist() for b in batches]


def joined(lists):
    return [track for one in lists for track in one]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    batch_size=st.integers(20, 3000),
    window=st.integers(1, 50),
)
def test_every_report_comes_exactly_once(stored, seed, batch_size, window):
    reads = RandomReads(stored, READ, batch_size, seed=seed, window_chunks=window)
    batches = tracks(reads.epoch(0))
    assert sorted(joined(batches)) == list(range(COUNT))
    assert {len(b) for b in batches[:-1]} <= {batch_size}
    assert 1 <= len(batches[-1]) <= batch_size
    assert len(batches) == len(reads)
    assert joined(batches) == reads.order(0).tolist()


def test_batches_hold_what_the_store_holds(stored):
    whole = load_reports(stored, READ)
    for batch in RandomReads(stored, READ, 100, seed=1).epoch(0):
        assert tuple(batch.data_vars) == READ
        xr.testing.assert_identical(batch, whole.isel(report=batch.track.values))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.001, 0.1, 0.9]))
def test_only_the_wanted_reports_come(stored, seed, share):
    wanted = np.random.default_rng(seed).random(COUNT) < share
    reads = RandomReads(stored, READ, 50, seed=seed, where=wanted, window_chunks=4)
    found = joined(tracks(reads.epoch(3)))
    assert sorted(found) == np.flatnonzero(wanted).tolist()
    assert reads.reports == wanted.sum()


def test_chunks_without_a_wanted_report_are_not_read(stored, monkeypatch):
    wanted = np.zeros(COUNT, dtype=bool)
    wanted[3 * CHUNK : 5 * CHUNK] = True
    reads = RandomReads(stored, READ, 50, seed=0, where=wanted, window_chunks=1)
    read = []
    whole = reads._read
    monkeypatch.setattr(reads, "_read", lambda w: read.extend(w.chunks.tolist()) or whole(w))
    list(reads.epoch(0))
    assert sorted(read) == [3, 4]


def test_the_order_follows_from_seed_and_epoch(stored):
    def order(seed, epoch):
        reads = RandomReads(stored, READ, 64, seed=seed, window_chunks=4)
        return joined(tracks(reads.epoch(epoch)))

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


@pytest.mark.parametrize("first", [0, 1, 7, 26, 100])
def test_an_epoch_goes_on_where_it_was_cut_off(stored, first, monkeypatch):
    reads = RandomReads(stored, READ, 100, seed=4, window_chunks=4)
    assert len(reads) == 26
    whole = tracks(reads.epoch(2))
    read = []
    inner = reads._read
    monkeypatch.setattr(reads, "_read", lambda w: read.append(w) or inner(w))
    assert tracks(reads.epoch(2, first_batch=first)) == whole[first:]
    # a window holds two batches and a half: what lies wholly before the first batch is not read
    assert len(read) <= 11 - int(first * 100 / (4 * CHUNK)) if first < 26 else not read


def test_neighbours_in_an_epoch_are_hardly_related(stored):
    """The store is sorted, so the rank correlation of neighbours there is 1.

    The 8 chunks of a window share a mean: about an eighth of the variance is left between windows.
    """
    reads = RandomReads(stored, READ, 64, seed=9)
    correlations = [stats.spearmanr(o[1:], o[:-1])[0] for o in map(reads.order, range(20))]
    assert abs(np.mean(correlations) - 1 / 8) < 0.05


def test_within_a_window_every_order_is_equally_likely(stored):
    """Where all chunks fit into one window: chi-square of the first report over 10 parts."""
    reads = RandomReads(stored, READ, 64, seed=3, window_chunks=50)
    first = np.array([reads.order(epoch)[0] for epoch in range(400)])
    counts = np.histogram(first, bins=10, range=(0, COUNT))[0]
    assert stats.chisquare(counts).pvalue > 1e-3
    lags = [stats.spearmanr(o[1:], o[:-1])[0] for o in map(reads.order, range(50))]
    # standard deviation of a rank correlation: 1 / sqrt(n - 1); z of the mean of 50
    assert abs(np.mean(lags)) * np.sqrt(50 * (COUNT - 2)) < 4


def test_each_chunk_may_come_anywhere(stored):
    reads = RandomReads(stored, READ, 64, seed=8, window_chunks=1)
    orders = [reads.order(epoch) // CHUNK for epoch in range(410)]
    for place in (0, COUNT // 2, COUNT - 1):
        counts = np.bincount([order[place] for order in orders], minlength=41)
        assert stats.chisquare(counts).pvalue > 1e-3  # ten a chunk


def test_leaving_an_epoch_early_leaves_no_thread(stored):
    before = threading.active_count()
    epoch = RandomReads(stored, READ, 32, seed=0, window_chunks=2).epoch(0)
    next(epoch)
    epoch.close()
    assert threading.active_count() == before


def test_a_corrupt_chunk_names_its_store(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "copy")
    (tmp_path / "copy" / "reports.zarr" / "x_m" / "c" / "11").write_bytes(b"none")
    reads = RandomReads(tmp_path / "copy", READ, 64, seed=0)
    with pytest.raises(StoreError, match=r"reports\.zarr"):
        list(reads.epoch(0))


def test_what_does_not_fit_is_refused(stored):
    with pytest.raises(ReportError, match="mask of shape"):
        RandomReads(stored, READ, 64, seed=0, where=np.ones(5, dtype=bool))
    with pytest.raises(ReportError, match="batches of 0"):
        RandomReads(stored, READ, 0, seed=0)
    with pytest.raises(ReportError, match="0 variables"):
        RandomReads(stored, (), 64, seed=0)
    with pytest.raises(StoreError, match="no colour"):
        RandomReads(stored, ("colour",), 64, seed=0)
