import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from ueloc_core.city import load_city
from ueloc_core.cli import main
from ueloc_core.provenance import ArtifactKey, Store
from ueloc_core.radio.schemas import SectorSchema

GOOD = "report_id,sector_id,serving,rsrp_dbm\na,101,1,-80\na,102,0,-90\n"


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def reports(tmp_path):
    path = tmp_path / "reports.csv"
    path.write_text(GOOD + "b,999,1,-70\n")
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store that holds the sites of every tile, and no model."""
    url = str(tmp_path_factory.mktemp("store"))
    city = load_city("helsinki")
    for index, tile in enumerate(city.tile_list):
        ids = np.array([102, 101] if index == 0 else [], dtype=np.int64)
        x_m, y_m = tile.window.centre_m
        lon_deg, lat_deg = city.to_lonlat(x_m, y_m)
        table = pd.DataFrame(
            {
                "sector_id": ids,
                "site_id": ids,
                "tile": pd.Series([tile.name] * len(ids), dtype=object),
                "x_m": np.full(len(ids), x_m),
                "y_m": np.full(len(ids), y_m),
                "height_m": np.full(len(ids), 20.0),
                "azimuth_deg": np.linspace(0.0, 120.0, len(ids)),
                "downtilt_deg": np.full(len(ids), 8.0),
                "power_dbm": np.full(len(ids), 46.0),
                "pci": ids,
                "lon_deg": np.full(len(ids), lon_deg),
                "lat_deg": np.full(len(ids), lat_deg),
            }
        )
        SectorSchema.validate(table)

        def write(folder, table=table):
            table.to_parquet(folder / "sectors.parquet")
            return {"sectors": len(table)}

        key = ArtifactKey("helsinki", "sites", tile.name)
        Store(url).materialize(key, write, code_version="1", params={}, inputs={})
    return url


def assert_one_line(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert result.stderr.splitlines()[-1] == lines[0]
    for word in words:
        assert word in lines[0]


def test_help_explains_itself():
    overview = run("--help")
    assert overview.exit_code == 0
    for command in ("localize", "sectors", "cities", "report"):
        assert command in overview.stdout
        assert run(command, "--help").exit_code == 0
    details = run("localize", "-h").stdout
    for word in (
        "report_id",
        "rsrp_dbm",
        ".geojson",
        "50%",
        "90%",
        "docs/reports.md",
        "UELOC_STORE",
    ):
        assert word in details


def test_help_needs_no_heavy_library():
    code = (
        "import sys, click.testing as t; from ueloc_core.cli import main;"
        "assert t.CliRunner().invoke(main, ['localize', '--help']).exit_code == 0;"
        "print({'torch', 'sionna', 'mitsuba', 'dagster', 'geopandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_cities_are_listed():
    result = run("cities")
    assert result.exit_code == 0
    assert "helsinki" in result.stdout
    assert "12 tiles" in result.stdout


def test_sectors_are_listed_as_csv(store):
    result = run("sectors", "--city", "helsinki", "--store", store)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(io.StringIO(result.stdout))
    assert table["sector_id"].tolist() == [101, 102]
    assert table["lat_deg"].between(60, 61).all()


def test_the_store_may_come_from_the_environment(store):
    result = CliRunner().invoke(main, ["sectors", "--city", "helsinki"], env={"UELOC_STORE": store})
    assert result.exit_code == 0


def test_a_city_is_required_and_must_exist():
    assert "--city" in run("sectors").stderr
    assert_one_line(run("sectors", "--city", "nowhere"), "no such city file", "helsinki")


def test_nothing_computed_says_what_to_run(reports, tmp_path):
    for command in (
        ("sectors",),
        ("report",),
        ("localize", reports, "-o", tmp_path / "fixes.csv"),
    ):
        result = run(*command, "--city", "helsinki", "--store", tmp_path / "empty")
        assert_one_line(result, "has not been computed", "make demo")


def test_an_unknown_output_format_is_told_before_any_work(reports, tmp_path):
    result = run("localize", reports, "--city", "helsinki", "-o", tmp_path / "fixes.kml")
    assert_one_line(result, "'.kml'", ".geojson, .csv, .parquet")


def test_a_missing_report_file(store, tmp_path):
    result = run(
        "localize",
        tmp_path / "no.csv",
        "--city",
        "helsinki",
        "-o",
        tmp_path / "f.csv",
        "--store",
        store,
    )
    assert_one_line(result, "no.csv", "no such file")


def test_a_city_without_a_model_says_what_to_run(store, reports, tmp_path):
    output, bad_rows = tmp_path / "fixes.geojson", tmp_path / "bad.csv"
    result = run(
        *("localize", reports, "--city", "helsinki", "-o", output),
        *("--store", store, "--bad-rows", bad_rows),
    )
    assert_one_line(result, "has not been computed", "make demo")
    assert not output.exists()
    assert "line 4: sector_id = '999': unknown sector" in result.stderr
    table = pd.read_csv(bad_rows, dtype=str)
    assert table["line"].tolist() == ["4", "4"]
    assert list(table) == ["line", "field", "value", "reason"]


def test_nothing_usable_is_an_error(store, tmp_path):
    reports = tmp_path / "reports.csv"
    rows = [f"r{i},{900 + i},1,-80" for i in range(30)]
    reports.write_text("\n".join(["report_id,sector_id,serving,rsrp_dbm", *rows]))
    result = run(
        *("localize", reports, "--city", "helsinki", "-o", tmp_path / "fixes.csv"),
        *("--store", store),
    )
    assert_one_line(result, "no report could be used")
    assert "and 50 more (give --bad-rows FILE" in result.stderr


def test_bad_rows_that_cannot_be_written(store, reports, tmp_path):
    result = run(
        *("localize", reports, "--city", "helsinki", "-o", tmp_path / "fixes.csv"),
        *("--store", store, "--bad-rows", tmp_path / "nowhere" / "bad.csv"),
    )
    assert_one_line(result, "bad.csv", "cannot be written")
