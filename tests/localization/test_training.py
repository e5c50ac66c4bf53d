"""The stage that trains: it learns, keeps its files in order, and its files can be read again."""

import json

import numpy as np
import pandas as pd
import pandera.errors
import pytest
import torch
from lightning.pytorch import Trainer
from made_up_training import CITY, MODEL, TRAIN, build, city_with, split_reports
from made_up_world import default_atlas
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ueloc_core.errors import ModelError
from ueloc_core.localization.curves_figure import panels
from ueloc_core.localization.losses import loss_terms
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.resume import ResumePoint
from ueloc_core.localization.samples import draw_batch
from ueloc_core.localization.schemas import HistorySchema
from ueloc_core.localization.training import (
    load_network,
    network_settings,
    predict,
    read_samples,
)
from ueloc_core.localization.windows import WindowReader
from ueloc_core.provenance import RUN_LOGS, digest_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reports():
    return split_reports()


@pytest.fixture(scope="module")
def reader():
    return WindowReader(default_atlas(), MODEL)


@pytest.fixture(scope="module")
def trained(reports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "model"
    return folder, *build(reports, folder)


def test_a_handful_of_reports_is_learned_by_heart(reader, reports):
    """Eight reports, fifty steps: from the whole window down to a few blocks."""
    torch.manual_seed(0)
    samples = read_samples(reader, reports, "train")
    inside = np.flatnonzero((np.abs(samples.truth_m) < 120).all(axis=1))[:8]
    network = PosteriorNetwork(12, 6)
    batch = draw_batch(reader, samples, inside)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(50):
        terms = loss_terms(network, batch, CITY.training, scored=True)
        optimiser.zero_grad()
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.append({name: float(value.detach()) for name, value in terms.items()})
    last = {name: np.mean([terms[name] for terms in losses[-10:]]) for name in losses[0]}
    assert last["nll"] < losses[0]["nll"] - 1.5
    assert last["coarse"] < losses[0]["coarse"] - 0.5


def test_the_same_seed_gives_the_same_files(trained, reports, tmp_path):
    """Bit by bit, whatever ran before; the logs, which hold times, do not count."""
    folder, metadata, history, _ = trained
    torch.manual_seed(99)
    again, _, _ = build(reports, tmp_path / "again")
    assert digest_folder(tmp_path / "again") == digest_folder(folder)
    assert (tmp_path / "again" / RUN_LOGS).is_dir()
    assert again["best_validation_nll_nats"] == metadata["best_validation_nll_nats"]
    _, other, _ = build(reports, tmp_path / "other", CITY.model_copy(update={"seed": 2}))
    assert not np.allclose(history.value, other.value)


def test_the_stage_writes_what_it_says(trained):
    folder, metadata, history, _ = trained
    HistorySchema.validate(history)
    assert sorted(history.epoch.unique()) == [-1, 0, 1]
    score = history[history.term == "nll"].value
    assert metadata["best_validation_nll_nats"] == score.min()
    assert metadata["best_epoch"] == int(score.to_numpy().argmin()) - 1
    assert metadata["train_reports"] == TRAIN
    assert metadata["validation_reports"] == 64 - TRAIN
    assert metadata["steps"] == 8
    assert metadata["terms"] == ["coarse", "fine", "physics"]
    assert metadata["train_samples_per_s"] > 0
    assert metadata["precision"] == "32-true" or torch.cuda.is_available()
    assert metadata["resumed_at_step"] == 0
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(metadata)) == metadata


def test_logs_hold_the_curves_of_the_history(trained):
    folder, metadata, history, _ = trained
    logs = EventAccumulator(str(folder / metadata["tensorboard"])).Reload()
    for (split, term), rows in history.groupby(["split", "term"]):
        logged = [event.value for event in logs.Scalars(f"{split}/{term}")]
        np.testing.assert_allclose(logged, rows.value, rtol=1e-6)
    assert "learning_rate" in logs.Tags()["scalars"]


def test_a_killed_stage_goes_on_and_logs_in_one_place(trained, reports, tmp_path):
    """Killed after the first of two epochs: the files are those of a run in one go."""
    folder, _, history, _ = trained
    point = ResumePoint(tmp_path / "scratch", "same")
    steps = Trainer.fit

    def fit(self, task, *loaders, **options):
        task.on_train_epoch_start = lambda: killed(self.current_epoch)
        steps(self, task, *loaders, **options)

    def killed(epoch):
        if epoch == 1:
            raise KeyError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", fit)
        with pytest.raises(KeyError, match="killed"):
            build(reports, tmp_path / "first", resume=point)
    metadata, again, told = build(reports, tmp_path / "second", resume=point)
    assert metadata["resumed_at_step"] == 4
    assert "going on at step 4" in told[0][2]
    pd.testing.assert_frame_equal(again, history, rtol=1e-6)
    weights, whole = (load_network(f).state_dict() for f in (tmp_path / "second", folder))
    for name, value in whole.items():
        torch.testing.assert_close(weights[name], value, atol=1e-6, rtol=1e-6)
    logs = EventAccumulator(str(tmp_path / "second" / RUN_LOGS)).Reload()
    assert [event.step for event in logs.Scalars("validation/nll")] == [0, 4, 8]
    assert not list((tmp_path / "scratch").iterdir())


def test_every_curve_is_its_own(trained):
    """A score that only repeats a term gets no panel; training reports have none."""
    history = trained[2]
    assert panels(history) == ["total", "coarse", "fine", "physics"]
    assert panels(history[history.term != "fine"]) == ["total", "coarse", "physics", "nll"]
    assert set(history[history.split == "train"].term) == {"total", "coarse", "fine", "physics"}
    value = history.set_index(["split", "epoch", "term"]).value.unstack()  # noqa: PD010
    np.testing.assert_allclose(value.nll["validation"], value.fine["validation"])
    weights = CITY.training
    total = weights.coarse_weight * value.coarse + weights.fine_weight * value.fine
    np.testing.assert_allclose(
        value.total, total + weights.physics_weight * value.physics, rtol=1e-6
    )


def test_a_history_with_a_curve_twice_is_refused(trained):
    history = trained[2]
    twice = pd.concat([history, history.iloc[:1]], ignore_index=True)
    of_training = history.assign(split="train")[history.term == "nll"]
    for wrong in (twice, of_training, history.assign(more=1)):
        with pytest.raises((pandera.errors.SchemaError, pandera.errors.SchemaErrors)):
            HistorySchema.validate(wrong)


def test_the_stored_network_is_the_best_one(trained, reader, reports):
    """Its NLL on the validation reports is the one that the history tells."""
    folder, metadata, _, _ = trained
    network = load_network(folder)
    assert not network.training
    assert sum(p.numel() for p in network.parameters()) == metadata["parameters"]
    samples = read_samples(reader, reports, "validation")
    total = 0.0
    for _, posterior, batch in predict(network, reader, samples):
        total -= float(posterior.log_density(batch.truth_m).sum())
    assert total / len(samples) == pytest.approx(metadata["best_validation_nll_nats"], rel=1e-4)


def test_prediction_keeps_the_order_in_any_batch_size(trained, reader, reports):
    network = load_network(trained[0])
    samples = read_samples(reader, reports, "validation")
    small, large = (
        torch.cat([p.log_mass for _, p, _ in predict(network, reader, samples, size)])
        for size in (5, 24)
    )
    torch.testing.assert_close(small, large, atol=1e-4, rtol=1e-4)


def test_a_missing_or_damaged_checkpoint_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"checkpoint\.pt"):
        load_network(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match=r"checkpoint\.pt"):
        load_network(tmp_path)
    torch.save({"network": {}, "settings": network_settings(CITY)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match=r"checkpoint\.pt"):
        load_network(tmp_path)


def test_a_network_that_runs_away_is_stopped(reports, tmp_path):
    with pytest.raises(ModelError, match="learning_rate"):
        build(reports, tmp_path / "wild", city_with(learning_rate=1e12, epochs=1))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_without_reports_is_named(reports, tmp_path, split):
    only = reports.assign(split=reports.split * 0 + (1 if split == "train" else 0))
    with pytest.raises(ModelError, match=f"no report is in the {split} split"):
        build(only, tmp_path / "none")
