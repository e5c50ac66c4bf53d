import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from overpass_server import read_json, serving

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
                "elevation_m": np.full(len(ids), 20.0),
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
    commands = (
        "localize",
        "formats",
        "sectors",
        "cities",
        "report",
        "export-map",
        "download",
        "new-city",
    )
    for command in commands:
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


DRIVE = "Timestamp,Longitude,Latitude,NR_PCI,NR_SS_RSRP\n"


def test_formats_are_listed_with_their_columns(tmp_path):
    result = run("formats")
    assert result.exit_code == 0, result.output
    for word in ("drive_test: ", "NR_SS_RSRP", "mdt: ", "[timestamp]", "opencellid: ", "signal"):
        assert word in result.stdout


def test_a_format_is_printed_as_a_mapping_to_start_from(store, tmp_path):
    printed = run("formats", "drive_test")
    assert printed.exit_code == 0, printed.output
    (tmp_path / "own.yaml").write_text(printed.stdout.replace("NR_SS_RSRP", "Level"))
    log = tmp_path / "drive.csv"
    log.write_text(DRIVE.replace("NR_SS_RSRP", "Level") + "2025-03-01T10:00:00Z,,,7,-80\n")
    result = run(
        *("localize", log, "--city", "helsinki", "--store", store, "-o", tmp_path / "f.csv"),
        *("--format", tmp_path / "own.yaml"),
    )
    assert_one_line(result, "no report could be used")
    assert "line 2: NR_PCI = '7': no sector of the city has this PCI" in result.stderr


@pytest.mark.parametrize("option", ["tems", "none.yaml"])
def test_an_unknown_format_is_one_line(store, reports, tmp_path, option):
    result = run(
        *("localize", reports, "--city", "helsinki", "--store", store),
        *("-o", tmp_path / "f.csv", "--format", option),
    )
    assert_one_line(result, option)
    assert_one_line(run("formats", option), option)


def test_a_log_in_the_wrong_unit_is_one_line(store, tmp_path):
    log = tmp_path / "drive.csv"
    log.write_text(DRIVE + "2025-03-01T10:00:00Z,,,101,80\n" * 5)
    result = run(
        *("localize", log, "--city", "helsinki", "--store", store, "-o", tmp_path / "f.csv"),
        *("--format", "drive_test"),
    )
    assert_one_line(result, "column NR_SS_RSRP looks like", "drive.csv", "nr_code")


def test_estimates_are_compared_with_the_positions_that_a_file_states(capsys):
    from types import SimpleNamespace

    from ueloc_core.cli import _tell_distances

    fixes = pd.DataFrame({"x_m": [3.0, 0.0, 9.0], "y_m": [4.0, 0.0, 9.0]})
    stated = {"x_m": np.array([0.0, 0.0, np.nan]), "y_m": np.array([0.0, 15.0, np.nan])}
    reports = {name: pd.Series(values) for name, values in stated.items()}
    _tell_distances(fixes, SimpleNamespace(reports=reports))
    told = capsys.readouterr().err
    assert "2 stated positions: median 10 m, 90% within 14 m" in told
    nowhere = {name: pd.Series(np.full(3, np.nan)) for name in reports}
    _tell_distances(fixes, SimpleNamespace(reports=nowhere))
    assert capsys.readouterr().err == ""


BOX = "24.93973,60.17002,24.94573,60.17272"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server that answers as Overpass and Nominatim do, and an empty folder of cities."""
    from ueloc_core.geodata.sources import source_path
    from ueloc_core.synthetic import synthetic_city

    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("UELOC_CITIES", str(tmp_path / "cities"))
    monkeypatch.setenv("UELOC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UELOC_EXTRACTS", raising=False)
    (tmp_path / "town").mkdir()
    town = synthetic_city(tmp_path / "town")
    with serving() as server:
        monkeypatch.setenv("UELOC_OVERPASS_URL", server.url)
        monkeypatch.setenv("UELOC_NOMINATIM_URL", server.url)
        server.elements = read_json(source_path(town))
        west, south, east, north = town.bbox
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        server.places = [
            {
                "importance": 1,
                "lat": "60.17",
                "lon": "24.94",
                "display_name": "Town",
                "boundingbox": [str(south), str(north), str(west), str(east)],
                "geojson": {"type": "Polygon", "coordinates": [ring]},
            }
        ]
        yield server


def test_a_new_city_by_place_is_written_and_downloaded(server, tmp_path):
    written = run("new-city", "town", "--place", "Made-up town")
    assert written.exit_code == 0, written.output
    assert written.stdout.strip() == str(tmp_path / "cities" / "town.yaml")
    assert "next: ueloc download town" in written.stderr
    city = load_city("town")
    assert (city.title, city.source.kind) == ("Made-up town", "overpass")
    assert "q=Made-up town" in server.requests[0]
    for _ in range(2):
        done = run("download", "town")
        assert done.exit_code == 0, done.output
        path = done.stdout.strip()
        assert path.startswith(str(tmp_path / "cache"))
        for word in ("overpass", "data of 2026-01-01", " buildings", " roads", " MB", "ODbL"):
            assert word in done.stderr
        assert len(server.queries) == 1
    assert run("download", "town", "--refresh").exit_code == 0
    assert len(server.queries) == 2


def test_a_local_extract_is_told_and_not_downloaded(server, tmp_path, monkeypatch):
    import shutil

    from ueloc_core.geodata.sources import source_path

    assert run("new-city", "town", f"--bbox={BOX}").exit_code == 0
    monkeypatch.setenv("UELOC_EXTRACTS", str(tmp_path))
    (made,) = (tmp_path / "town").glob("*.osm*")
    path = tmp_path / f"town{made.name[made.name.index('.') :]}"
    shutil.copy(made, path)
    assert source_path(load_city("town")) == path
    for options in ((), ("--refresh",)):
        done = run("download", "town", *options)
        assert done.stdout.strip() == str(path)
        assert f"file {path.name}" in done.stderr
    assert server.requests == []


def test_a_download_that_fails_is_one_line(server):
    assert run("new-city", "town", f"--bbox={BOX}").exit_code == 0
    server.answers = [(500, b"")]
    result = run("download", "town")
    assert_one_line(result, "HTTP 500", server.url, "UELOC_EXTRACTS")


def test_a_new_city_gets_splits_where_it_has_room(server):
    assert run("new-city", "town", f"--bbox={BOX}").exit_code == 0
    assert load_city("town").splits.test == ()
    assert run("new-city", "large", "--bbox=24.90,60.15,24.96,60.18").exit_code == 0
    large = load_city("large")
    names = [*large.splits.validation, *large.splits.calibration, *large.splits.test]
    assert len(set(names)) == len(names) == 5
    for test in large.splits.test:
        near = large.tile(test).window.buffered(large.tiles.size_m / 2)
        assert not any(near.intersection(large.tile(t).window) for t in large.splits.calibration)


def test_a_city_file_is_not_overwritten(server, tmp_path):
    assert run("new-city", "town", f"--bbox={BOX}").exit_code == 0
    path = tmp_path / "cities" / "town.yaml"
    before = path.read_bytes()
    assert_one_line(run("new-city", "town", "--bbox=1,2,1.01,2.01"), str(path), "already")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ("7,43,7,43.1", ["has no area"]),
        ("7,43.1,7.1,43", ["has no area"]),
        ("179.9,-17,-179.9,-16.9", ["antimeridian"]),
        ("10,85,10.1,85.1", ["pole"]),
        ("10,-81,10.1,-80.5", ["pole"]),
        ("5.9,47.3,15.0,55.1", ["100 km"]),
        ("-180,-80,180,84", ["km"]),
        ("43.7,7.4,43.8", ["west,south,east,north"]),
        ("a,b,c,d", ["west,south,east,north"]),
        ("nan,43,7,44", ["not a number"]),
        ("0,0,inf,1", ["not a number"]),
        ("200,0,201,1", ["-180..180"]),
    ],
)
def test_boxes_that_are_no_city(server, tmp_path, box, words):
    assert_one_line(run("new-city", "town", f"--bbox={box}"), f"--bbox {box}", *words)
    assert not (tmp_path / "cities").exists()


def test_a_place_that_is_a_country(server, tmp_path):
    server.places[0]["boundingbox"] = ["47.3", "55.1", "5.9", "15.0"]
    assert_one_line(run("new-city", "de", "--place", "Germany"), "--place Germany", "100 km")
    assert not (tmp_path / "cities").exists()


@pytest.mark.parametrize("name", ["Town", "../town", "town.yaml", "1town", ""])
def test_names_that_are_no_name_of_a_city(server, tmp_path, name):
    result = run("new-city", name, f"--bbox={BOX}")
    assert_one_line(result, "small letters")
    assert not (tmp_path / "cities").exists()


def test_either_a_place_or_a_box(server):
    for options in ((), ("--place", "Town", f"--bbox={BOX}")):
        assert_one_line(run("new-city", "town", *options), "either --place or --bbox")


def test_a_new_city_file_is_plain(server, tmp_path):
    assert run("new-city", "town", f"--bbox={BOX}", "--title", 'Würzburg: "yes" #1').exit_code == 0
    text = (tmp_path / "cities" / "town.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Every key that is left out takes its default")
    content = yaml.safe_load(text)
    assert content["title"] == 'Würzburg: "yes" #1'
    assert content["bbox"] == [float(side) for side in BOX.split(",")]
