"""The figure of a training run: each term of the loss over the epochs."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

_TITLES = {
    "total": "loss",
    "coarse": "coarse: cross-entropy",
    "fine": "fine: mixture NLL",
    "physics": "physics",
    "nll": "NLL",
}


def draw_curves(history: pd.DataFrame, best_epoch: int, path: Path) -> None:
    """One panel a term, with the training and the validation reports' curves.

    Parameters
    ----------
    history
        Table of `HistorySchema`.
    best_epoch
        Epoch whose weights were kept, marked by a line.
    path
        PNG file to write.
    """
    terms = panels(history)
    figure = Figure(figsize=(2.4 * len(terms), 2.6), dpi=80, layout="constrained")
    for axes, term in zip(figure.subplots(1, len(terms), squeeze=False)[0], terms, strict=True):
        rows = history[history.term == term]
        for split, style in (("train", "C0.-"), ("validation", "C1.--")):
            curve = rows[rows.split == split]
            if len(curve):
                axes.plot(curve.epoch, curve.value, style, label=split)
        axes.axvline(best_epoch, color="0.7", linewidth=1, zorder=0)
        axes.set_title(_TITLES[term], fontsize=8)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=6)
        axes.set_ylabel("nats", fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def panels(history: pd.DataFrame) -> list[str]:
    """Terms that get a panel: the NLL only where no fine term shows it already."""
    found = set(history.term)
    return [term for term in _TITLES if term in found and not (term == "nll" and "fine" in found)]
