"""Fixtures that run the pipeline in a place of its own."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.quick_city import SMALL, write_quick_city
from ueloc_core.synthetic import write_synthetic_city

VARIANTS = {
    "synthetic_osm": {"extends": "synthetic", "world": {"level": "osm"}, "schedule": None},
    "elsewhere": {
        **SMALL,
        "source": {"kind": "file", "path": "elsewhere.osm.gz"},
        "bbox": [24.9997, 60.1711, 25.0057, 60.1729],
        "tiles": {"size_m": 128},
        "schedule": None,
        "splits": {
            "validation": ["e3040n52127"],
            "calibration": ["e3039n52127"],
            "test": ["e3041n52127"],
            "guard_m": 8,
        },
    },
    "elsewhere_unseen": {"extends": "elsewhere", "training": {"cities": ["synthetic"]}},
}
"""Cities beside the small one: its variant, and one elsewhere, alone and unseen."""

# everything is seeded, the drawn examples too: a run fails or passes for what it tests
hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("seeded")


@pytest.fixture(scope="session")
def quick_cities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the files and extracts of the small made-up city and of its `VARIANTS`."""
    folder = tmp_path_factory.mktemp("cities")
    write_quick_city(folder)
    elsewhere = VARIANTS["elsewhere"]
    write_synthetic_city(folder / elsewhere["source"]["path"], bbox=elsewhere["bbox"], seed=3)
    for name, keys in VARIANTS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **json_values(keys)}))
    return folder


def json_values(keys: dict[str, Any]) -> Any:
    return json.loads(json.dumps(keys))


@pytest.fixture(scope="session")
def pipeline(quick_cities: Path) -> SimpleNamespace:
    """The modules of the pipeline, loaded when ``UELOC_CITIES`` held the small cities alone.

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

    known = sorted(["synthetic", *VARIANTS])
    assert list(assets.partitions.CITIES) == known, "partitions were imported too early"
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
