"""How well are terminals located, next to the exact answer: here, with a wrong map, elsewhere?

``python -m benchmarks.localization [--city helsinki] [--retrain]`` reads the last evaluations of
the city, of the cities that extend it, and of the unseen cities that are trained on it (with
``--retrain`` the city is brought up to date first, in a fresh store). The last line is one JSON
object: ``{"splits": {split: {method: {"n", "median_m", ..., "area90_m2"}}}}`` with the splits
``test_area`` and ``path_traced`` of the city itself, ``mismatch_<level>``, and ``test_city``, all
unseen cities together, beside ``test_city/<city>`` for each. Cities that were not evaluated are
left out, and named on the standard error. ``--draw FOLDER`` draws the errors and the coverage of
all splits, one above the other (``error_by_test.png``, ``coverage_by_test.png``).
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from assets.resources import ArtifactStore
from benchmarks.workplace import workplace
from ueloc_core.city import City, load_cities, load_city
from ueloc_core.errors import StoreError, UelocError
from ueloc_core.evaluation.calibration_figures import reliability_by_stratum
from ueloc_core.evaluation.evaluate import SUMMARY_METRICS, split_name
from ueloc_core.evaluation.figures import error_by_stratum, png
from ueloc_core.evaluation.metrics import summarise, summary_dict
from ueloc_core.evaluation.report import summary_text
from ueloc_core.evaluation.strata import TEST_SPLITS, Stratum
from ueloc_core.provenance import ArtifactKey, Store

_DRAWN = ("network", "network_track", "oracle", "oracle_track", "grid_bayes_twin", "knn")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.localization", description=__doc__)
    parser.add_argument("--city", default="helsinki", help="name of a city file")
    parser.add_argument("--retrain", action="store_true", help="run the whole pipeline first")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="draw figures into a folder")
    options = parser.parse_args()
    try:
        city = load_city(options.city)
        if options.retrain:
            with workplace(options.city, quick=False) as place:
                place.regenerate()
                splits = _print(city, [city], place.store)
        else:
            splits = _print(city, related(city, load_cities().values()), ArtifactStore().open())
        if options.draw is not None:
            _draw_into(splits, options.draw)
    except UelocError as error:
        sys.exit(f"error: {error}")


def related(city: City, cities: Iterable[City]) -> list[City]:
    """A city, those that extend it, and the unseen ones that are trained on any of these."""
    others = [other for other in cities if other.name != city.name]
    family = {city.name, *(other.name for other in others if city.name in other.extends)}
    return [
        city,
        *(
            other
            for other in others
            if other.name in family or (other.unseen and family & {*other.training.cities})
        ),
    ]


def fixes_by_split(
    city: City, cities: Iterable[City], store: Store
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Fixes of the last evaluations, and the names of the cities that have none.

    Parameters
    ----------
    city
        The city whose exact paths count too.
    cities
        All cities to look at, that one among them.
    store
        Where they were evaluated.

    Returns
    -------
    tuple
        Fixes by split, those of several cities together and beside them each city's own as
        ``<split>/<city>``; names of the cities that were not evaluated.
    """
    found: dict[str, dict[str, pd.DataFrame]] = {}
    missing = []
    for one in cities:
        evaluation = store.current(ArtifactKey(one.name, "evaluation"))
        if evaluation is None:
            missing.append(one.name)
            continue
        fixes = pd.read_parquet(evaluation.path / "fixes.parquet")
        for split, part in fixes.groupby("split"):
            if split == split_name(one):
                found.setdefault(_title(one), {})[one.name] = part
            elif one.name == city.name:
                found.setdefault(str(split), {})[one.name] = part
    splits: dict[str, pd.DataFrame] = {}
    for split, parts in found.items():
        splits[split] = pd.concat(parts.values(), ignore_index=True)
        if len(parts) > 1 or split.startswith("test_city"):
            splits |= {f"{split}/{name}": part for name, part in parts.items()}
    return splits, missing


def _title(city: City) -> str:
    """A city's split; where both city and map are new to the network it says so."""
    mismatch = city.world.mismatch
    return f"test_city_{mismatch}" if city.unseen and mismatch != "none" else split_name(city)


def _draw_into(splits: Mapping[str, pd.DataFrame], folder: Path) -> None:
    try:
        draw(splits, folder)
    except OSError as error:
        raise UelocError(
            f"figures cannot be written ({error.strerror})",
            where=str(folder),
            remedy="Give --draw a folder that can be made or written to.",
        ) from error


def draw(splits: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Draw errors and coverage of the splits into a folder, which is made where it is missing."""
    fixes = pd.concat([part.assign(split=name) for name, part in splits.items()])
    known = [name for name in TEST_SPLITS if name in splits]
    order = [*known, *(name for name in splits if name not in known)]
    stratum = Stratum("split", "Test", "split", tuple(order))
    shown = fixes[fixes["method"].isin(_DRAWN)]
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "error_by_test": error_by_stratum(shown, [stratum]),
        "coverage_by_test": reliability_by_stratum(shown, [stratum]),
    }
    for name, figure in figures.items():
        (folder / f"{name}.png").write_bytes(png(figure))


def _print(city: City, cities: Sequence[City], store: Store) -> dict[str, pd.DataFrame]:
    splits, missing = fixes_by_split(city, cities, store)
    for name in missing:
        print(f"not evaluated: {name} (make demo CITY={name})", file=sys.stderr)
    if not splits:
        raise StoreError(
            f"neither {city.name} nor a city like it was evaluated",
            where=store.url,
            remedy=f"Run make demo CITY={city.name}.",
        )
    for split, fixes in splits.items():
        print(f"{split}\n{summary_text(summarise(fixes))}\n")
    tables = {split: summary_dict(fixes, SUMMARY_METRICS) for split, fixes in splits.items()}
    print(json.dumps({"splits": tables}))
    return splits


if __name__ == "__main__":
    main()
