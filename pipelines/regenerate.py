"""Bring every stage of a city up to date from the command line, through Dagster, in process.

``python -m pipelines.regenerate helsinki`` makes one run a tile where tiles differ and one run
for the stages of the whole city, in the order of the lineage. Where its file names other cities
that train its model (``training.cities``), their reports and maps are brought up to date first.
The runs are kept in the same Dagster instance that ``make ui`` shows.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError

from assets.partitions import tile_key
from assets.resources import PROJECT_DIR, ArtifactStore
from pipelines.definitions import build_defs
from pipelines.instance import open_instance, owner_tags, recover_killed_runs
from pipelines.progress import Progress
from pipelines.stages import (
    CITY_AFTER_TILES,
    CITY_BEFORE_TILES,
    CITY_MAPS,
    CITY_REPORTS,
    OF_TILES,
)
from ueloc_core.city import City, load_city
from ueloc_core.errors import UelocError
from ueloc_core.provenance import ArtifactKey
from ueloc_core.training_cities import training_cities

METHODS = ("network", "oracle", "grid_bayes_twin", "knn", "trilateration", "strongest_sector")
COLUMNS = {"median_m": "median", "p67_m": "67%", "p90_m": "90%", "coverage_90": "coverage 90%"}
STAGES = (
    *CITY_BEFORE_TILES,
    *(stage for stages in OF_TILES for stage in stages),
    *CITY_AFTER_TILES,
    *CITY_MAPS,
)


@dataclass(frozen=True)
class Step:
    """One Dagster run: some stages of one partition."""

    partition_key: str
    stages: tuple[str, ...]


@dataclass
class Tally:
    """What one stage did over its partitions."""

    cached: int = 0
    computed: list[str] = field(default_factory=list)
    seconds: float = 0.0


def plan(city: City) -> Iterator[Step]:
    """The runs that bring a city up to date, in the order of the lineage."""
    for other in training_cities(city):
        if other.name != city.name:
            yield from _up_to_measurements(other)
            yield Step(other.name, CITY_REPORTS)
    yield from _up_to_measurements(city)
    yield Step(city.name, CITY_AFTER_TILES)
    yield Step(city.name, CITY_MAPS)


def _up_to_measurements(city: City) -> Iterator[Step]:
    yield Step(city.name, CITY_BEFORE_TILES)
    for stages in OF_TILES:
        for tile in city.tile_names:
            yield Step(tile_key(city, tile), stages)


def regenerate(
    city_name: str, *, store_url: str = "", home: Path | None = None, quiet: bool = False
) -> dict[str, Tally]:
    """Bring every stage of a city up to date, and what it reads of other cities.

    Parameters
    ----------
    city_name
        Name of the city's file.
    store_url
        Where artifacts are kept; empty takes the default of `ArtifactStore`.
    home
        Folder of the Dagster instance; None takes ``DAGSTER_HOME``, else ``instance/``.
    quiet
        Print no progress.

    Returns
    -------
    dict
        What each stage did, by stage, over all these cities.

    Raises
    ------
    UelocError
        If the city's file, its data or a contract between stages is wrong.
    """
    city = load_city(city_name)
    steps = list(plan(city))
    tallies = {name: Tally() for name in STAGES}
    with (
        Progress(sum(len(step.stages) for step in steps), quiet=quiet) as progress,
        open_instance(home) as instance,
    ):
        recover_killed_runs(instance)
        defs = build_defs(store_url, executor="in_process", loggers={"progress": progress.logger})
        job = defs.resolve_implicit_global_asset_job_def()
        for step in steps:
            _run(job, instance, step, tallies)
    return tallies


def _run(
    job: dg.JobDefinition, instance: dg.DagsterInstance, step: Step, tallies: dict[str, Tally]
) -> None:
    try:
        result = job.execute_in_process(
            partition_key=step.partition_key,
            asset_selection=[dg.AssetKey(name) for name in step.stages],
            instance=instance,
            run_config={"loggers": {"progress": {}}},
            tags=owner_tags(),
        )
    except DagsterAssetCheckFailedError as error:
        raise _broken_contract(instance, step, error) from error
    for event in result.get_asset_materialization_events():
        materialization = event.materialization
        tally = tallies[materialization.asset_key.to_user_string()]
        if materialization.metadata["cached"].value:
            tally.cached += 1
        else:
            tally.computed.append(step.partition_key)
            tally.seconds += float(materialization.metadata["seconds"].value)


def _broken_contract(
    instance: dg.DagsterInstance, step: Step, error: DagsterAssetCheckFailedError
) -> UelocError:
    """The failed checks of a run, in words."""
    (record,) = instance.get_run_records(limit=1)
    found = []
    for log in instance.all_logs(
        record.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ):
        check = log.get_dagster_event().asset_check_evaluation_data
        if not check.passed:
            found.append(
                f"{check.asset_key.to_user_string()}.{check.check_name}: {check.description}"
            )
    return UelocError(
        f"a contract between stages is broken: {'; '.join(found) or error}",
        where=step.partition_key,
        remedy="Nothing downstream was computed.",
    )


def print_tallies(tallies: dict[str, Tally]) -> None:
    """Print what each stage took out of the store and what it computed."""
    print(f"\n{'stage':<18}{'cached':>8}{'computed':>10}{'seconds':>9}")
    for name, tally in tallies.items():
        print(f"{name:<18}{tally.cached:>8}{len(tally.computed):>10}{tally.seconds:>9.1f}")


def print_report(city_name: str, store_url: str) -> None:
    """Print where the report lies and how well terminals are located."""
    folder = ArtifactStore(url=store_url).open().require(ArtifactKey(city_name, "evaluation")).path
    splits = json.loads((folder / "summary.json").read_text())["splits"]
    summary = next(of for name, of in splits.items() if name != "path_traced")
    print(f"\nreport: {folder / 'report.html'}")
    n = summary[METHODS[0]]["n"]
    print(f"error of {n} fixes on test tiles [m], and share of truths in the 90% region\n")
    print(f"{'':<18}" + "".join(f"{title:>14}" for title in COLUMNS.values()))
    for method in METHODS:
        cells = "".join(f"{_cell(summary[method][key], key):>14}" for key in COLUMNS)
        print(f"{method:<18}{cells}")


def _cell(value: float | None, key: str) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if key.startswith("coverage") else f"{value:.1f}"


def _explain_defect(error: BaseException) -> str:
    """The last calls of an unexpected error, without Dagster's own."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if str(PROJECT_DIR) in f.filename and ".venv" not in f.filename]
    calls = "".join(traceback.format_list(ours[-6:]))
    return f"unexpected {type(error).__name__}: {error}\n{calls}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 when every stage is up to date."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.regenerate",
        description="Bring every stage of a city up to date; what is unchanged is not computed.",
    )
    parser.add_argument("city", help="name of a file in cities/ (or in $UELOC_CITIES)")
    parser.add_argument(
        "--store",
        default="",
        metavar="URL",
        help="where artifacts are kept: a folder or fsspec URL (default: $UELOC_STORE, else data/)",
    )
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    try:
        tallies = regenerate(options.city, store_url=options.store)
        print_tallies(tallies)
        print_report(options.city, options.store)
    except UelocError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is finished stays in the store", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001  (the last resort of a command line)
        print(f"error: {_explain_defect(error)}", file=sys.stderr)
        return 1
    print(f"\n{options.city} is up to date ({time.perf_counter() - started:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
