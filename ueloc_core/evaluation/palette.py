"""How a method looks in every figure: its name, colour, dashes and marker.

Colours are safe for colour-blind readers (Okabe and Ito, then Tol's muted scheme); dashes and
markers tell methods apart without them. A method and its variant are kin: the network is blue,
the exact answers are black and grey.
"""

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

WIDTH_IN = 8.0

LABELS = {
    "network": "Network",
    "network_refined": "Network, refined on the map",
    "oracle": "Oracle (exact grid posterior)",
    "network_track": "Network, whole track",
    "oracle_track": "Oracle, whole track",
    "grid_bayes_twin": "Grid Bayes on the twin",
    "locunet_like": "LocUNet-like heatmap",
    "knn": "kNN fingerprints",
    "trilateration": "Trilateration",
    "weighted_centroid": "Weighted centroid",
    "strongest_sector": "Strongest-sector centroid",
}
SHORT_LABELS = LABELS | {
    "network_refined": "Network, refined",
    "oracle": "Oracle",
    "grid_bayes_twin": "Grid Bayes, twin",
    "locunet_like": "LocUNet-like",
    "strongest_sector": "Strongest sector",
}
GREY = "#9a9a9a"
LIGHT_GREY = "#d9d9d9"
DARK_GREY = "#555555"

_COLOURS = {
    "network": "#0072B2",
    "network_refined": "#56B4E9",
    "oracle": "#000000",
    "network_track": "#44AA99",
    "oracle_track": "#7a5195",
    "grid_bayes_twin": "#6e6e6e",
    "locunet_like": "#009E73",
    "knn": "#D55E00",
    "trilateration": "#E69F00",
    "weighted_centroid": "#882255",
    "strongest_sector": "#CC79A7",
}
_SPARE_COLOURS = ("#999933", "#332288", "#117733")
_DASHES = {
    "network_refined": (0, (3, 1)),
    "oracle": (0, (5, 1.5)),
    "network_track": "-",
    "oracle_track": (0, (5, 1.5)),
    "grid_bayes_twin": (0, (1.5, 1)),
    "locunet_like": (0, (8, 2)),
    "knn": (0, (6, 1.5, 1, 1.5)),
    "trilateration": (0, (4, 1, 1, 1, 1, 1)),
    "weighted_centroid": (0, (2, 2)),
    "strongest_sector": ":",
}
_MARKERS = {
    "network": "o",
    "network_refined": "D",
    "oracle": "s",
    "network_track": "d",
    "oracle_track": "p",
    "grid_bayes_twin": "^",
    "locunet_like": "v",
    "knn": "P",
    "trilateration": "<",
    "weighted_centroid": ">",
    "strongest_sector": "X",
}


def colour(method: str) -> str:
    """Colour of a method; an unknown one gets a spare colour by its name."""
    return _COLOURS.get(method) or _SPARE_COLOURS[sum(map(ord, method)) % len(_SPARE_COLOURS)]


def marker(method: str) -> str:
    """Marker of a method."""
    return _MARKERS.get(method, "h")


def line_style(method: str) -> dict[str, Any]:
    """Colour, dashes and width of a method's line."""
    return {
        "color": colour(method),
        "linestyle": _DASHES.get(method, "-"),
        "linewidth": 2.2 if method == "network" else 1.7,
    }


def png(figure: Figure, dpi: int = 130) -> bytes:
    """A figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, facecolor="white")
    return stream.getvalue()


def log_metres(axes: Axes) -> None:
    """Make the x axis logarithmic, with plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def tidy(axes: Axes) -> None:
    """Leave out the frame's upper and right side."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
