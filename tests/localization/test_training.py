"""Training on a made-up world: it learns, repeats itself, and keeps its files in order."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_world import default_atlas, draw_reports, made_up_city

from ueloc_core.errors import ModelError
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.schemas import HistorySchema
from ueloc_core.localization.training import (
    _Trainer,
    build_posterior_model,
    load_network,
    network_settings,
    predict,
    read_samples,
)
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.dataset import to_dataset
from ueloc_core.measurement.model import MapError, MeasurementModel

pytestmark = pytest.mark.slow

ERROR = MapError(core_db=1.0, tail_logit=-3.0, tail_db=10.0, unhit_dbm=-135.0, unhit_db=8.0)
CITY = made_up_city(
    training={
        "epochs": 2,
        "batch_size": 8,
        "channels": 8,
        "components": 6,
        "reports_per_epoch": 48,
    }
)
MODEL = MeasurementModel(CITY.measurements, CITY.radio, ERROR)


@pytest.fixture(scope="module")
def reports():
    batch, x_m, y_m = draw_reports(default_atlas(), 96, seed=9)
    data = to_dataset(CITY, default_atlas(), batch, x_m, y_m, np.arange(96))
    data["split"] = ("report", np.where(np.arange(96) < 72, 0, 1).astype(np.int8))
    return data


@pytest.fixture(scope="module")
def reader():
    return WindowReader(default_atlas(), MODEL)


def train(reports, out, city=CITY):
    out.mkdir()
    (out / "map_error.json").write_text(json.dumps(ERROR.as_dict()))
    steps = []
    metadata = build_posterior_model(
        city, default_atlas(), reports, out, out, lambda *step: steps.append(step)
    )
    return metadata, pd.read_parquet(out / "history.parquet"), steps


@pytest.fixture(scope="module")
def trained(reports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "model"
    return folder, *train(reports, folder)


def test_a_handful_of_reports_is_learned_by_heart(reader, reports):
    """Eight reports, fifty steps: from the whole window down to a few blocks."""
    torch.manual_seed(0)
    samples = read_samples(reader, reports, "train")
    inside = np.flatnonzero((np.abs(samples.truth_m) < 120).all(axis=1))[:8]
    network = PosteriorNetwork(12, 6, CITY.grid.cell_m)
    trainer = _Trainer(CITY, network, reader, MODEL, torch.device("cpu"))
    batch = trainer._read(samples, inside, None)
    optimiser = torch.optim.AdamW(network.parameters(), 5e-3)
    losses = []
    for _ in range(50):
        terms = trainer._terms(batch)
        optimiser.zero_grad()
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        losses.append({name: float(value.detach()) for name, value in terms.items()})
    assert losses[-1]["nll"] < losses[0]["nll"] - 2
    assert losses[-1]["nll"] < 6.5  # ln(665 m2)
    assert losses[-1]["coarse"] < losses[0]["coarse"] - 1
    assert set(losses[0]) == {"total", "coarse", "fine", "physics", "nll"}
    expected = losses[0]["coarse"] + CITY.training.fine_weight * losses[0]["fine"]
    expected += CITY.training.physics_weight * losses[0]["physics"]
    assert losses[0]["total"] == pytest.approx(expected, rel=1e-5)


def test_training_is_reproducible(trained, reports, tmp_path):
    folder, metadata, history, _ = trained
    torch.manual_seed(99)  # what ran before must not matter
    again, repeated, _ = train(reports, tmp_path / "again")
    pd.testing.assert_frame_equal(history, repeated, rtol=1e-4)
    assert again["best_validation_nll_nats"] == pytest.approx(
        metadata["best_validation_nll_nats"], rel=1e-4
    )
    first, second = (load_network(f).state_dict() for f in (folder, tmp_path / "again"))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-4, rtol=1e-3)
    _, other, _ = train(reports, tmp_path / "other", CITY.model_copy(update={"seed": 2}))
    assert not np.allclose(history.value, other.value)


def test_the_stage_writes_what_it_says(trained):
    folder, metadata, history, _ = trained
    HistorySchema.validate(history)
    assert set(history.split) == {"train", "validation"}
    assert set(history.term) == {"total", "coarse", "fine", "physics", "nll"}
    assert sorted(history.epoch.unique()) == [0, 1]
    score = history[(history.split == "validation") & (history.term == "nll")].value
    assert metadata["best_validation_nll_nats"] == score.min()
    assert metadata["best_epoch"] == int(score.to_numpy().argmin())
    assert metadata["train_reports"] == 72
    assert metadata["validation_reports"] == 24
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


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
    assert total / len(samples) == pytest.approx(metadata["best_validation_nll_nats"], rel=1e-3)


def test_prediction_keeps_the_order_in_any_batch_size(trained, reader, reports):
    network = load_network(trained[0])
    samples = read_samples(reader, reports, "validation")
    small, large = (
        torch.cat([p.log_mass for _, p, _ in predict(network, reader, samples, size)])
        for size in (5, 24)
    )
    torch.testing.assert_close(small, large, atol=1e-4, rtol=1e-4)


def test_samples_are_those_of_the_split(reader, reports):
    assert len(read_samples(reader, reports, "train")) == 72
    assert len(read_samples(reader, reports, None)) == 96
    samples = read_samples(reader, reports, "validation")
    centre = reader.frames[int(samples.reports.sector[0, 0])].centre_m
    np.testing.assert_allclose(
        samples.truth_m[0] + centre, [float(reports.x_m[72]), float(reports.y_m[72])]
    )


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
    wild = CITY.training.model_copy(update={"learning_rate": 1e12, "epochs": 1})
    with pytest.raises(ModelError, match="learning_rate"):
        train(reports, tmp_path / "wild", CITY.model_copy(update={"training": wild}))
