import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from ueloc_core.errors import ReportError
from ueloc_core.measurement.report_files import BadRow, read_report_file, write_report_file
from ueloc_core.measurement.reports import decode_rsrp
from ueloc_core.measurement.schemas import SLOTS, ReportSchema

SECTORS = [101, 102, 103, *range(201, 213)]
HEADER = "report_id,sector_id,serving,rsrp_dbm,rsrq_db,sinr_db,cqi,time_s"


@pytest.fixture
def read(tmp_path):
    def read(*lines, header=HEADER):
        path = tmp_path / "reports.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        file = read_report_file(path, SECTORS)
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
    assert reports.time_s.to_numpy().tolist() == [30.5, 31]
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
    file = read_report_file(path, SECTORS)
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
        (b"report_id,sector_id,sector_id,rsrp_dbm\n", "sector_id appears twice"),
        (b'report_id,sector_id,rsrp_dbm\n"a,101,-80\nb,102,-90\n', "not CSV"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, content, message):
    path = tmp_path / "reports.csv"
    path.write_bytes(content)
    with pytest.raises(ReportError, match=message) as error:
        read_report_file(path, SECTORS)
    assert "reports.csv" in str(error.value)


def test_a_missing_file_and_another_format(tmp_path):
    with pytest.raises(ReportError, match="no such file"):
        read_report_file(tmp_path / "none.csv", SECTORS)
    (tmp_path / "reports.xlsx").write_bytes(b"PK")
    with pytest.raises(ReportError, match=r"'\.xlsx' files cannot be read"):
        read_report_file(tmp_path / "reports.xlsx", SECTORS)
    (tmp_path / "reports.parquet").write_bytes(b"PK, not parquet")
    with pytest.raises(ReportError, match="not a Parquet file"):
        read_report_file(tmp_path / "reports.parquet", SECTORS)


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
    file = read_report_file(tmp_path / "reports.parquet", SECTORS)
    assert file.report_ids == ["7"]
    assert file.reports.cqi.to_numpy().tolist() == [11]
    assert [(b.line, b.field) for b in file.bad_rows] == [(3, "report_id"), (3, "sector_id")]


def test_nothing_usable_gives_no_report(read):
    file = read("a,999,1,-80,,,,")
    assert file.report_ids == []
    assert file.reports.sizes["report"] == 0
    assert len(file.bad_rows) == 2


def simulated(seed, count=6):
    """Reports as the pipeline stores them, with every code that can occur."""
    rng = np.random.default_rng(seed)
    heard = rng.integers(1, SLOTS + 1, size=count)
    empty = np.arange(SLOTS) >= heard[:, None]
    sector_id = np.stack([rng.permutation(SECTORS)[:SLOTS] for _ in range(count)])
    rsrp = rng.integers(1, 127, size=(count, SLOTS))
    rsrp[:, 1:] = -np.sort(-rsrp[:, 1:], axis=1)
    codes = {
        "rsrp_code": rsrp,
        "rsrq_code": rng.integers(-1, 128, size=(count, SLOTS)),
        "sinr_code": rng.integers(-1, 128, size=(count, SLOTS)),
    }
    both = ("report", "slot")
    return xr.Dataset(
        {"sector_id": (both, np.where(empty, 0, sector_id).astype(np.int64))}
        | {name: (both, np.where(empty, -1, c).astype(np.int16)) for name, c in codes.items()}
        | {
            "cqi": ("report", rng.integers(-1, 16, size=count).astype(np.int8)),
            "x_m": ("report", np.full(count, np.nan)),
            "y_m": ("report", np.full(count, np.nan)),
            "track": ("report", np.arange(count)),
            "time_s": ("report", rng.uniform(0, 1e4, size=count)),
        }
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ending=st.sampled_from([".csv", ".parquet"]))
def test_what_is_written_is_read_back(tmp_path_factory, seed, ending):
    reports = simulated(seed)
    path = tmp_path_factory.mktemp("files") / f"reports{ending}"
    write_report_file(reports, path, [f"r{i}" for i in range(6)])
    file = read_report_file(path, SECTORS)
    assert file.bad_rows == []
    assert file.report_ids == [f"r{i}" for i in range(6)]
    for name in ("rsrp_code", "rsrq_code", "sinr_code", "cqi"):
        np.testing.assert_array_equal(file.reports[name], reports[name], err_msg=name)
    np.testing.assert_allclose(file.reports["time_s"], reports["time_s"])
    tied = np.diff(reports["rsrp_code"].to_numpy()[:, 1:], axis=1) == 0
    if not tied.any():
        np.testing.assert_array_equal(file.reports["sector_id"], reports["sector_id"])


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
