"""The stage that trains the network, and what reads its result.

Lightning is imported when training begins: what only locates loads without it.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import torch

from ueloc_core.city import City
from ueloc_core.errors import ModelError
from ueloc_core.localization.losses import coarse_loss
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.samples import Samples, available_cores, in_order, read_samples
from ueloc_core.localization.schemas import HistorySchema
from ueloc_core.localization.windows import WindowBatch, WindowReader
from ueloc_core.measurement.city_reports import CityReports, names_of
from ueloc_core.measurement.map_error import load_map_error
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.provenance import RUN_LOGS

if TYPE_CHECKING:
    from ueloc_core.localization.resume import ResumePoint

__all__ = [
    "Samples",
    "build_posterior_model",
    "coarse_loss",
    "load_network",
    "network_settings",
    "predict",
    "predict_then",
    "read_samples",
]

CODE_VERSION = "6"

_SPLITS = ("train", "validation")

Progress = Callable[[int, int, str], None]
Result = TypeVar("Result")


def build_posterior_model(
    city: City,
    sets: Sequence[CityReports],
    map_error_folder: Path,
    out: Path,
    progress: Progress | None = None,
    resume: "ResumePoint | None" = None,
) -> dict[str, Any]:
    """Train the network; write ``checkpoint.pt``, ``history.parquet``, ``curves.png`` and logs.

    The TensorBoard logs are in the folder `RUN_LOGS`.

    Parameters
    ----------
    city
        Training settings and seed.
    sets
        Measurement sets of the cities that train it, with the twin's maps.
    map_error_folder
        Folder of the fitted map error.
    out
        Folder to write to.
    progress
        Called with (steps done, steps, message).
    resume
        Where the state of the run is kept, to go on after a kill; by default nowhere.

    Raises
    ------
    ModelError
        If a split of a city has no reports, or the loss is no number.
    """
    # Lightning loads for seconds
    from ueloc_core.localization import trainer  # noqa: PLC0415
    from ueloc_core.localization.curves_figure import draw_curves  # noqa: PLC0415

    config = city.training
    torch.manual_seed(city.seed)
    map_error = load_map_error(map_error_folder)
    data = []
    for one in sets:
        model = MeasurementModel(one.city.measurements, one.city.radio, map_error)
        reader = WindowReader(one.atlas, model)
        splits = {name: read_samples(reader, one.reports, name) for name in _SPLITS}
        for name, samples in splits.items():
            if not len(samples):
                raise ModelError(
                    f"no report is in the {name} split",
                    where=f"{one.city.name}: training",
                    remedy="Name other tiles in 'splits', or draw more tracks.",
                )
        data.append(trainer.TrainingData(reader, **splits))
    train_reports = [len(of_city.train) for of_city in data]
    network = PosteriorNetwork(**network_settings(city))
    channels_last(network)
    logs = (out if resume is None else resume.folder) / RUN_LOGS  # one log of a killed run
    steps = trainer.steps_of(config, sum(train_reports))
    trained = trainer.train_network(
        trainer.PosteriorTask(network, config, steps),
        data,
        seed=city.seed,
        logs=logs,
        progress=progress,
        resume=resume,
    )
    if resume is not None:
        shutil.move(logs, out / RUN_LOGS)
    settings = network_settings(city)
    torch.save({"network": trained.weights, "settings": settings}, out / "checkpoint.pt")
    table = HistorySchema.validate(pd.DataFrame(trained.history))
    table.to_parquet(out / "history.parquet", index=False)
    draw_curves(table, trained.best_epoch, out / "curves.png")
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "cities": names_of(sets),
        "train_reports": sum(train_reports),
        "train_reports_by_city": dict(zip(names_of(sets), train_reports, strict=True)),
        "validation_reports": sum(len(of_city.validation) for of_city in data),
        "epochs": config.epochs,
        "steps": steps,
        "terms": [name for name in ("coarse", "fine", "physics") if name in set(table.term)],
        "best_validation_nll_nats": trained.best_nll_nats,
        "best_epoch": trained.best_epoch,
        "train_samples_per_s": round(trained.samples_per_s, 2),
        "precision": trained.precision,
        "resumed_at_step": trained.resumed_at_step,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "tensorboard": RUN_LOGS,
    }


def network_settings(city: City) -> dict[str, Any]:
    """What the network is made of, as its checkpoint keeps it."""
    names = ("channels", "components", "candidates", "inputs")
    return {name: getattr(city.training, name) for name in names}


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
        channels_last(network)
    except Exception as error:
        raise ModelError(
            f"checkpoint cannot be read ({error})",
            where=str(path),
            remedy="Materialize posterior_model again.",
        ) from error
    return network.eval()


def channels_last(network: PosteriorNetwork) -> None:
    """Store the kernels of a network channel by channel: the same sums, a third faster on CPUs."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def predict(
    network: PosteriorNetwork, reader: WindowReader, samples: Samples, batch_size: int = 16
) -> Iterator[tuple[slice, Posterior, WindowBatch]]:
    """Posteriors of samples in batches, in their order; on a CPU each core works on a batch."""
    return predict_then(network, reader, samples, lambda *found: found, batch_size)


def predict_then(
    network: PosteriorNetwork,
    reader: WindowReader,
    samples: Samples,
    then: Callable[[slice, Posterior, WindowBatch], Result],
    batch_size: int = 16,
) -> Iterator[Result]:
    """What is made of the posteriors of batches of samples, in their order.

    Parameters
    ----------
    network, reader, samples
        What predicts, and what of.
    then
        Is given the slice of a batch, its posteriors and the batch, by the thread that predicted
        them: on a CPU each core works on a batch of its own.
    batch_size
        Reports in a batch.
    """
    count = len(samples)
    parts = [slice(k, min(k + batch_size, count)) for k in range(0, count, batch_size)]
    device = next(network.parameters()).device
    reader.maps.on(device)  # made once, before threads ask for it

    @torch.no_grad()
    def one(part: slice) -> Result:
        batch = reader.read(samples.reports[part], samples.truth_m[part]).to(device)
        posterior, _ = network(batch)
        return then(part, posterior, batch)

    threads = available_cores() if device.type == "cpu" else 1
    if len(parts) == 1 or threads == 1:
        yield from map(one, parts)
    else:
        yield from in_order(one, parts, threads)
