import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from ueloc_core.city import load_city
from ueloc_core.errors import ReportError
from ueloc_core.measurement.dataset import complete
from ueloc_core.measurement.report_files import read_report_file, write_report_file
from ueloc_core.measurement.report_tables import BadRow
from ueloc_core.measurement.reports import decode_rsrp
from ueloc_core.measurement.schemas import SLOTS, ReportSchema

CITY = load_city("helsinki")
SECTORS = [101, 102, 103, *range(201, 213)]
HEADER = "report_id,sector_id,serving,rsrp_dbm,rsrq_db,sinr_db,cqi,time_s"
PLAIN = "report_id,sector_id,serving,rsrp_dbm"


@pytest.fixture
def read(tmp_path):
    def read(*lines, header=HEADER):
        path = tmp_path / "reports.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        file = read_report_file(path, SECTORS, CITY)
        ReportSchema.validate(file.reports)
        return file

    return read


def test_a_good_file_is_read_whole(read):
    file = read(
        "a,102,0,-95.5,-14,2.5,,",
        "a,101,1,-80.2,-11.2,12,9,30.5",
        "a,103,0,-90,,,,",
        "b,103,1,-100,-12,0,4,31",
    )
    assert file.bad_rows == []
    assert file.report_ids == ["a", "b"]
    reports = file.reports
    assert reports.sector_id.to_numpy()[:, :4].tolist() == [[101, 103, 102, 0], [103, 0, 0, 0]]
    assert reports.rsrp_code.to_numpy()[0, :4].tolist() == [76, 67, 61, -1]
    assert reports.rsrq_code.to_numpy()[0, :4].tolist() == [64, -1, 59, -1]
    assert reports.sinr_code.to_numpy()[0, :4].tolist() == [71, -1, 52, -1]
    assert reports.cqi.to_numpy().tolist() == [9, 4]
    assert reports.time_s.to_numpy().tolist() == [0, 0]  # two terminals
    assert reports.scenario.to_numpy().tolist() == [-1, -1]
    assert reports.selected.to_numpy().tolist() == [0, 0]
    assert np.isnan(reports.x_m.to_numpy()).all()


def test_the_strongest_sector_serves_where_none_is_named(read):
    file = read("a,101,-95", "a,102,-80", "a,103,-90", header="report_id,sector_id,rsrp_dbm")
    assert file.reports.sector_id.to_numpy()[0, :3].tolist() == [102, 103, 101]
    unnamed = read("a,101,,-95,,,,", "a,102,0,-80,,,,")
    assert unnamed.reports.sector_id.to_numpy()[0, :2].tolist() == [102, 101]


def test_the_order_of_rows_and_other_columns_do_not_matter(read):
    first = read("a,101,1,-80,,,,", "a,102,0,-90,,,,", "a,103,0,-85,,,,")
    second = read(
        "-85,x,103,0,a",
        "-80,x,101,1,a",
        "-90,x,102,0,a",
        header="rsrp_dbm,site,sector_id,serving,report_id",
    )
    xr.testing.assert_identical(first.reports, second.reports)


@pytest.mark.parametrize(
    ("row", "field", "value", "reason"),
    [
        ("a,999,0,-90,,,,", "sector_id", "999", "unknown sector"),
        ("a,10x,0,-90,,,,", "sector_id", "10x", "not a sector number"),
        ("a,,0,-90,,,,", "sector_id", "", "not a sector number"),
        (",102,0,-90,,,,", "report_id", "", "missing"),
        ("a,102,0,-157,,,,", "rsrp_dbm", "-157", "outside of -156 to -31"),
        ("a,102,0,-30.9,,,,", "rsrp_dbm", "-30.9", "outside of -156 to -31"),
        ("a,102,0,inf,,,,", "rsrp_dbm", "inf", "outside of -156 to -31"),
        ("a,102,0,NaN,,,,", "rsrp_dbm", "NaN", "missing"),
        ("a,102,0,,,,,", "rsrp_dbm", "", "missing"),
        ("a,102,0,strong,,,,", "rsrp_dbm", "strong", "not a number"),
        ('a,102,0,"-80,5",,,,', "rsrp_dbm", "-80,5", "not a number"),
        ("a,102,0,-90,99,,,", "rsrq_db", "99", "outside of -60 to 30"),
        ("a,102,0,-90,,x,,", "sinr_db", "x", "not a number"),
        ("a,102,0,-90,,,16,", "cqi", "16", "outside of 0 to 15"),
        ("a,102,0,-90,,,2.5,", "cqi", "2.5", "not a whole number"),
        ("a,102,0,-90,,,,noon", "time_s", "noon", "not a number"),
        ("a,102,maybe,-90,,,,", "serving", "maybe", "neither 1 nor 0"),
        ("a,101,0,-90,,,,", "sector_id", "101", "names this sector twice"),
        ("a,102,1,-90,,,,", "serving", "True", "a second serving sector"),
        ("a,102,0,-90", "row", "a,102,0,-90", "4 fields where the header has 8"),
    ],
)
def test_a_bad_row_is_named_and_the_good_ones_are_used(read, row, field, value, reason):
    file = read("a,101,1,-80,,,,", row, "a,103,0,-95,,,,")
    (bad,) = file.bad_rows
    assert (bad.line, bad.field, bad.value) == (3, field, value)
    assert reason in bad.reason
    assert file.reports.sector_id.to_numpy()[0].tolist() == [101, 103, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("level", ["-156", "-31", " -80 ", "-8e1"])
def test_levels_at_the_edges_are_good(read, level):
    assert read(f"a,101,1,{level},,,,").bad_rows == []


def test_a_row_may_be_bad_in_several_fields(read):
    file = read("a,101,1,-80,,,,", "a,999,7,x,,,,")
    assert [b.field for b in file.bad_rows] == ["rsrp_dbm", "sector_id", "serving"]
    assert {b.line for b in file.bad_rows} == {3}


def test_lines_are_counted_as_an_editor_does(read):
    file = read("a,101,1,-80,,,,", "", ",,,,,,,", '"a\nb",101,1,-80,,,,', "c,999,1,-80,,,,")
    assert [b.line for b in file.bad_rows if b.field == "sector_id"] == [7]
    assert file.report_ids == ["a", "a\nb"]


def test_a_report_without_usable_row_is_named(read):
    file = read("a,101,1,-80,,,,", "b,999,1,-80,,,,", "b,102,0,x,,,,")
    assert file.report_ids == ["a"]
    assert BadRow(3, "report_id", "b", "not located: no usable row is left in this report") in (
        file.bad_rows
    )


def test_no_other_sector_takes_the_place_of_a_serving_one_that_is_unusable(read):
    file = read("a,101,1,-80,,,,", "b,999,1,-80,,,,", "b,102,0,-85,,,,")
    assert file.report_ids == ["a"]
    reasons = [b.reason for b in file.bad_rows if b.field == "report_id"]
    assert reasons == ["not located: the row of its serving sector is unusable"]


def test_the_weakest_beyond_eight_are_dropped(read):
    rows = [f"a,{200 + i},{int(i == 3)},{-80 - i},,,," for i in range(1, 11)]
    file = read(*rows)
    used = file.reports.sector_id.to_numpy()[0]
    assert used.tolist() == [203, 201, 202, 204, 205, 206, 207, 208]
    assert [(b.line, b.value) for b in file.bad_rows] == [(10, "-89.0"), (11, "-90.0")]
    assert all("8 sectors" in b.reason for b in file.bad_rows)


def test_rows_of_a_report_need_not_stand_together(read):
    file = read("a,101,1,-80,,,,", "b,102,1,-85,,,,", "a,103,0,-90,,,,")
    assert file.report_ids == ["a", "b"]
    assert file.reports.sector_id.to_numpy()[:, :2].tolist() == [[101, 103], [102, 0]]


def test_a_byte_order_mark_and_carriage_returns_are_fine(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_bytes(b"\xef\xbb\xbfreport_id,sector_id,rsrp_dbm\r\na,101,-80\r\nb,102,x\r\n")
    file = read_report_file(path, SECTORS, CITY)
    assert file.report_ids == ["a"]
    assert file.bad_rows[0].line == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"report_id,sector_id,rsrp_dbm\n", "no row below the header"),
        (b"report_id,sector_id,rsrp_dbm\na,101,-80\n\xff\xfe,1,2\n", "line 3 is not UTF-8"),
        (b"report_id;sector_id;rsrp_dbm\na;101;-80\n", "separated by semicolons"),
        (b"report_id\tsector_id\trsrp_dbm\n", "separated by tabs"),
        (b"report_id,sector_id,rsrp\n", "missing column rsrp_dbm.*Name 'rsrp' as 'rsrp_dbm'"),
        (b"Report ID,Sector-ID,RSRP_dBm\n", "'Report ID' as 'report_id'; 'Sector-ID'"),
        (b"x,y\n1,2\n", "missing columns report_id, sector_id, rsrp_dbm"),
        (b"report_id,sector_id,rsrp_dbm,rsrq\na,101,-80,-11\n", "'rsrq' as 'rsrq_db'"),
        (b"report_id,sector_id,rsrp_dbm,time\na,101,-80,1\n", "'time' as 'time_s'"),
        (b"report_id,sector_id,rsrp_dbm,timing_advance\na,101,-80,1\n", "advance' as 'ta'"),
        (b"report_id,sector_id,rsrp_dbm,lat,lon\na,101,-80,1,1\n", "'lon' as 'lon_deg'"),
        (b"report_id,sector_id,rsrp_dbm,lon_deg\na,101,-80,1\n", "lon_deg stands alone"),
        (b"report_id,sector_id,rsrp_dbm,beam_index_1\na,101,-80,1\n", "beam_index_1 stands"),
        (
            b"report_id,sector_id,rsrp_dbm,lon_deg,lat_deg,x_m,y_m\na,101,-80,,,,\n",
            "positions are stated twice",
        ),
        (
            b"report_id,sector_id,rsrp_dbm,beam_index_2,beam_rsrp_dbm_2\na,101,-80,,\n",
            "beam_index_1 is missing",
        ),
        (b"report_id,sector_id,sector_id,rsrp_dbm\n", "sector_id appears twice"),
        (b'report_id,sector_id,rsrp_dbm\n"a,101,-80\nb,102,-90\n', "not CSV"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, content, message):
    path = tmp_path / "reports.csv"
    path.write_bytes(content)
    with pytest.raises(ReportError, match=message) as error:
        read_report_file(path, SECTORS, CITY)
    assert "reports.csv" in str(error.value)


def test_a_missing_file_and_another_format(tmp_path):
    with pytest.raises(ReportError, match="no such file"):
        read_report_file(tmp_path / "none.csv", SECTORS, CITY)
    (tmp_path / "reports.xlsx").write_bytes(b"PK")
    with pytest.raises(ReportError, match=r"'\.xlsx' files cannot be read"):
        read_report_file(tmp_path / "reports.xlsx", SECTORS, CITY)
    (tmp_path / "reports.parquet").write_bytes(b"PK, not parquet")
    with pytest.raises(ReportError, match="not a Parquet file"):
        read_report_file(tmp_path / "reports.parquet", SECTORS, CITY)


def test_parquet_is_read_by_its_types(tmp_path):
    table = pd.DataFrame(
        {
            "report_id": [7, 7, 8],
            "sector_id": [101, 102, 999],
            "serving": [True, False, True],
            "rsrp_dbm": [-80.0, -90.5, -70.0],
            "cqi": [11.0, np.nan, np.nan],
        }
    )
    table.to_parquet(tmp_path / "reports.parquet")
    file = read_report_file(tmp_path / "reports.parquet", SECTORS, CITY)
    assert file.report_ids == ["7"]
    assert file.reports.cqi.to_numpy().tolist() == [11]
    assert [(b.line, b.field) for b in file.bad_rows] == [(3, "report_id"), (3, "sector_id")]


def test_nothing_usable_gives_no_report(read):
    file = read("a,999,1,-80,,,,")
    assert file.report_ids == []
    assert file.reports.sizes["report"] == 0
    assert len(file.bad_rows) == 2


def simulated(seed, count=6):
    """Reports of some tracks as the pipeline stores them, with every code that can occur."""
    rng = np.random.default_rng(seed)
    heard = rng.integers(1, SLOTS + 1, size=count)
    empty = np.arange(SLOTS) >= heard[:, None]
    sector_id = np.stack([rng.permutation(SECTORS)[:SLOTS] for _ in range(count)])
    rsrp = rng.integers(1, 127, size=(count, SLOTS))
    rsrp[:, 1:] = -np.sort(-rsrp[:, 1:], axis=1)
    codes = {
        "rsrp_code": rsrp,
        "rsrq_code": rng.integers(-1, 91, size=(count, SLOTS)),
        "sinr_code": rng.integers(-1, 128, size=(count, SLOTS)),
    }
    beams = np.arange(4) >= rng.integers(0, 5, size=count)[:, None]
    index = np.stack([rng.permutation(64)[:4] for _ in range(count)])
    drop = np.sort(rng.integers(0, 16, size=(count, 3)), axis=1)
    beam_code = np.concatenate([rng.integers(16, 114, size=(count, 1)), drop], axis=1)
    track = np.sort(rng.integers(0, 3, size=count))
    first = np.append(True, track[1:] != track[:-1])
    time_s = np.cumsum(rng.uniform(0.1, 9.0, size=count))
    time_s -= np.maximum.accumulate(np.where(first, time_s, 0))
    x0, y0, x1, y1 = CITY.bounds_m
    flat = {
        "cqi": rng.integers(-1, 16, size=count),
        "ri": rng.choice([-1, 1, 2, 8], size=count),
        "ta_code": rng.integers(-1, 60, size=count),
        "ta_offset_ns": rng.choice([-32768, -16800, -1, 0, 16800], size=count),
        "aoa_code": rng.integers(-1, 3600, size=count),
        "ul_sinr_code": rng.choice([-32768, -32767, -1, 0, 32767], size=count),
        "throughput_kbps": rng.integers(-1, 10**6, size=count),
        "bler_percent": rng.integers(-1, 101, size=count),
        "x_m": rng.uniform(x0, x1, size=count),
        "y_m": rng.uniform(y0, y1, size=count),
        "speed_m_s": rng.uniform(0, 20, size=count).astype(np.float32),
        "heading_deg": rng.uniform(0, 360, size=count).astype(np.float32),
        "track": pd.factorize(track)[0],
        "time_s": time_s,
    }
    both, beam = ("report", "slot"), ("report", "beam")
    reports = complete(
        xr.Dataset(
            {"sector_id": (both, np.where(empty, 0, sector_id).astype(np.int64))}
            | {name: (both, np.where(empty, -1, c).astype(np.int16)) for name, c in codes.items()}
            | {"beam_index": (beam, np.where(beams, -1, index))}
            | {"beam_code": (beam, np.where(beams, -1, beam_code))}
            | {name: ("report", values) for name, values in flat.items()}
        )
    )
    ReportSchema.validate(reports)
    return reports


CODES = (
    "rsrp_code", "rsrq_code", "sinr_code", "cqi", "ri", "ta_code", "ta_offset_ns", "aoa_code",
    "ul_sinr_code", "throughput_kbps", "bler_percent", "beam_code", "track",
)  # fmt: skip
FLOATS = ("x_m", "y_m", "speed_m_s", "heading_deg", "time_s")


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ending=st.sampled_from([".csv", ".parquet"]))
def test_what_is_written_is_read_back(tmp_path_factory, seed, ending):
    reports = simulated(seed)
    path = tmp_path_factory.mktemp("files") / f"reports{ending}"
    write_report_file(reports, path, [f"r{i}" for i in range(6)], truth=True)
    file = read_report_file(path, SECTORS, CITY)
    ReportSchema.validate(file.reports)
    assert file.bad_rows == []
    assert file.report_ids == [f"r{i}" for i in range(6)]
    for name in CODES:
        np.testing.assert_array_equal(file.reports[name], reports[name], err_msg=name)
    for name in FLOATS:
        np.testing.assert_allclose(file.reports[name], reports[name], err_msg=name, atol=1e-5)
    for name, code in (("sector_id", reports["rsrp_code"]), ("beam_index", reports["beam_code"])):
        tied = (np.diff(code.to_numpy()[:, 1:], axis=1) == 0) & (code.to_numpy()[:, 2:] >= 0)
        if not tied.any():
            np.testing.assert_array_equal(file.reports[name], reports[name])


def test_written_levels_are_those_of_the_code(tmp_path):
    reports = simulated(1)
    write_report_file(reports, tmp_path / "reports.csv")
    table = pd.read_csv(tmp_path / "reports.csv")
    first = table[table["report_id"] == 0].iloc[0]
    assert first["rsrp_dbm"] == decode_rsrp(reports.rsrp_code.to_numpy()[0, 0])
    assert first["serving"] == 1
    assert "x_m" not in table
    with pytest.raises(ReportError, match=r"\.json"):
        write_report_file(reports, tmp_path / "reports.json")


VALUES = "ri,ta,ta_offset_ns,aoa_deg,ul_sinr_db,throughput_mbps,bler"


def test_values_of_the_serving_sector_get_their_codes(read):
    file = read(
        "a,101,1,-80,2,7,-40,90,12.5,31.25,0.07", "a,102,0,-90,,,,,,,", header=f"{PLAIN},{VALUES}"
    )
    assert file.bad_rows == []
    reports = file.reports.isel(report=0)
    assert (int(reports.ri), int(reports.ta_code), int(reports.ta_offset_ns)) == (2, 7, -40)
    assert int(reports.aoa_code) == 2700  # 90 degrees by the compass, counter-clockwise in 3GPP
    assert int(reports.ul_sinr_code) == 6250
    assert (int(reports.throughput_kbps), int(reports.bler_percent)) == (31250, 7)


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ("9,,,,,,", "ri", "outside of 1 to 8"),
        (",3847,,,,,", "ta", "outside of 0 to 3846 (steps"),
        (",2.5,,,,,", "ta", "not a whole number"),
        (",,40000,,,,", "ta_offset_ns", "outside of -16800"),
        (",,,361,,,", "aoa_deg", "outside of 0 to 360"),
        (",,,,70,,", "ul_sinr_db", "outside of -65"),
        (",,,,,-1,", "throughput_mbps", "outside of 0"),
        (",,,,,,7", "bler", "outside of 0 to 1 (a share"),
    ],
)
def test_a_value_out_of_range_costs_its_report_alone(read, value, field, reason):
    file = read(f"a,101,1,-80,{value}", "b,101,1,-80,,,,,,,", header=f"{PLAIN},{VALUES}")
    assert file.report_ids == ["b"]
    assert [b.field for b in file.bad_rows] == sorted([field, "report_id"])
    assert any(reason in b.reason for b in file.bad_rows)


BEAMED = f"{PLAIN},beam_index_1,beam_rsrp_dbm_1,beam_index_2,beam_rsrp_dbm_2"


def test_beams_stand_by_their_level_whatever_their_order(read):
    one = read("a,101,1,-80,5,-90.2,7,-85.2", header=BEAMED).reports
    other = read("a,101,1,-80,7,-85.2,5,-90.2", header=BEAMED).reports
    xr.testing.assert_identical(one, other)
    assert one.beam_index.to_numpy().tolist() == [[7, 5, -1, -1]]
    assert one.beam_code.to_numpy().tolist() == [[71, 2, -1, -1]]


@pytest.mark.parametrize(
    ("beams", "reason"),
    [
        ("5,,,", "belong together"),
        ("5,-80,5,-90", "named twice"),
        ("64,-80,,", "outside of 0 to 63"),
    ],
)
def test_half_a_beam_or_one_twice_is_bad(read, beams, reason):
    file = read(f"a,101,1,-80,{beams}", "b,101,1,-80,,,,", header=BEAMED)
    assert file.report_ids == ["b"]
    assert any(reason in b.reason for b in file.bad_rows)


def test_reports_of_a_terminal_stand_together_by_time(read):
    rows = ["a,101,1,-80,x,1000.5", "b,101,1,-81,y,7", "c,101,1,-82,x,998", "d,101,1,-83,,1"]
    file = read(*rows, header=f"{PLAIN},track,time_s")
    assert file.report_ids == ["c", "a", "b", "d"]
    assert file.reports.track.to_numpy().tolist() == [0, 0, 1, 2]
    assert file.reports.time_s.to_numpy().tolist() == [0, 2.5, 0, 0]


def test_reports_that_no_time_puts_in_order_are_tracks_of_their_own(read):
    rows = ["a,101,1,-80,x,1", "b,101,1,-81,x,", "c,101,1,-82,x,1", "d,101,1,-82,x,2e9"]
    file = read(*rows, header=f"{PLAIN},track,time_s")
    assert file.bad_rows == []
    assert sorted(file.reports.track.to_numpy().tolist()) == [0, 1, 2, 3]


def test_true_positions_land_in_the_citys_crs(read):
    lon, lat = 24.94, 60.17
    file = read(
        f"a,101,1,-80,{lon},{lat}",
        "b,101,1,-80,0,0",
        "c,101,1,-80,,",
        header=f"{PLAIN},lon_deg,lat_deg",
    )
    assert file.bad_rows == []
    reports = file.reports
    found = CITY.to_lonlat(reports.x_m.to_numpy()[0], reports.y_m.to_numpy()[0])
    np.testing.assert_allclose(found, (lon, lat), atol=1e-7)
    assert np.isnan(reports.x_m.to_numpy()[1:]).all()  # 0, 0 is no fix
    again = read(
        f"a,101,1,-80,{reports.x_m.to_numpy()[0]},{reports.y_m.to_numpy()[0]}",
        header=f"{PLAIN},x_m,y_m",
    )
    np.testing.assert_allclose(again.reports.x_m, reports.x_m[:1])


def test_a_position_elsewhere_or_half_of_one_is_bad(read):
    file = read(
        *("a,101,1,-80,2.35,48.85", "b,101,1,-80,24.94,", "c,101,1,-80,24.94,60.17"),
        header=f"{PLAIN},lon_deg,lat_deg",
    )
    assert file.report_ids == ["c"]
    reasons = {b.line: b.reason for b in file.bad_rows if b.field == "lon_deg"}
    assert "outside of the city" in reasons[2]
    assert "one is missing" in reasons[3]


def columns_of(name, values):
    return [f"{i},101,1,{'-80' if name != 'rsrp_dbm' else ''},{v}" for i, v in enumerate(values)]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("rsrq_db", [60, 61, 70, 45, 50], "looks like 3GPP codes"),
        ("rsrq_db", [11.2, 10.5, 9.75, 14, 12], "without their minus sign"),
        ("sinr_db", [60, 61, 70, 45, 50], "looks like 3GPP codes"),
        ("ta", [0.5, 1.3, 2.7, 1.1, 0.2], "a time or a distance, not steps"),
        ("ta", [150, 220, 410, 95, 300], "metres or nanoseconds, not steps of 39.04 m"),
        ("ta", [4100, 5000, 9000, 12000, 4000], "a time or a distance"),
        ("time_s", [1.76e12, 1.76e12, 1.76e12, 1.76e12, 1.76e12], "looks like milliseconds"),
        ("time_s", ["2025-01-01T10:00:0" + str(i) for i in range(5)], "looks like dates"),
        ("bler", [10, 5, 20, 3, 8], "looks like percent"),
        ("throughput_mbps", [90000, 120000, 80000, 70000, 50000], "kbit/s or bit/s"),
        ("speed_m_s", [50, 48, 36, 40, 45], "looks like km/h"),
        ("heading_deg", [0.5, 1.5, 3.1, 4.5, 6.2], "looks like radians"),
        ("aoa_deg", [-170, -20, 30, 95, -60], "angles from -180 to 180"),
    ],
)
def test_a_column_in_another_unit_is_refused_by_name(read, column, values, message):
    with pytest.raises(ReportError, match=f"column {column} looks like.*") as error:
        read(*columns_of(column, values), header=f"{PLAIN},{column}")
    assert message in str(error.value)
    assert error.value.remedy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([80, 92, 101, 77, 85], "3GPP codes, or levels without their minus sign"),
        ([80.5, 92.25, 101, 77, 85.5], "without their minus sign"),
        ([-805, -920, -1010, -770, -850], "tenths of a dBm"),
    ],
)
def test_levels_in_another_unit_are_refused(read, values, message):
    with pytest.raises(ReportError, match="column rsrp_dbm looks like") as error:
        read(*(f"{i},101,1,{v}" for i, v in enumerate(values)), header=PLAIN)
    assert message in str(error.value)


def test_swapped_axes_and_another_city_are_refused(read):
    header = f"{PLAIN},lon_deg,lat_deg"
    with pytest.raises(ReportError, match="lon_deg and lat_deg look swapped"):
        read(*(f"{i},101,1,-80,60.17,24.94" for i in range(5)), header=header)
    with pytest.raises(ReportError, match="lies near helsinki"):
        read(*(f"{i},101,1,-80,2.35,48.85" for i in range(5)), header=header)
    with pytest.raises(ReportError, match="x_m and y_m look like degrees"):
        read(*(f"{i},101,1,-80,24.94,60.17" for i in range(5)), header=f"{PLAIN},x_m,y_m")


@pytest.mark.parametrize("count", [1, 4])
def test_a_few_wrong_values_are_bad_rows_not_a_wrong_file(read, count):
    good = [f"good{i},101,1,-80" for i in range(3)]
    file = read(*(f"{i},101,1,80" for i in range(count)), *good, header=PLAIN)
    assert file.report_ids == ["good0", "good1", "good2"]
    assert {b.line for b in file.bad_rows} == set(range(2, count + 2))


@settings(max_examples=40, deadline=None)
@given(
    cells=st.lists(
        st.lists(
            st.one_of(
                st.text(max_size=8),
                st.floats().map(str),
                st.integers(-200, 200).map(str),
                st.sampled_from(["101", "-80", "a", "1", "", "24.94", "60.17", "2025-01-01"]),
            ),
            min_size=11,
            max_size=11,
        ),
        min_size=1,
        max_size=8,
    )
)
def test_no_garbage_breaks_the_reading(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("garbage") / "reports.csv"
    names = ["report_id", "sector_id", "serving", "rsrp_dbm", "ta", "track", "time_s"]
    names += ["lon_deg", "lat_deg", "beam_index_1", "beam_rsrp_dbm_1"]
    pd.DataFrame(cells, columns=names).to_csv(path, index=False)
    try:
        file = read_report_file(path, SECTORS, CITY)
    except ReportError:
        return
    ReportSchema.validate(file.reports)
    assert len(file.report_ids) == file.reports.sizes["report"]
    assert file.report_ids or file.bad_rows
