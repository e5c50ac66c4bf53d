import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ueloc_core.city import load_city
from ueloc_core.errors import ReportError
from ueloc_core.measurement.log_files import read_log_file
from ueloc_core.measurement.log_mappings import LogMapping, described_columns, read_mapping
from ueloc_core.measurement.log_presets import PRESETS, mapping_named
from ueloc_core.measurement.report_units import LTE_RSRP, LTE_RSRQ, UNITS, scales_of, wrong_unit
from ueloc_core.measurement.schemas import ReportSchema
from ueloc_core.radio.link import timing_advance_step_m
from ueloc_core.radio.schemas import SectorSchema

CITY = load_city("helsinki")
REPOSITORY = Path(__file__).parents[2]
X0, Y0 = (round(side) for side in CITY.bounds_m[:2])


def sector_table():
    """Four sites along a street: PCI 10 is near the first site alone, 30 at two near ones."""
    rows = [
        (101, 1, 100, 100, 10, "NR-244-91-5-101"),
        (102, 1, 100, 100, 11, ""),
        (201, 2, 400, 100, 20, ""),
        (202, 2, 400, 100, 30, ""),
        (301, 3, 520, 100, 30, ""),
        (401, 4, 1000, 1500, 10, "NR-244-91-5-401"),
        (402, 4, 1000, 1500, 40, "cell-x"),
    ]
    table = pd.DataFrame(rows, columns=["sector_id", "site_id", "x_m", "y_m", "pci", "sector_name"])
    x_m, y_m = (table["x_m"] + X0).astype(float), (table["y_m"] + Y0).astype(float)
    lon_deg, lat_deg = CITY.to_lonlat(x_m.to_numpy(), y_m.to_numpy())
    table = table.assign(
        tile="e752n13030", x_m=x_m, y_m=y_m, height_m=20.0, elevation_m=20.0, azimuth_deg=0.0,
        downtilt_deg=8.0, power_dbm=46.0, lon_deg=lon_deg, lat_deg=lat_deg,
    )  # fmt: skip
    columns = SectorSchema.to_schema().columns
    return SectorSchema.validate(table[[name for name in columns if name in table]])


SECTORS = sector_table()


def lonlat(x_m, y_m):
    """Degrees of a place [m] from the city's corner, as cells of a file."""
    return ",".join(f"{v:.7f}" for v in CITY.to_lonlat(X0 + x_m, Y0 + y_m))


@pytest.fixture
def read(tmp_path):
    def read(mapping, header, *lines):
        path = tmp_path / "log.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        mapping = mapping_named(mapping) if isinstance(mapping, str) else mapping
        file = read_log_file(path, mapping, SECTORS, CITY)
        ReportSchema.validate(file.reports)
        return file

    return read


def sectors_in(file):
    return [[int(s) for s in row if s] for row in file.reports.sector_id.to_numpy()]


DRIVE = "Timestamp,Longitude,Latitude,NR_PCI,NR_SS_RSRP,NR_SS_RSRQ,NR_SS_SINR"
NEAR_1 = lonlat(150, 120)


# -- presets ------------------------------------------------------------------------------------


def test_a_drive_test_is_read_whole(read):
    header = f"{DRIVE},NR_N1_PCI,NR_N1_RSRP,NR_N1_RSRQ,NR_N2_PCI,NR_N2_RSRP,NR_N2_RSRQ,NR_TA,Speed"
    file = read(
        "drive_test",
        header,
        f"2025-03-01T10:00:00.5Z,{NEAR_1},10,-80.2,-11,12.5,20,-95.5,-15,11,-90,,3,36",
        f"2025-03-01 12:00:02+02:00,{NEAR_1},11,-81,-11,3,,,,10,-99,-14,4,0",
    )
    assert file.bad_rows == []
    assert sectors_in(file) == [[101, 102, 201], [102, 101]]
    reports = file.reports
    assert reports.rsrp_code.to_numpy()[0, :3].tolist() == [76, 67, 61]
    assert reports.rsrq_code.to_numpy()[0, :3].tolist() == [65, -1, 57]
    assert reports.sinr_code.to_numpy()[0, :3].tolist() == [72, -1, -1]
    assert reports.ta_code.to_numpy().tolist() == [3, 4]
    assert reports.speed_m_s.to_numpy().tolist() == [10, 0]
    assert reports.time_s.to_numpy().tolist() == [0, 1.5]
    assert reports.track.to_numpy().tolist() == [0, 0]
    np.testing.assert_allclose(reports.x_m, X0 + 150, atol=0.05)
    np.testing.assert_allclose(reports.y_m, Y0 + 120, atol=0.05)
    assert file.report_ids == ["2", "3"]


def test_names_are_compared_without_case_and_blanks(read):
    file = read(
        "drive_test",
        "TIMESTAMP,lon,lat,NR PCI,nr-ss-rsrp,nr_ss_rsrq,NR SS SINR",
        f"2025-03-01T10:00:00Z,{NEAR_1},10,-80,-11,12",
    )
    assert sectors_in(file) == [[101]]


def test_other_radio_technologies_and_silent_rows_are_counted(read):
    file = read(
        "drive_test",
        f"Technology,{DRIVE}",
        f"nr,2025-03-01T10:00:00Z,{NEAR_1},10,-80,-11,12",
        f"LTE,2025-03-01T10:00:01Z,{NEAR_1},10,-80,-11,12",
        f"NR,2025-03-01T10:00:02Z,{NEAR_1},,,,",
    )
    assert file.bad_rows == []
    assert file.report_ids == ["2"]
    assert file.skipped["rows of another radio technology"] == 1
    assert file.skipped["rows without a serving sector"] == 1
    with pytest.raises(ReportError, match="no row of NR.*column Technology has lte"):
        read("drive_test", f"Technology,{DRIVE}", f"LTE,2025-03-01T10:00:01Z,{NEAR_1},10,-80,,")


def test_neighbours_on_another_carrier_are_left_out(read):
    header = f"{DRIVE},NR_ARFCN,NR_N1_PCI,NR_N1_RSRP,NR_N1_ARFCN,NR_N2_PCI,NR_N2_RSRP,NR_N2_ARFCN"
    row = f"2025-03-01T10:00:00Z,{NEAR_1},10,-80,,,636000,20,-90,640000,11,-95,636000"
    file = read("drive_test", header, row)
    assert sectors_in(file) == [[101, 102]]
    assert file.skipped["neighbours on another channel"] == 1


MDT = (
    "trace_session,timestamp,longitude,latitude,serving_pci,serving_rsrp,serving_rsrq,serving_sinr,"
    "neighbour_pci,neighbour_rsrp,neighbour_rsrq,timing_advance,ul_aoa"
)


def test_codes_of_an_mdt_trace_stay_as_they_are(read):
    file = read(
        "mdt",
        MDT,
        f"7,1740823200000,{NEAR_1},10,76,64,70,20;11,61;67,57;,3,90",
        f"8,1740823200500,{NEAR_1},11,0,0,127,[10],[126],,4,0",
        f"7,1740823201250,{NEAR_1},10,77,64,70,,,,3,",
    )
    assert file.bad_rows == []
    assert sectors_in(file) == [[101, 102, 201], [101], [102, 101]]
    reports = file.reports
    assert reports.rsrp_code.to_numpy()[:, 0].tolist() == [76, 77, 0]
    assert reports.rsrp_code.to_numpy()[0, :3].tolist() == [76, 67, 61]
    assert reports.rsrq_code.to_numpy()[0, :3].tolist() == [64, -1, 57]
    assert reports.rsrq_code.to_numpy()[2, 0] == 0
    assert reports.sinr_code.to_numpy()[2, 0] == 127
    assert reports.rsrp_code.to_numpy()[2, 1] == 126
    assert reports.time_s.to_numpy().tolist() == [0, 1.25, 0]
    assert reports.aoa_code.to_numpy().tolist() == [2700, -1, 0]


def test_lists_of_unequal_length_are_bad_and_the_serving_sector_is_used(read):
    file = read("mdt", MDT, f"7,1740823200000,{NEAR_1},10,76,,,20;11,61;67;50,,3,")
    assert sectors_in(file) == [[101]]
    (bad,) = file.bad_rows
    assert (bad.line, bad.field) == (2, "neighbour_pci")
    assert "2 items where neighbour_rsrp has 3" in bad.reason


def test_measurements_of_opencellid_find_their_cells_by_identity(read):
    file = read(
        "opencellid",
        "radio,mcc,net,area,cell,lon,lat,signal,measured_at,ta,speed",
        f"NR,244,91,5,401,{NEAR_1},-95,1740823200000,2,1.5",
        f"NR,244,91,5,101,{NEAR_1},-80,1740823200000,,",
        f"NR,244,91,6,101,{NEAR_1},-80,1740823200000,,",
        f"GSM,244,91,5,101,{NEAR_1},-80,1740823200000,,",
    )
    assert sectors_in(file) == [[401], [101]]
    assert file.reports.ta_code.to_numpy().tolist() == [4, -1]  # two steps of numerology 1 each
    assert file.reports.track.to_numpy().tolist() == [0, 1]
    assert [(b.line, b.field, b.value) for b in file.bad_rows if b.field == "mcc"] == [
        (4, "mcc", "244-91-6-101")
    ]
    assert file.skipped["rows of another radio technology"] == 1


def test_parquet_holds_the_same_as_csv(read, tmp_path):
    columns = DRIVE.split(",")
    lon, lat = (float(v) for v in NEAR_1.split(","))
    row = ("2025-03-01T10:00:00Z", lon, lat, 10, -80.0, np.nan, 12.5)
    table = pd.DataFrame([row, row], columns=columns)
    table["Timestamp"] = pd.to_datetime(["2025-03-01T10:00:00Z", "2025-03-01T10:00:03Z"])
    table["NR_PCI"] = pd.Series([10, None], dtype=float)  # whole numbers beside a gap are floats
    table.to_parquet(tmp_path / "log.parquet")
    file = read_log_file(tmp_path / "log.parquet", PRESETS["drive_test"], SECTORS, CITY)
    assert sectors_in(file) == [[101]]
    assert {b.line for b in file.bad_rows} == {2}
    lists = pd.DataFrame(
        {"serving_pci": [10], "serving_rsrp": [76], "neighbour_pci": [[20, 11]]}
        | {"neighbour_rsrp": [[61, 67]]}
    )
    lists.to_parquet(tmp_path / "mdt.parquet")
    near = SECTORS[SECTORS["sector_id"] != 401]
    file = read_log_file(tmp_path / "mdt.parquet", PRESETS["mdt"], near, CITY)
    assert sectors_in(file) == [[101, 102, 201]]


# -- which sector a PCI means -------------------------------------------------------------------


def test_a_pci_means_the_nearest_sector_that_has_it(read):
    near_4 = lonlat(950, 1400)
    file = read(
        "drive_test",
        f"{DRIVE},NR_N1_PCI,NR_N1_RSRP",
        f"2025-03-01T10:00:00Z,{NEAR_1},10,-80,,,30,-90",
        f"2025-03-01T10:00:01Z,{near_4},10,-80,,,40,-90",
    )
    # PCI 30 is 300 m and 420 m from site 1: neither is meant for certain
    assert sectors_in(file) == [[101], [401, 402]]
    (bad,) = file.bad_rows
    assert (bad.line, bad.field, bad.value) == (2, "NR_N1_PCI", "30")
    assert bad.reason == "sectors with this PCI are 300 and 420 m away"


def test_the_neighbour_of_a_near_site_is_certain(read):
    file = read(
        "drive_test",
        f"{DRIVE},NR_N1_PCI,NR_N1_RSRP",
        f"2025-03-01T10:00:00Z,{lonlat(390, 90)},20,-80,,,30,-90",
    )
    assert file.bad_rows == []
    assert sectors_in(file) == [[201, 202]]  # on the serving site itself; the other is 120 m off


def test_a_sector_beyond_the_reach_is_not_meant(read):
    mapping = PRESETS["drive_test"].model_copy(
        update={"matching": PRESETS["drive_test"].matching.model_copy(update={"reach_m": 500})}
    )
    file = read(
        mapping,
        f"{DRIVE},NR_N1_PCI,NR_N1_RSRP",
        f"2025-03-01T10:00:00Z,{NEAR_1},10,-80,,,40,-90",
        f"2025-03-01T10:00:01Z,{NEAR_1},10,-80,,,7,-90",
    )
    assert sectors_in(file) == [[101], [101]]
    reasons = {b.line: b.reason for b in file.bad_rows}
    assert "the nearest sector with this PCI is 1664 m away" in reasons[2]
    assert reasons[3] == "no sector of the city has this PCI"


def test_without_a_position_the_last_serving_site_tells(read):
    header = "Timestamp,NR_PCI,NR_SS_RSRP"
    rows = [f"2025-03-01T10:00:0{i}Z,{pci},-80" for i, pci in enumerate((11, 10, 40, 10, 30))]
    file = read("drive_test", header, *rows)
    assert sectors_in(file) == [[102], [101], [402], [401]]
    assert {b.line for b in file.bad_rows} == {6}
    alone = read("drive_test", header, "2025-03-01T10:00:00Z,10,-80")
    assert sectors_in(alone) == []
    assert "2 sectors have this PCI, and no place tells" in alone.bad_rows[0].reason


def test_the_order_of_rows_does_not_change_what_a_pci_means(read):
    header = "Timestamp,NR_PCI,NR_SS_RSRP"
    rows = [f"2025-03-01T10:00:0{i}Z,{pci},-80" for i, pci in enumerate((11, 10, 40, 10))]
    forwards, backwards = read("drive_test", header, *rows), read("drive_test", header, *rows[::-1])
    assert sectors_in(forwards) == sectors_in(backwards)


def test_names_go_before_pcis_where_the_city_knows_any(read):
    file = read(
        "drive_test",
        f"NR_NCI,{DRIVE}",
        f"cell-x,2025-03-01T10:00:00Z,{NEAR_1},10,-80,,",
        f"999,2025-03-01T10:00:01Z,{NEAR_1},10,-80,,",
        f",2025-03-01T10:00:02Z,{NEAR_1},10,-80,,",
    )
    assert sectors_in(file) == [[402], [101]]
    assert [(b.line, b.field, b.value) for b in file.bad_rows if b.field == "NR_NCI"] == [
        (3, "NR_NCI", "999")
    ]
    unknown = read("drive_test", f"NR_NCI,{DRIVE}", f"77,2025-03-01T10:00:00Z,{NEAR_1},10,-80,,")
    assert sectors_in(unknown) == [[101]]


def test_a_file_of_other_cells_is_refused_as_a_whole(read):
    rows = [f"2025-03-01T10:00:0{i}Z,{NEAR_1},{500 + i},-80,," for i in range(5)]
    with pytest.raises(ReportError, match=r"no row names a sector of helsinki \(column NR_PCI\)"):
        read("drive_test", DRIVE, *rows)


# -- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (f"noon,{NEAR_1},10,-80,,", "Timestamp", "not an ISO 8601 date and time"),
        (f"2025-03-01T10:00:00Z,{NEAR_1},10,80,,", "NR_SS_RSRP", "with their minus sign"),
        (f"2025-03-01T10:00:00Z,{NEAR_1},10,,,", "NR_SS_RSRP", "missing"),
        (f"2025-03-01T10:00:00Z,{NEAR_1},1008,-80,,", "NR_PCI", "outside of 0 to 1007"),
        (f"2025-03-01T10:00:00Z,{NEAR_1},,-80,,", "NR_PCI", "no PCI"),
        (f"2025-03-01T10:00:00Z,{NEAR_1},10,-80,40,", "NR_SS_RSRQ", "outside of -60 to 30"),
        ("2025-03-01T10:00:00Z,60.17,24.94,10,-80,,", "Longitude", "outside of the city"),
        (f"2025-03-01T10:00:00Z,{NEAR_1},10,-80", "row", "5 fields where the header has 7"),
    ],
)
def test_a_bad_row_is_named_and_the_good_ones_are_used(read, row, field, reason):
    good = f"2025-03-01T10:00:05Z,{NEAR_1},11,-80,-11,3"
    file = read("drive_test", DRIVE, row, good)
    assert sectors_in(file) == [[102]]
    assert {b.line for b in file.bad_rows} == {2}
    assert any(b.field == field and reason in b.reason for b in file.bad_rows)


def test_a_bad_neighbour_costs_itself_alone(read):
    header = f"{DRIVE},NR_N1_PCI,NR_N1_RSRP,NR_N2_PCI,NR_N2_RSRP"
    row = f"2025-03-01T10:00:00Z,{NEAR_1},10,-80,,,20,x,11,-90"
    file = read("drive_test", header, row)
    assert sectors_in(file) == [[101, 102]]
    assert [(b.line, b.field, b.value) for b in file.bad_rows] == [(2, "NR_N1_RSRP", "x")]


def drive_rows(**cells):
    rows = []
    for i in range(6):
        held = {"time": f"2025-03-01T10:00:0{i}Z", "place": NEAR_1, "pci": 10, "rsrp": -80 - i}
        held |= {"rsrq": -11, "sinr": 3, "more": ""} | {k: v[i] for k, v in cells.items()}
        rows.append("{time},{place},{pci},{rsrp},{rsrq},{sinr},{more}".format(**held))
    return rows


@pytest.mark.parametrize(
    ("column", "cells", "looks_like"),
    [
        ("NR_SS_RSRP", {"rsrp": [76, 70, 65, 81, 64, 77]}, "3GPP codes"),
        ("NR_SS_RSRP", {"rsrp": [80.5, 91.2, 88.1, 93, 79.6, 84]}, "without their minus sign"),
        ("NR_SS_RSRQ", {"rsrq": [64, 60, 57, 66, 61, 62]}, "3GPP codes"),
        ("NR_SS_SINR", {"sinr": [64, 60, 57, 66, 61, 62]}, "3GPP codes"),
        ("Timestamp", {"time": [1740823200 + i for i in range(6)]}, "numbers, not dates"),
        ("NR_TA", {"more": [120, 180, 240, 130, 220, 310]}, "metres or nanoseconds"),
        ("NR_TA", {"more": [0.52, 1.04, 1.56, 2.6, 0.52, 1.04]}, "a time or a distance"),
    ],
)
def test_a_column_in_another_unit_is_refused_by_its_own_name(read, column, cells, looks_like):
    with pytest.raises(ReportError, match=f"column {column} looks like") as error:
        read("drive_test", f"{DRIVE},NR_TA", *drive_rows(**cells))
    assert looks_like in str(error.value)
    assert error.value.remedy


@pytest.mark.parametrize(
    ("column", "row", "looks_like"),
    [
        ("serving_rsrp", "1740823200000,10,-80,64", "dBm, not 3GPP codes"),
        ("serving_rsrq", "1740823200000,10,76,-11.5", "dB, not 3GPP codes"),
        ("timestamp", "1740823200,10,76,64", "seconds"),
    ],
)
def test_physical_units_where_codes_are_expected_are_refused(read, column, row, looks_like):
    with pytest.raises(ReportError, match=f"column {column} looks like {looks_like}"):
        read("mdt", "timestamp,serving_pci,serving_rsrp,serving_rsrq", *[row] * 6)


def test_swapped_axes_are_refused(read):
    swapped = ",".join(NEAR_1.split(",")[::-1])
    with pytest.raises(ReportError, match="Longitude and Latitude look swapped"):
        read("drive_test", f"{DRIVE},NR_TA", *drive_rows(place=[swapped] * 6))


def test_missing_columns_are_named_with_what_may_be_meant(read):
    with pytest.raises(ReportError, match="missing column NR_SS_RSRP") as error:
        read("drive_test", "Timestamp,NR_PCI,NR_SSRSRP", "2025-03-01T10:00:00Z,10,-80")
    assert "'NR_SSRSRP' may be 'NR_SS_RSRP'" in str(error.value)
    with pytest.raises(ReportError, match="missing columns mcc, net"):
        read("opencellid", "area,cell,signal", "5,101,-80")


def test_an_empty_file_is_refused(read):
    with pytest.raises(ReportError, match="no row below the header"):
        read("drive_test", DRIVE)


# -- mappings of one's own ----------------------------------------------------------------------


def written(tmp_path, text):
    path = tmp_path / "mapping.yaml"
    path.write_text(text, encoding="utf-8")
    return path


OWN = """
delimiter: ";"
decimal: ","
report_id: id
time: {column: t, unit: unix_ms}
position: {x: east, y: north}
serving:
  sector: cell
  rsrp: {column: level, unit: lte_code}
  rsrq: {column: quality, unit: lte_code}
values:
  ta: {column: delay, unit: us}
  bler: {column: errors, unit: percent}
  throughput: {column: rate, unit: kbps}
  heading: {column: course, unit: rad}
beams:
  index: beam{n}
  rsrp: beam{n}_dbm
  count: 2
"""


def test_a_mapping_of_ones_own_converts_units(read, tmp_path):
    mapping = read_mapping(written(tmp_path, OWN))
    file = read(
        mapping,
        "id;t;east;north;cell;level;quality;delay;errors;rate;course;beam1;beam1_dbm;beam2;beam2_dbm",
        f"a;1000;{X0 + 5},5;{Y0};101;60;20;1,04;7;1500;3,141593;4;-90,5;9;-84,25",
    )
    assert file.bad_rows == []
    assert file.report_ids == ["a"]
    reports = file.reports.isel(report=0)
    level_dbm, ratio_db = float(LTE_RSRP.decode(60)), float(LTE_RSRQ.decode(20))
    assert int(reports.rsrp_code[0]) == int(np.floor(level_dbm + 157))
    assert int(reports.rsrq_code[0]) == int(np.floor(2 * (ratio_db + 43)) + 1)
    assert int(reports.ta_code) == 4  # 1.04 us of 0.26 us steps
    assert (int(reports.bler_percent), int(reports.throughput_kbps)) == (7, 1500)
    assert float(reports.heading_deg) == pytest.approx(180, abs=1e-3)
    assert float(reports.x_m) == X0 + 5.5
    assert reports.beam_index.to_numpy().tolist() == [9, 4, -1, -1]


def test_a_long_log_is_put_together(read, tmp_path):
    mapping = read_mapping(
        written(
            tmp_path,
            "layout: long\nreport_id: id\nis_serving: main\ntrack: ue\n"
            "time: {column: t, unit: s}\nserving: {pci: pci, rsrp: level}\n"
            "position: {lon: lon, lat: lat}\n",
        )
    )
    file = read(
        mapping,
        "id,main,ue,t,pci,level,lon,lat",
        f"a,0,u,5,11,-90,{NEAR_1}",
        f"a,1,u,5,10,-80,{NEAR_1}",
        f"b,1,u,4,20,-70,{NEAR_1}",
        f"b,0,u,4,11,-75,{NEAR_1}",
    )
    assert file.bad_rows == []
    assert file.report_ids == ["b", "a"]
    assert sectors_in(file) == [[201, 102], [101, 102]]


def test_two_rows_of_one_name_are_not_mixed(read):
    mapping = LogMapping.model_validate(
        {"report_id": "id", "serving": {"sector": "cell", "rsrp": "level"}}
    )
    file = read(mapping, "id,cell,level", "a,101,-80", "a,102,-90", "b,201,-70")
    assert sectors_in(file) == [[101], [201]]
    assert any("another row has this name" in b.reason and b.line == 3 for b in file.bad_rows)


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_is_read_back_from_its_yaml(tmp_path, name):
    assert read_mapping(written(tmp_path, PRESETS[name].to_yaml())) == PRESETS[name]
    described = "\n".join(described_columns(PRESETS[name]))
    for _, column in PRESETS[name].quantities():
        assert column.column[0] in described


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("serving: {pci: a, rsrp: b, level: c}", ["serving.level: unknown key", "rsrp, rsrq"]),
        ("servings: {pci: a, rsrp: b}", ["servings: unknown key", "serving,", "neighbours"]),
        ("serving: {pci: a, rsrp: {column: b, units: dBm}}", ["units: unknown key", "unit,"]),
        ("serving: {rsrp: b}", ["sector or pci is needed"]),
        ("serving: {pci: a}", ["serving.rsrp is missing"]),
        ("serving: {pci: a, rsrp: {column: b, unit: mW}}", ["'mW'", "dBm, nr_code, lte_code"]),
        ("serving: {pci: a, rsrp: b}\nlayout: tall", ["layout = 'tall'", "wide"]),
        ("serving: {pci: a, rsrp: b}\nlayout: long", ["report_id is needed"]),
        ("serving: {pci: a, rsrp: b}\nneighbours: {pci: a, rsrp: b}", ["count or separator"]),
        (
            "serving: {pci: a, rsrp: b}\nneighbours: {pci: 'a{n}', rsrp: b, count: 3}",
            ["every column has {n}"],
        ),
        ("serving: {pci: a, rsrp: b}\nposition: {lon: a, y: b}", ["lon and lat, or x and y"]),
        ("serving: [1, 2", ["not valid YAML"]),
        ("- a", ["has keys and values"]),
        ("serving: {pci: '', rsrp: b}", ["serving.pci"]),
    ],
)
def test_a_wrong_mapping_names_the_key_and_what_is_allowed(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(ReportError) as error:
        mapping_named(str(path))
    message = str(error.value)
    for word in [str(path), *words]:
        assert word in message


def test_an_unknown_format_names_the_known_ones(tmp_path):
    with pytest.raises(ReportError, match="drive_test, mdt, opencellid"):
        mapping_named("tems")
    with pytest.raises(ReportError, match="cannot be read"):
        mapping_named(str(tmp_path / "none.yaml"))


def test_the_documented_mapping_is_one(tmp_path):
    text = (REPOSITORY / "docs" / "reports.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    mapping = read_mapping(written(tmp_path, example))
    assert mapping.neighbours.count == 6
    for name, mapping in PRESETS.items():
        documented = text.split(f"**`{name}`**")[1].split("\n\n**")[0]
        for _, column in mapping.quantities():
            first = column.column[0].replace("{n}", "1")
            assert re.search(rf"\b{first}\b", documented), (name, first)


def test_the_example_of_a_drive_test_is_good():
    path = REPOSITORY / "examples" / "helsinki_drive_test.csv"
    table = pd.read_csv(path)
    pcis = pd.unique(table.filter(regex="_PCI$").to_numpy().ravel())
    pcis = pcis[~np.isnan(pcis)].astype(int)
    x_m, y_m = (X0 + 500.0, Y0 + 700.0)
    here = pd.concat([SECTORS[:1]] * len(pcis), ignore_index=True)
    here = here.assign(sector_id=1000 + pcis, site_id=1000 + pcis, pci=pcis, x_m=x_m, y_m=y_m)
    file = read_log_file(path, PRESETS["drive_test"], here.assign(sector_name=""), CITY)
    assert file.bad_rows == []
    assert len(file.report_ids) == len(table) - 1
    assert file.skipped["rows of another radio technology"] == 1
    assert np.isfinite(file.reports.x_m).all()


# -- units --------------------------------------------------------------------------------------


def test_every_unit_has_a_scale_and_the_first_one_is_the_projects_own():
    scales = scales_of(CITY)
    assert {name: tuple(units) for name, units in scales.items()} == UNITS
    probe = np.array([1.0, 30.0])
    for name, units in UNITS.items():
        own = scales[name][units[0]]
        assert own.convert(probe).tolist() == [1.0, 30.0], name
        assert own.low < own.high


@pytest.mark.parametrize(
    ("quantity", "unit", "value", "expected"),
    [
        ("ta", "m", 5 * timing_advance_step_m(1), 5),
        ("ta", "ns", 2604.17, 10),
        ("ta", "lte_steps", 3, 6),
        ("speed", "km_h", 36, 10),
        ("throughput", "bps", 2e6, 2),
        ("time", "unix_us", 1.5e6, 1.5),
        ("rsrp", "nr_code", 76, -80.5),
        ("rsrp", "lte_code", 60, -80.5),
        ("rsrq", "lte_code", 34, -2.75),
        ("sinr", "nr_code", 70, 11.75),
    ],
)
def test_units_convert_to_the_projects_own(quantity, unit, value, expected):
    converted = scales_of(CITY)[quantity][unit].convert(np.array([value], dtype=float))
    np.testing.assert_allclose(converted, expected, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_unit_is_doubted_where_values_are_usual(data):
    usual = {
        "rsrp": (-125, -50), "rsrq": (-25, -5), "sinr": (-15, 35), "ta": (0, 25),
        "aoa": (20, 340), "bler": (0, 0.3), "throughput": (0, 1500), "speed": (0, 30),
        "ta_offset": (-300, 300), "beam_rsrp": (-120, -50), "ul_sinr": (-10, 35), "time": (0, 2e9),
    }  # fmt: skip
    name = data.draw(st.sampled_from(sorted(usual)))
    scale = scales_of(CITY)[name][UNITS[name][0]]
    low, high = usual[name]
    numbers = st.integers(int(low), int(high)) if scale.whole else st.floats(low, high)
    assert wrong_unit(data.draw(st.lists(numbers, max_size=30)), scale) is None


# -- garbage ------------------------------------------------------------------------------------

CELL = st.one_of(
    st.text(max_size=8),
    st.floats().map(str),
    st.integers(-200, 2000).map(str),
    st.sampled_from(["10", "11", "-80", "", "24.94", "60.17", "2025-03-01T10:00:00Z", "[1;2]"]),
)
MDT_COLUMNS = MDT.split(",")
DRIVE_COLUMNS = [*DRIVE.split(","), "NR_N1_PCI", "NR_N1_RSRP", "NR_TA", "Device"]


@settings(max_examples=40, deadline=None)
@given(
    which=st.sampled_from([("drive_test", DRIVE_COLUMNS), ("mdt", MDT_COLUMNS)]),
    data=st.data(),
)
def test_no_garbage_breaks_the_reading(tmp_path_factory, which, data):
    name, columns = which
    row = st.lists(CELL, min_size=len(columns), max_size=len(columns))
    cells = data.draw(st.lists(row, min_size=1, max_size=8))
    path = tmp_path_factory.mktemp("garbage") / "log.csv"
    pd.DataFrame(cells, columns=columns).to_csv(path, index=False)
    try:
        file = read_log_file(path, PRESETS[name], SECTORS, CITY)
    except ReportError:
        return
    ReportSchema.validate(file.reports)
    assert len(file.report_ids) == file.reports.sizes["report"]


@settings(max_examples=60, deadline=None)
@given(
    content=st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=6)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["serving", "pci", "rsrp", "column", "unit", "neighbours", "x"]),
                inner,
                max_size=4,
            ),
        ),
        max_leaves=12,
    )
)
def test_no_garbage_breaks_the_reading_of_a_mapping(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("garbage") / "mapping.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    try:
        mapping = read_mapping(path)
    except ReportError:
        return
    assert mapping.serving.rsrp.column
