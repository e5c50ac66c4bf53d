"""Training on several cities: whose turn it is, and that all of them are learned from."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_training import (
    CITY,
    ERROR,
    MODEL,
    REPORTS,
    TRAIN,
    city_with,
    run,
    split_reports,
    training_data,
)
from made_up_world import build_atlas, default_atlas, draw_dataset, made_up_city

from ueloc_core.errors import ModelError
from ueloc_core.localization import trainer
from ueloc_core.localization.resume import ResumePoint
from ueloc_core.localization.samples import read_samples, turns
from ueloc_core.localization.trainer import TrainingData
from ueloc_core.localization.training import build_posterior_model
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.city_reports import CityReports

FEW = 16  # reports of the second city: half train, half validate


@pytest.fixture(scope="module")
def second():
    """Another city: other sectors, other maps, fewer reports."""
    atlas = build_atlas(made_up_city(name="second"), seed=7)
    reports = draw_dataset(atlas, FEW, seed=8, scenarios={"nr_rsrp_only": 1.0})
    split = (np.arange(FEW) % 2).astype("int8")
    return CityReports(atlas.city, atlas, reports.assign(split=("report", split)))


@pytest.fixture(scope="module")
def data(second):
    reader = WindowReader(second.atlas, MODEL)
    parts = (read_samples(reader, second.reports, name) for name in ("train", "validation"))
    first = training_data(split_reports(scenarios={"nr_rsrp_only": 1.0}))
    return [first, TrainingData(reader, *parts)]


# ---- whose turn it is ----

COUNTS = st.lists(st.integers(1, 5000), min_size=1, max_size=6)


@settings(max_examples=80)
@given(reports=COUNTS, batches=st.integers(1, 400), seed=st.integers(0, 4))
def test_each_city_has_its_share_of_every_stretch(reports, batches, seed):
    city, number = turns(reports, batches, seed)
    share = np.array(reports) / sum(reports)
    held = np.cumsum(city[:, None] == np.arange(len(reports)), axis=0)
    fair = np.arange(1, batches + 1)[:, None] * share
    assert (np.abs(held - fair) <= 1 + len(reports) * share + 1e-9).all()
    for k in range(len(reports)):  # its batches are counted, none is left out
        assert number[city == k].tolist() == list(range(int((city == k).sum())))


@settings(max_examples=30)
@given(reports=COUNTS, batches=st.integers(1, 200), more=st.integers(1, 100))
def test_a_longer_run_begins_with_the_same_batches(reports, batches, more):
    short, long = turns(reports, batches, 3), turns(reports, batches + more, 3)
    for some, all_ in zip(short, long, strict=True):
        np.testing.assert_array_equal(some, all_[:batches])


def test_one_city_has_every_turn():
    city, number = turns([12], 30, 1)
    assert not city.any()
    np.testing.assert_array_equal(number, np.arange(30))


def test_turns_depend_on_the_seed():
    assert (turns([50, 40], 60, 1)[0] != turns([50, 40], 60, 2)[0]).any()
    np.testing.assert_array_equal(turns([50, 40], 60, 1)[0], turns([50, 40], 60, 1)[0])


# ---- what is read ----


def test_batches_are_of_one_city_and_no_report_comes_twice(data, monkeypatch, tmp_path):
    """In an epoch of all reports each city gives its own, each once; then all are validated."""
    drawn = {(split, own): [] for split in ("train", "validation") for own in (0, 1)}
    plain = trainer.draw_batch

    def watch(reader, samples, chosen, symmetry=None):
        own = next(k for k, one in enumerate(data) if one.reader is reader)
        split = "train" if samples is data[own].train else "validation"
        assert samples is getattr(data[own], split)
        drawn[split, own].extend(chosen.tolist())
        return plain(reader, samples, chosen, symmetry)

    monkeypatch.setattr(trainer, "draw_batch", watch)
    run(data, tmp_path, epochs=1, reports_per_epoch=TRAIN + FEW // 2, batch_size=4)
    seen = [drawn["train", own] for own in (0, 1)]
    assert sum(map(len, seen)) == TRAIN + FEW // 2
    assert len(seen[1]) == pytest.approx(FEW // 2, abs=4)
    for own, there in zip(seen, (TRAIN, FEW // 2), strict=True):
        assert len(set(own)) == min(len(own), there)
    before_and_after = 2
    for own, there in ((0, REPORTS - TRAIN), (1, FEW // 2)):
        assert sorted(drawn["validation", own]) == sorted([*range(there)] * before_and_after)


def test_an_even_choice_of_all_is_validated_where_they_are_many(data):
    batches = trainer._held_back(data, 12, 5)
    counts = [sum(len(c) for one, c in batches if one is own) for own in data]
    assert sum(counts) == 12
    assert counts == [8, 4]  # of 16 and of 8
    assert all(len(chosen) <= 5 for _, chosen in batches)
    for own in data:
        chosen = np.concatenate([c for one, c in batches if one is own])
        assert (np.diff(chosen) > 0).all()
        assert chosen.max() < len(own.validation)


def test_a_killed_run_on_several_cities_ends_as_if_it_had_not_been(data, tmp_path, monkeypatch):
    whole = run(data, tmp_path / "whole", epochs=2)
    point = ResumePoint(tmp_path / "scratch", "same", 0.0)
    plain = trainer.PosteriorTask.training_step

    def killed(self, batch, batch_idx):
        if self.trainer.global_step == 5:
            raise KeyError("killed")
        return plain(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.PosteriorTask, "training_step", killed)
        with pytest.raises(KeyError, match="killed"):
            run(data, tmp_path / "logs", resume=point, epochs=2)
    again = run(data, tmp_path / "logs", resume=point, epochs=2)
    assert again.resumed_at_step == 5
    for name, value in whole.weights.items():
        torch.testing.assert_close(again.weights[name], value, atol=1e-6, rtol=1e-6)


# ---- the stage ----


@pytest.mark.slow
def test_the_stage_trains_on_all_its_cities(second, tmp_path):
    reports = split_reports(scenarios={"nr_rsrp_only": 1.0})
    (tmp_path / "map_error.json").write_text(json.dumps(ERROR.as_dict()))
    sets = [CityReports(CITY, default_atlas(), reports), second]
    metadata = build_posterior_model(city_with(epochs=1), sets, tmp_path, tmp_path)
    assert metadata["cities"] == ["made_up", "second"]
    assert metadata["train_reports"] == TRAIN + FEW // 2
    assert metadata["train_reports_by_city"] == {"made_up": TRAIN, "second": FEW // 2}
    assert metadata["validation_reports"] == REPORTS - TRAIN + FEW // 2
    assert json.loads(json.dumps(metadata)) == metadata
    history = pd.read_parquet(tmp_path / "history.parquet")
    assert set(history["split"]) == {"train", "validation"}


@pytest.mark.slow
def test_a_city_without_reports_in_a_split_is_named(second, tmp_path):
    (tmp_path / "map_error.json").write_text(json.dumps(ERROR.as_dict()))
    reports = split_reports(scenarios={"nr_rsrp_only": 1.0})
    empty = CityReports(
        second.city, second.atlas, second.reports.assign(split=second.reports.split * 0)
    )
    sets = [CityReports(CITY, default_atlas(), reports), empty]
    with pytest.raises(ModelError, match="second: training: no report is in the validation split"):
        build_posterior_model(CITY, sets, tmp_path, tmp_path)
