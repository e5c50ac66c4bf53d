"""The grid posteriors of an evaluation: the oracle, and plain grid Bayes on the twin.

Each core works on a report of its own.
"""

import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.evaluation.cases import Cases, Density, fix_row
from ueloc_core.localization.baselines import GridBayes, geometric_median
from ueloc_core.localization.samples import available_cores, in_order

Progress = Callable[[int, int, str], None]

_PROGRESS_EVERY = 50


def grid_posterior_rows(
    method: str,
    bayes: GridBayes,
    cases: Cases,
    *,
    wanted: Collection[int] = (),
    progress: Progress | None = None,
) -> tuple[list[dict[str, Any]], dict[int, NDArray[np.float64]]]:
    """Fixes of a grid posterior, and its masses over the windows of the wanted cases.

    Parameters
    ----------
    method
        Its name.
    bayes
        The posterior.
    cases
        What to locate.
    wanted
        Positions of cases whose masses are kept.
    progress
        Called with (done, total, message).
    """

    def located(i: int) -> tuple[dict[str, Any], NDArray[np.float64] | None]:
        case, started = cases.cases[i], time.perf_counter()
        exact = bayes.posterior(cases.batch[i : i + 1])
        point = geometric_median(exact.mass, exact.window)
        latency_ms = 1e3 * (time.perf_counter() - started)
        density = Density(exact.window, exact.mass, exact.nll_nats(*case.truth_m))
        row = fix_row(method, case, point, density, latency_ms=latency_ms)
        return row, exact.in_frame(case.frame) if i in wanted else None

    rows, masses = [], {}
    found = in_order(located, range(len(cases)), available_cores())
    for i, (row, mass) in enumerate(found):
        rows.append(row)
        if mass is not None:
            masses[i] = mass
        if progress is not None and (i + 1) % _PROGRESS_EVERY == 0:
            progress(i + 1, len(cases), method.replace("_", " "))
    return rows, masses
