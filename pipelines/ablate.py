"""Run the ablations of a city from the command line, through Dagster, in process.

``python -m pipelines.ablate helsinki`` executes the job `ablate`: variant after variant, each kept
in the store when it is done. The run is kept in the Dagster instance that ``make ui`` shows.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dagster._core.errors import DagsterAssetCheckFailedError

from assets.resources import ArtifactStore
from pipelines.definitions import build_defs
from pipelines.instance import open_instance, owner_tags, recover_killed_runs
from pipelines.progress import Progress
from ueloc_core.city import load_city
from ueloc_core.errors import UelocError
from ueloc_core.provenance import ArtifactKey


def ablate(
    city_name: str, *, store_url: str = "", home: Path | None = None, quiet: bool = False
) -> Path:
    """Bring the ablations of a city up to date.

    Parameters
    ----------
    city_name
        Name of the city's file. What its map error is made of must be in the store.
    store_url
        Where artifacts are kept; empty takes the default of `ArtifactStore`.
    home
        Folder of the Dagster instance; None takes ``DAGSTER_HOME``, else ``instance/``.
    quiet
        Print no progress.

    Returns
    -------
    Path
        Folder of the tables and the figure.

    Raises
    ------
    UelocError
        If the city's file or its data is wrong or missing, or a contract is broken.
    """
    city = load_city(city_name)
    with Progress(1, quiet=quiet) as progress, open_instance(home) as instance:
        recover_killed_runs(instance)
        defs = build_defs(store_url, executor="in_process", loggers={"progress": progress.logger})
        try:
            defs.resolve_job_def("ablate").execute_in_process(
                partition_key=city.name,
                instance=instance,
                run_config={"loggers": {"progress": {}}},
                tags=owner_tags(),
            )
        except DagsterAssetCheckFailedError as error:
            raise UelocError(
                f"a contract is broken: {error}", where=f"{city.name}: ablations"
            ) from error
    return ArtifactStore(url=store_url).open().require(ArtifactKey(city.name, "ablations")).path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 when the ablations are up to date."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.ablate",
        description="Train and test the network without one part each; what is there is kept.",
    )
    parser.add_argument("city", help="name of a file in cities/ (or in $UELOC_CITIES)")
    parser.add_argument(
        "--store",
        default="",
        metavar="URL",
        help="where artifacts are kept: a folder or fsspec URL (default: $UELOC_STORE, else data/)",
    )
    options = parser.parse_args(arguments)
    try:
        folder = ablate(options.city, store_url=options.store)
    except UelocError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the variants that are finished stay in the store", file=sys.stderr)
        return 130
    print((folder / "ablations.md").read_text(encoding="utf-8"))
    print(f"figure and tables: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
