"""A small training run on the made-up world."""

import json

import pandas as pd
import torch
from made_up_world import default_atlas, draw_dataset, made_up_city

from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.samples import read_samples
from ueloc_core.localization.trainer import (
    PosteriorTask,
    TrainingData,
    steps_of,
    train_network,
)
from ueloc_core.localization.training import build_posterior_model, network_settings
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.city_reports import CityReports
from ueloc_core.measurement.model import MapError, MeasurementModel

ERROR = MapError(core_db=1.0, tail_logit=-3.0, tail_db=10.0, unhit_dbm=-135.0, unhit_db=8.0)
SETTINGS = {
    "epochs": 2,
    "batch_size": 8,
    "channels": 8,
    "components": 6,
    "reports_per_epoch": 32,
}
CITY = made_up_city(training=SETTINGS)
MODEL = MeasurementModel(CITY.measurements, CITY.radio, ERROR)
REPORTS, TRAIN = 64, 48


def city_with(**changes):
    """The city with other training settings."""
    return made_up_city(training=SETTINGS | changes)


def split_reports(**settings):
    """64 reports, of which 48 train and the others validate."""
    reports = draw_dataset(default_atlas(), REPORTS, seed=9, **settings)
    split = torch.where(torch.arange(REPORTS) < TRAIN, 0, 1).numpy().astype("int8")
    return reports.assign(split=("report", split))


def build(reports, out, city=CITY, **options):
    """The stage's metadata, its history and its progress."""
    out.mkdir()
    (out / "map_error.json").write_text(json.dumps(ERROR.as_dict()))
    steps = []
    metadata = build_posterior_model(
        city,
        [CityReports(city, default_atlas(), reports)],
        *(out, out, lambda *step: steps.append(step)),
        **options,
    )
    return metadata, pd.read_parquet(out / "history.parquet"), steps


def training_data(reports):
    """What the loop reads."""
    reader = WindowReader(default_atlas(), MODEL)
    return TrainingData(
        reader, *(read_samples(reader, reports, n) for n in ("train", "validation"))
    )


def run(data, logs, seed=1, resume=None, progress=None, **changes):
    """A run of the loop on a fresh network, on the data of one city or of several."""
    city, data = city_with(**changes), data if isinstance(data, list) else [data]
    torch.manual_seed(seed)
    network = PosteriorNetwork(**network_settings(city))
    steps = steps_of(city.training, sum(len(one.train) for one in data))
    task = PosteriorTask(network, city.training, steps)
    return train_network(task, data, seed=seed, logs=logs, resume=resume, progress=progress)
