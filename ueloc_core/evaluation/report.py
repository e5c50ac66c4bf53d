"""The report of an evaluation: one HTML file that needs nothing else, and a table for terminals.

No accuracy stands alone in either: every method is shown next to the oracle.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ueloc_core.city import City
from ueloc_core.evaluation.figures import SHORT_LABELS, TERMS, png
from ueloc_core.evaluation.metrics import (
    bootstrap_intervals,
    diagnose_coverage,
    fixes_of,
    relative_to_oracle,
)

TEMPLATES = Path(__file__).parent / "templates"
NO_VALUE = "\N{EN DASH}"

_TITLES = {
    "overview_map": "The city and the errors",
    "error_cdf": "Share of reports located within a distance",
    "error_histogram": "Distribution of the errors",
    "error_box": "Spread of the errors",
    "coverage": "Is the stated uncertainty true?",
    "success": "Located within a distance",
    "error_by_stratum": "Errors by circumstance",
    "reliability": "Is the 90% region true in every circumstance?",
    "pit": "Coordinates against their predicted distributions",
    "tarp": "Expected coverage around random points",
    "tracks_cdf": "What the earlier reports of a track are worth",
    "data_card": "The reports of all splits",
    "training_curves": "Training",
    "posterior": "What one report tells",
}
_CAPTIONS = {
    "overview_map": "Left: received power of the strongest sector between the buildings. Right: "
    "where the test terminals stood, coloured by how far off the network located them.",
    "error_cdf": "The nearer a curve is to the oracle's, the less is left to gain from the same "
    "reports and maps.",
    "error_histogram": "Distances in logarithmic bins.",
    "error_box": "The typical and the bad cases of each method.",
    "coverage": "A region that is said to hold the terminal with 90% probability should hold it "
    "in 90% of the reports. On the diagonal the posterior is calibrated.",
    "success": "Share of reports located within 5, 10, 20 and 50 m.",
    "error_by_stratum": "Median and 90th percentile of the error by what a report holds and where "
    "it comes from: the oracle tells how hard each case is.",
    "reliability": "Share of true positions in the 90% regions, with 95% intervals.",
    "pit": "Flat where the predicted distribution of each coordinate is true; a hill is too "
    "cautious, a bowl overconfident.",
    "tarp": "Like the coverage above, for regions around random reference points: it finds errors "
    "that regions of highest density hide.",
    "tracks_cdf": "Last reports of tracks, located alone and with the reports before them.",
    "data_card": "What terminals reported, and who they were.",
    "training_curves": "Each term of the loss on the training and on the validation reports.",
    "posterior": "Where the terminal may be, given one report: the network beside the oracle.",
}
_VERDICTS = {
    "calibrated": "calibrated",
    "conservative": "too cautious",
    "overconfident": "overconfident",
    "uneven": "uneven",
}


@dataclass(frozen=True)
class _Picture:
    title: str
    caption: str
    data_uri: str


def write_report(
    path: Path,
    *,
    city: City,
    summary: pd.DataFrame,
    fixes: pd.DataFrame,
    history: pd.DataFrame,
    figures: Mapping[str, Figure | bytes],
    facts: Mapping[str, Any],
    attribution: str,
) -> None:
    """Write the self-contained HTML report.

    Parameters
    ----------
    path
        File to write.
    city
        The city that was evaluated.
    summary, fixes, history
        Tables of metrics (`summarise`), of fixes and of the training history.
    figures
        Figures, or PNG bytes, by name, in the order in which they are shown. Names that start
        with a known kind (``overview_map``, ``error_cdf``, ``error_histogram``, ``error_box``,
        ``coverage``, ``training_curves``, ``posterior``) get a title and a caption.
    facts
        Where the figures come from: names and values, or sections of them.
    attribution
        Whose data is shown.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.jinja").render(
        title=city.title or city.name,
        headline=headline(summary),
        rows=_rows(summary, fixes),
        pictures=[_picture(name, figure) for name, figure in figures.items()],
        training=_training_sentence(history),
        facts=_sections(facts),
        attribution=attribution,
    )
    path.write_text(page, encoding="utf-8")


def headline(summary: pd.DataFrame, method: str = "network") -> str:
    """The result in two sentences, next to the oracle."""
    rows = {row["method"]: row for row in relative_to_oracle(summary).to_dict("records")}
    if method not in rows or "oracle" not in rows:
        return f"{len(rows)} methods were compared."
    own, oracle = rows[method], rows["oracle"]
    return (
        f"Half of {own['n']} test reports are located within {own['median_m']:.0f} m and nine in "
        f"ten within {own['p90_m']:.0f} m; the exact grid posterior, which knows how the reports "
        f"are made, reaches {oracle['median_m']:.0f} m and {oracle['p90_m']:.0f} m from the same "
        f"reports and maps. The 90% region held the true position in "
        f"{100 * own['coverage_90']:.0f}% of the reports (oracle: "
        f"{100 * oracle['coverage_90']:.0f}%)."
    )


def summary_text(summary: pd.DataFrame) -> str:
    """The table of all methods next to the oracle, as lines of plain text."""
    table = pd.DataFrame(
        {
            "method": [SHORT_LABELS.get(m, m) for m in summary["method"]],
            "median [m]": [f"{v:.1f}" for v in summary["median_m"]],
            "67% [m]": [f"{v:.1f}" for v in summary["p67_m"]],
            "90% [m]": [f"{v:.1f}" for v in summary["p90_m"]],
            "90% coverage": [_percent(v) for v in summary["coverage_90"]],
            "NLL [nats]": [_number(v) for v in summary["nll_nats"]],
            "gap [nats]": [_signed(v) for v in relative_to_oracle(summary)["gap_nats"]],
            "median / oracle": [_number(v) for v in relative_to_oracle(summary)["median_ratio"]],
        }
    )
    widths = [max(map(len, [name, *table[name]])) for name in table]
    lines: list[list[str]] = [[*map(str, table)], ["-" * w for w in widths]]
    lines += table.to_numpy().tolist()
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ).replace(NO_VALUE, "-")


def _rows(summary: pd.DataFrame, fixes: pd.DataFrame) -> list[dict[str, Any]]:
    intervals = {
        (row.method, row.metric): f"{row.low:.1f} to {row.high:.1f}"
        for row in bootstrap_intervals(fixes).itertuples()
    }
    rows: list[dict[str, Any]] = []
    for values in relative_to_oracle(summary).to_dict("records"):
        method = str(values["method"])
        levels = fixes_of(fixes, method)["hpd_level"]
        verdict = NO_VALUE if levels.isna().any() else _VERDICTS[diagnose_coverage(levels)]
        rows.append(
            {
                "method": SHORT_LABELS.get(method, method),
                "kind": method,
                "n": f"{values['n']}",
                "median": f"{values['median_m']:.1f}",
                "median_interval": intervals.get((method, "median_m"), ""),
                "p67": f"{values['p67_m']:.1f}",
                "p90": f"{values['p90_m']:.1f}",
                "p90_interval": intervals.get((method, "p90_m"), ""),
                "mean": f"{values['mean_m']:.1f}",
                "ratio": _number(values["median_ratio"]),
                "nll": _number(values["nll_nats"]),
                "gap": _signed(values["gap_nats"]),
                "coverage_50": _percent(values["coverage_50"]),
                "coverage_90": _percent(values["coverage_90"]),
                "verdict": verdict,
                "within": [_percent(values[f"success_{r}m"]) for r in (5, 10, 20, 50)],
                "area90": _thousands(values["area90_m2"]),
                "in_window": _percent(values["share_in_window"]),
            }
        )
    return rows


def _picture(name: str, figure: Figure | bytes) -> _Picture:
    kind = next((k for k in _TITLES if name.startswith(k)), name)
    title = _TITLES.get(kind, name.replace("_", " ").capitalize())
    data = figure if isinstance(figure, bytes) else png(figure)
    encoded = base64.b64encode(data).decode("ascii")
    return _Picture(title, _CAPTIONS.get(kind, ""), f"data:image/png;base64,{encoded}")


def _training_sentence(history: pd.DataFrame) -> str:
    held_back = history[history["split"] == "validation"]
    for term in ("nll", "total"):
        values = held_back[held_back["term"] == term].groupby("epoch")["value"].mean()
        if len(values):
            return (
                f"{history['epoch'].nunique()} epochs; {TERMS[term].lower()} on the validation "
                f"reports is lowest after epoch {values.idxmin()}: {values.min():.2f} nats."
            )
    return f"{history['epoch'].nunique()} epochs."


def _sections(facts: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Sections of (name, value) lines; loose values come first, nested names are joined by dots."""
    loose = {k: v for k, v in facts.items() if not isinstance(v, Mapping)}
    nested = {k: v for k, v in facts.items() if isinstance(v, Mapping)}
    sections: list[tuple[str, Mapping[str, Any]]] = [("Run", loose)] if loose else []
    sections += nested.items()
    return [(title.replace("_", " "), list(_flat(values))) for title, values in sections]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            lines.append((f"{prefix}{name}", _plain(value)))
    return lines


def _plain(value: Any) -> str:
    if value is None:
        return NO_VALUE
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or NO_VALUE
    return str(value)


def _number(value: float) -> str:
    return NO_VALUE if np.isnan(value) else f"{value:.2f}"


def _signed(value: float) -> str:
    return NO_VALUE if np.isnan(value) else f"{value:+.2f}"


def _percent(value: float) -> str:
    return NO_VALUE if np.isnan(value) else f"{100 * value:.1f}%"


def _thousands(value: float) -> str:
    return NO_VALUE if np.isnan(value) else f"{value:,.0f}"
