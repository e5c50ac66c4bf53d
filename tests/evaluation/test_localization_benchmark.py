"""What the benchmark merges out of the last evaluations of related cities."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks import localization
from benchmarks.localization import fixes_by_split, related
from ueloc_core.city import load_cities
from ueloc_core.errors import StoreError
from ueloc_core.provenance import ArtifactKey, Store

BOXES = {
    "north": [24.935, 60.164, 24.953, 60.179],
    "south": [24.935, 60.104, 24.953, 60.119],
    "west": [24.735, 60.104, 24.753, 60.119],
}
VARIANTS = {
    "north_osm": {"extends": "north", "world": {"level": "osm"}},
    "north_unseen": {"extends": "north", "training": {"cities": ["south", "west"]}},
    "south_unseen": {"extends": "south", "training": {"cities": ["north"]}},
    "west_unseen": {"extends": "west", "training": {"cities": ["south"]}},
    "south_unseen_osm": {"extends": "south_unseen", "world": {"level": "osm"}},
}
ERRORS_M = {"north": 3.0, "north_osm": 5.0, "north_unseen": 7.0, "south_unseen": 9.0}


@pytest.fixture
def cities(tmp_path, monkeypatch):
    monkeypatch.setenv("UELOC_CITIES", str(tmp_path / "cities"))
    (tmp_path / "cities").mkdir()
    files = {n: {"bbox": box, "source": {"kind": "bundled"}} for n, box in BOXES.items()}
    for name, keys in (files | VARIANTS).items():
        text = yaml.safe_dump({"name": name, **keys})
        (tmp_path / "cities" / f"{name}.yaml").write_text(text)
    return load_cities()


def fixes_of(error_m, splits, n=4):
    rows = [
        {
            "split": split,
            "method": method,
            "report": k,
            "error_m": error_m * (1 if method == "oracle" else 2) + k,
            "nll_nats": 2.0,
            "hpd_level": 0.1 + 0.2 * k,
            "area90_m2": 100.0,
            "energy_score_m": error_m,
            "in_window": True,
        }
        for split in splits
        for method in ("network", "oracle")
        for k in range(n)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def store(tmp_path, cities):
    """Evaluations of some of the cities; those that are unseen have different numbers of fixes."""
    store = Store(str(tmp_path / "store"))
    own = {
        "north": ("test_area", "path_traced"),
        "north_osm": ("mismatch_osm", "path_traced"),
        "north_unseen": ("test_city", "path_traced"),
        "south_unseen": ("test_city", "path_traced"),
    }
    for name, splits in own.items():
        fixes = fixes_of(ERRORS_M[name], splits, 4 if name != "south_unseen" else 8)
        store.materialize(
            ArtifactKey(name, "evaluation"),
            lambda folder, fixes=fixes: fixes.to_parquet(folder / "fixes.parquet") or {},
            code_version="1",
            params={},
            inputs={},
        )
    return store


def test_related_are_variants_and_unseen_cities_that_train_on_it(cities):
    found = [city.name for city in related(cities["north"], cities.values())]
    assert found == ["north", "north_osm", "north_unseen", "south_unseen", "south_unseen_osm"]
    assert [c.name for c in related(cities["west"], cities.values())] == [
        *("west", "north_unseen", "west_unseen"),
    ]


def test_splits_are_merged_and_unseen_cities_pooled(cities, store):
    north = cities["north"]
    splits, missing = fixes_by_split(north, related(north, cities.values()), store)
    assert missing == ["south_unseen_osm"]
    assert set(splits) == {
        *("test_area", "path_traced", "mismatch_osm", "test_city"),
        *("test_city/north_unseen", "test_city/south_unseen"),
    }
    counts = {name: len(fixes) // 2 for name, fixes in splits.items()}
    assert counts["test_city"] == 12 == counts["test_city/south_unseen"] + 4
    errors = splits["test_city"].query("method == 'oracle'").error_m
    np.testing.assert_allclose(sorted(errors), sorted([7, 8, 9, 10, *range(9, 17)]))
    assert splits["path_traced"].error_m.min() == ERRORS_M["north"]  # of the city itself alone
    assert counts["path_traced"] == 4


def test_a_city_that_differs_in_both_is_no_fold(cities, store):
    """Another city and another map are not pooled with another city alone."""
    fixes = fixes_of(20.0, ("test_city",))
    store.materialize(
        ArtifactKey("south_unseen_osm", "evaluation"),
        lambda folder: fixes.to_parquet(folder / "fixes.parquet") or {},
        code_version="1",
        params={},
        inputs={},
    )
    splits, missing = fixes_by_split(
        cities["north"], related(cities["north"], cities.values()), store
    )
    assert missing == []
    assert len(splits["test_city"]) == 24
    assert splits["test_city_osm"].error_m.min() == 20.0


def run(monkeypatch, store, city="north", *options):
    monkeypatch.setenv("UELOC_STORE", store.url)
    monkeypatch.setattr("sys.argv", ["localization", "--city", city, *options])
    localization.main()


def test_the_last_line_holds_every_split(cities, store, monkeypatch, capsys):
    run(monkeypatch, store)
    out, err = capsys.readouterr()
    splits = json.loads(out.splitlines()[-1])["splits"]
    assert splits["test_area"]["oracle"]["median_m"] == 4.5
    assert splits["mismatch_osm"]["network"]["n"] == 4
    assert splits["test_city"]["network"]["n"] == 12
    assert {"median_m", "p67_m", "p90_m", "nll_nats", "coverage_90", "energy_score_m"} <= set(
        splits["test_area"]["network"]
    )
    assert "not evaluated: south_unseen_osm (make demo CITY=south_unseen_osm)" in err
    assert "test_city/north_unseen" in out


def test_a_city_without_its_own_evaluation_is_left_out(cities, store, monkeypatch, capsys):
    run(monkeypatch, store, "south")
    out, err = capsys.readouterr()
    splits = json.loads(out.splitlines()[-1])["splits"]
    assert set(splits) == {"test_city", "test_city/south_unseen", "test_city/north_unseen"}
    assert "not evaluated: south (" in err


def test_all_splits_are_drawn(cities, store, monkeypatch, tmp_path):
    run(monkeypatch, store, "north", "--draw", str(tmp_path / "new" / "figures"))
    drawn = {path.name for path in (tmp_path / "new" / "figures").iterdir()}
    assert drawn == {"error_by_test.png", "coverage_by_test.png"}


def test_a_folder_that_cannot_be_made_is_an_error_in_words(cities, store, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"file: figures cannot be written \(File exists\)"):
        run(monkeypatch, store, "north", "--draw", str(tmp_path / "file"))


def test_without_any_evaluation_it_says_what_to_do(cities, tmp_path, monkeypatch):
    empty = Store(str(tmp_path / "empty"))
    with pytest.raises(SystemExit, match=r"Run make demo CITY=west"):
        run(monkeypatch, empty, "west")
    with pytest.raises(StoreError):
        localization._print(cities["west"], [cities["west"]], empty)


def test_a_fresh_workplace_holds_all_cities_that_it_needs(cities, tmp_path):
    from benchmarks.workplace import workplace

    with workplace("north_unseen", quick=False) as place:
        names = {path.stem for path in Path(place.cities).glob("*.yaml")}
        assert names == {"north_unseen", "north", "south", "west"}
        text = (place.cities / "north_unseen.yaml").read_text()
    assert yaml.safe_load(text)["extends"] == "north"
    assert yaml.safe_load(text)["training"]["cities"] == ["south", "west"]
