"""How well are terminals located, next to the exact answer?

``python -m benchmarks.localization [--city helsinki] [--retrain]`` reads the last evaluation (with
``--retrain`` the city is brought up to date first, in a fresh store). The last line is one JSON
object: ``{"splits": {"test_area": {method: {"n", "median_m", ..., "area90_m2"}}}}``.
"""

import argparse
import json
import sys

import pandas as pd

from assets.resources import ArtifactStore
from benchmarks.workplace import workplace
from ueloc_core.city import load_city
from ueloc_core.errors import UelocError
from ueloc_core.evaluation.report import summary_text
from ueloc_core.provenance import Artifact, ArtifactKey


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.localization", description=__doc__)
    parser.add_argument("--city", default="helsinki", help="name of a city file")
    parser.add_argument("--retrain", action="store_true", help="run the whole pipeline first")
    options = parser.parse_args()
    try:
        if options.retrain:
            with workplace(options.city, quick=False) as place:
                place.regenerate()
                _print(place.artifacts("evaluation")["city"])
        else:
            key = ArtifactKey(load_city(options.city).name, "evaluation")
            _print(ArtifactStore().open().require(key))
    except UelocError as error:
        sys.exit(f"error: {error}")


def _print(evaluation: Artifact) -> None:
    folder = evaluation.path
    print(summary_text(pd.read_parquet(folder / "metrics.parquet")))
    print(json.dumps(json.loads((folder / "summary.json").read_text())))


if __name__ == "__main__":
    main()
