"""Fixtures that run the pipeline in a place of its own."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.quick_city import write_quick_city

# everything is seeded, the drawn examples too: a run fails or passes for what it tests
hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("seeded")


@pytest.fixture(scope="session")
def quick_cities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the file and the extract of the small made-up city."""
    folder = tmp_path_factory.mktemp("cities")
    write_quick_city(folder)
    return folder


@pytest.fixture(scope="session")
def pipeline(quick_cities: Path) -> SimpleNamespace:
    """The modules of the pipeline, loaded when ``UELOC_CITIES`` held the small city alone.

    Partitions are computed when they are imported, so tests take them from here.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UELOC_CITIES", str(quick_cities))
        import assets.partitions
        import pipelines.backfill
        import pipelines.definitions
        import pipelines.instance
        import pipelines.regenerate
        import pipelines.schedules
        import pipelines.sensors

    assert list(assets.partitions.CITIES) == ["synthetic"], "partitions were imported too early"
    return SimpleNamespace(
        partitions=assets.partitions,
        backfill=pipelines.backfill,
        definitions=pipelines.definitions,
        instance=pipelines.instance,
        regenerate=pipelines.regenerate,
        schedules=pipelines.schedules,
        sensors=pipelines.sensors,
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Dagster home of the test's own, set up like the project's."""
    folder = tmp_path / "instance"
    folder.mkdir()
    text = (Path(__file__).parent.parent / "instance" / "dagster.yaml").read_text()
    (folder / "dagster.yaml").write_text(text)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    yield folder
    os.environ.pop("DAGSTER_HOME", None)
