"""A throw-away place to run the whole pipeline in: city files, store and Dagster instance."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.quick_city import write_city_file, write_quick_city
from ueloc_core.city import City, load_city
from ueloc_core.provenance import Artifact, ArtifactKey, Store

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Workplace:
    """Folders of one trial, and the city that it is about."""

    root: Path
    city: City

    @property
    def cities(self) -> Path:
        """Folder of the city files."""
        return self.root / "cities"

    @property
    def store(self) -> Store:
        """The store."""
        return Store(str(self.root / "store"))

    def regenerate(self) -> float:
        """Run the command line on the city, Python's start included; returns the seconds.

        Raises
        ------
        SystemExit
            If it fails.
        """
        started = time.perf_counter()
        command = [sys.executable, "-m", "pipelines.regenerate", self.city.name]
        done = subprocess.run(  # noqa: S603  (our own interpreter and module)
            command, cwd=PROJECT, env=self._environment(), stdout=sys.stderr, check=False
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed ({done.returncode})")
        return time.perf_counter() - started

    def artifacts(self, stage: str) -> dict[str, Artifact]:
        """Stored artifacts of a stage by partition."""
        folder = self.root / "store" / self.city.name / stage
        names = sorted(path.parent.name for path in folder.glob("*/current.json"))
        return {
            name: self.store.require(ArtifactKey(self.city.name, stage, name)) for name in names
        }

    def written(self) -> dict[str, int]:
        """When each artifact was last written [ns], by ``stage/partition``."""
        folder = self.root / "store" / self.city.name
        return {
            path.parent.relative_to(folder).as_posix(): path.stat().st_mtime_ns
            for path in folder.glob("*/*/current.json")
        }

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "UELOC_CITIES": str(self.cities),
            "UELOC_STORE": str(self.root / "store"),
            "DAGSTER_HOME": str(self.root / "instance"),
        }


@contextmanager
def workplace(city_name: str, *, quick: bool) -> Iterator[Workplace]:
    """A fresh workplace for a city of ``cities/``, or for the small made-up one if `quick`."""
    with TemporaryDirectory(prefix="ueloc-") as folder:
        root = Path(folder)
        for name in ("cities", "instance"):
            (root / name).mkdir()
        shutil.copy(PROJECT / "instance" / "dagster.yaml", root / "instance")
        if quick:
            city = write_quick_city(root / "cities")
        else:
            city = load_city(city_name)
            for one in _with_those_it_names(city).values():
                write_city_file(one, root / "cities")
        yield Workplace(root, city)


def _with_those_it_names(city: City) -> dict[str, City]:
    """A city, those that it extends and those that train it, and so on, by name."""
    found, waiting = {}, [city.name]
    while waiting:
        one = load_city(waiting.pop())
        if one.name not in found:
            found[one.name] = one
            waiting += [*one.extends, *one.training.cities]
    return found
