"""The loop: what it draws, that a kill changes nothing, and what each setting does."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_training import CITY, city_with, run, split_reports, training_data
from pydantic import ValidationError

from ueloc_core.localization import losses, samples, trainer
from ueloc_core.localization.losses import coarse_loss, loss_terms
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.physics import physics_loss
from ueloc_core.localization.resume import ResumePoint
from ueloc_core.localization.samples import EpochOrder, ReadAhead, draw_batch
from ueloc_core.localization.windows import SYMMETRIES

TERMS = ("coarse", "fine", "physics")


@pytest.fixture(scope="module")
def data():
    return training_data(split_reports(scenarios={"nr_rsrp_only": 1.0}))  # quick to read


@pytest.fixture(scope="module")
def batch(data):
    return draw_batch(data.reader, data.train, np.arange(8))


@pytest.fixture
def network():
    torch.manual_seed(4)
    return PosteriorNetwork(8, 6)


# ---- what is drawn ----


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    per_epoch=st.integers(1, 70),
    seed=st.integers(0, 3),
)
def test_no_report_comes_twice_before_all_have_come(lengths, per_epoch, seed):
    track = np.repeat(np.arange(len(lengths)), lengths)
    order = EpochOrder(track, per_epoch, seed)
    drawn = np.concatenate([order.reports(epoch) for epoch in range(6)])
    for start in range(0, len(drawn), len(track)):
        part = drawn[start : start + len(track)]
        assert len(set(part.tolist())) == len(part)
    assert ((drawn >= 0) & (drawn < len(track))).all()


@settings(max_examples=40)
@given(lengths=st.lists(st.integers(1, 40), min_size=2, max_size=20), parts=st.integers(1, 6))
def test_each_epoch_holds_each_track_by_its_share(lengths, parts):
    """A stretch of an even spread holds its share of a track up to one report at either end."""
    track = np.repeat(np.arange(len(lengths)), lengths)
    per_epoch = max(1, len(track) // parts)
    order = EpochOrder(track, per_epoch, seed=0)
    keys = np.concatenate([order.reports(e) for e in range(len(track) // per_epoch)])
    for number, length in enumerate(lengths):
        places = np.flatnonzero(track[keys] == number)
        found = np.bincount(places // per_epoch, minlength=len(keys) // per_epoch)
        share = length * per_epoch / len(track)
        # within an epoch's span of keys every track has its share +-1, the span itself varies
        # by the rounding of all other tracks, one report each at most
        slack = 1 + (1 + len(lengths)) * length / len(track)
        assert (np.abs(found - share) <= slack + 1).all()


def test_draws_depend_on_seed_and_epoch_alone():
    track = np.repeat(np.arange(40), 5)
    first, second = EpochOrder(track, 60, 1), EpochOrder(track, 60, 1)
    assert (first.reports(3) == second.reports(3)).all()  # whatever was asked before
    assert (first.symmetries(2) == second.symmetries(2)).all()
    assert (first.reports(0) != EpochOrder(track, 60, 2).reports(0)).any()
    assert (first.symmetries(0) != first.symmetries(1)).any()
    turns = np.concatenate([first.symmetries(e) for e in range(40)])
    counts = np.bincount(turns, minlength=SYMMETRIES)
    expected = len(turns) / SYMMETRIES
    assert ((counts - expected) ** 2 / expected).sum() < 24.3  # chi-square, 7 dof, 0.1%


# ---- reading ahead ----


def test_batches_come_in_order_whatever_reads_first(monkeypatch):
    monkeypatch.setattr(samples, "reader_threads", lambda: 3)
    later = threading.Event()

    def read(number):
        if number % 3 == 0:  # a slow batch: those after it are ready first
            later.wait(0.05)
        return number

    position = iter([0, 8, 13])
    ahead = ReadAhead(read, 8, lambda: next(position))
    assert len(ahead) == 8
    assert list(ahead) == list(range(8))
    assert list(ahead) == list(range(8, 16))
    assert list(ahead) == [13, 14, 15]  # goes on within an epoch


def test_an_error_of_a_reading_thread_reaches_the_loop():
    def read(number):
        if number == 2:
            raise RuntimeError("window 2")
        return number

    got = []
    with pytest.raises(RuntimeError, match="window 2"):
        got.extend(ReadAhead(read, 5))
    assert got == [0, 1]


def test_reading_leaves_the_threads_of_the_caller_alone():
    before = torch.get_num_threads()
    inside = list(ReadAhead(lambda _: torch.get_num_threads(), 3))
    assert inside == [1, 1, 1]
    assert torch.get_num_threads() == before


# ---- the loss ----


@torch.no_grad()
def test_the_total_is_the_weighted_sum(network, batch):
    config = city_with(coarse_weight=0.5, fine_weight=2.0, physics_weight=0.25).training
    terms = loss_terms(network, batch, config, scored=True)
    posterior, coarse = network(batch)
    torch.testing.assert_close(terms["coarse"], coarse_loss(coarse, batch.truth_m, 4.0))
    torch.testing.assert_close(terms["fine"], -posterior.log_density(batch.truth_m).mean())
    torch.testing.assert_close(terms["physics"], physics_loss(posterior, batch))
    assert terms["nll"] is terms["fine"]
    expected = 0.5 * terms["coarse"] + 2.0 * terms["fine"] + 0.25 * terms["physics"]
    torch.testing.assert_close(terms["total"], expected)


@torch.no_grad()
@pytest.mark.parametrize("off", TERMS)
def test_a_term_of_weight_zero_is_not_computed(network, batch, monkeypatch, off):
    def refuse(*_):
        raise AssertionError(f"{off} was computed")

    function = {"coarse": "coarse_loss", "fine": "nll_loss", "physics": "physics_loss"}[off]
    monkeypatch.setattr(losses, function, refuse)
    terms = loss_terms(network, batch, city_with(**{f"{off}_weight": 0.0}).training)
    assert set(terms) == {"total", *TERMS} - {off}
    monkeypatch.undo()
    full = loss_terms(network, batch, CITY.training)
    for name in set(TERMS) - {off}:
        torch.testing.assert_close(terms[name], full[name])


@torch.no_grad()
def test_the_score_does_not_depend_on_the_weights(network, batch):
    config = city_with(fine_weight=0.0, physics_weight=0.0).training
    alone = loss_terms(network, batch, config, scored=True)
    full = loss_terms(network, batch, CITY.training, scored=True)
    assert set(alone) == {"coarse", "nll", "total"}
    torch.testing.assert_close(alone["nll"], full["nll"])


def test_a_loss_without_terms_is_refused():
    with pytest.raises(ValidationError, match="weights of the loss"):
        city_with(coarse_weight=0.0, fine_weight=0.0, physics_weight=0.0)


def test_precision_is_full_where_no_gpu_is(monkeypatch):
    config = CITY.training
    for cuda, bf16, name in (
        (False, False, "32-true"),
        (True, True, "bf16-mixed"),
        (True, False, "16-mixed"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda bf16=bf16: bf16)
        assert trainer.precision_of(config) == name
        assert trainer.precision_of(city_with(precision="full").training) == "32-true"


@torch.no_grad()
def test_terms_are_of_single_precision_in_mixed_runs(network, batch):
    """bfloat16 has 8 bits: the terms move by a percent or so, not by nats."""
    full = loss_terms(network, batch, CITY.training)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss_terms(network, batch, CITY.training)
    for name, value in mixed.items():
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(float(full[name]), abs=0.15), name


# ---- the average of the weights ----


@pytest.mark.parametrize("decay", [0.0, 0.99])
def test_what_is_kept_is_the_average(data, tmp_path, monkeypatch, decay):
    """After one epoch: the average of the weights after each step, the last ones at decay 0."""
    seen = []
    plain = trainer.MovingAverage.on_train_batch_end

    def watch(self, fit, task, *others):
        seen.append({n: v.detach().clone() for n, v in task.network.named_parameters()})
        plain(self, fit, task, *others)

    monkeypatch.setattr(trainer.MovingAverage, "on_train_batch_end", watch)
    kept = run(data, tmp_path, ema_decay=decay, epochs=1).weights
    assert len(seen) == 4
    expected = seen[0]
    for n, weights in enumerate(seen[1:], start=1):
        forget = min(decay, (1 + n) / (10 + n))
        expected = {k: forget * expected[k] + (1 - forget) * v for k, v in weights.items()}
    for name, value in expected.items():
        torch.testing.assert_close(kept[name], value, atol=1e-6, rtol=1e-5, msg=name)


# ---- kill and resume ----


class KilledError(Exception):
    """Stands for a kill."""


def killed(*_):
    raise KilledError


def same_result(first, second):
    assert first.weights.keys() == second.weights.keys()
    for name, value in first.weights.items():
        torch.testing.assert_close(second.weights[name], value, atol=1e-6, rtol=1e-6, msg=name)
    assert first.best_epoch == second.best_epoch
    assert [{**row, "value": 0} for row in first.history] == [
        {**row, "value": 0} for row in second.history
    ]
    values = [[row["value"] for row in run_.history] for run_ in (first, second)]
    np.testing.assert_allclose(*values, rtol=1e-6)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    return run(data, tmp_path_factory.mktemp("whole"), epochs=3)


def kill_at(monkeypatch, step):
    """Raise at the begin of a training step, counted from 0 over the run."""
    plain = trainer.PosteriorTask.training_step

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == step:
            raise KilledError
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(trainer.PosteriorTask, "training_step", training_step)


@pytest.mark.parametrize("every_s", [0.0, 1e9], ids=["each step", "each epoch"])
@pytest.mark.parametrize("step", [2, 4, 11])
def test_a_killed_run_ends_as_if_it_had_not_been(
    data, uninterrupted, tmp_path, monkeypatch, step, every_s
):
    """Four steps an epoch, three epochs: killed within one, at a seam, and before the end."""
    point = ResumePoint(tmp_path / "scratch", "same", every_s)
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(KilledError):
            run(data, tmp_path / "logs", resume=point, epochs=3)
    torch.manual_seed(123)  # what the next process happens to do first
    told = []
    again = run(data, tmp_path / "logs", resume=point, progress=lambda *s: told.append(s), epochs=3)
    assert again.resumed_at_step == (step if every_s == 0 else step // 4 * 4)
    if again.resumed_at_step:
        assert "going on at step" in told[0][2]
    same_result(uninterrupted, again)
    assert not point.path.exists()


def test_a_run_killed_twice(data, uninterrupted, tmp_path, monkeypatch):
    point = ResumePoint(tmp_path / "scratch", "same", 0.0)
    for step in (3, 9):
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            with pytest.raises(KilledError):
                run(data, tmp_path / "logs", resume=point, epochs=3)
    same_result(uninterrupted, run(data, tmp_path / "logs", resume=point, epochs=3))


def test_a_run_killed_after_its_last_epoch_only_ends(data, uninterrupted, tmp_path, monkeypatch):
    point = ResumePoint(tmp_path / "scratch", "same")
    with monkeypatch.context() as patch:
        patch.setattr(ResumePoint, "remove", killed)
        with pytest.raises(KilledError):
            run(data, tmp_path / "logs", resume=point, epochs=3)
    assert point.path.exists()
    kill_at(monkeypatch, 12)
    again = run(data, tmp_path / "logs", resume=point, epochs=3)
    assert again.resumed_at_step == 12
    same_result(uninterrupted, again)


@pytest.mark.parametrize("fault", ["other fingerprint", "truncated", "no checkpoint"])
def test_a_state_that_does_not_fit_is_ignored_and_told(
    data, uninterrupted, tmp_path, monkeypatch, caplog, fault
):
    point = ResumePoint(tmp_path / "scratch", "same", 0.0)
    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(KilledError):
            run(data, tmp_path / "logs", resume=point, epochs=3)
    reason = "damaged"
    if fault == "other fingerprint":
        point = ResumePoint(tmp_path / "scratch", "other")
        reason = "of another configuration"
    elif fault == "truncated":
        point.path.write_bytes(point.path.read_bytes()[:1000])
    else:
        torch.save({"weights": torch.zeros(3)}, point.path)
    told = []
    again = run(
        data, tmp_path / "logs", resume=point, progress=lambda *s: told.append(s[2]), epochs=3
    )
    assert "is ignored" in told[0]
    assert reason in told[0]
    assert reason in caplog.text
    assert again.resumed_at_step == 0
    same_result(uninterrupted, again)
