"""The data card: each number against a count by hand, and a figure of what is there."""

import json

import numpy as np
import pytest
import xarray as xr
from made_up_reports import batch_and_truth
from made_up_world import default_atlas, made_up_city
from matplotlib.image import imread

from ueloc_core.measurement.data_card import (
    data_card,
    data_card_figure,
    draw_data_card,
    write_data_card,
)
from ueloc_core.measurement.dataset import complete, empty_reports, to_dataset, write_reports
from ueloc_core.measurement.report_variables import MOBILITIES
from ueloc_core.measurement.scenarios import FEATURES, SCENARIOS, features_of, scenario_code

CITY = made_up_city()
LOST = 0.1


@pytest.fixture(scope="module")
def reports():
    return to_dataset(CITY, default_atlas(), *batch_and_truth(default_atlas(), 6000, lost=LOST))


@pytest.fixture(scope="module")
def windows():
    atlas = default_atlas()
    return dict(zip(atlas.sectors.sector_id.tolist(), atlas.windows, strict=True))


@pytest.fixture(scope="module")
def card(reports, windows):
    return data_card(reports, windows)


def by_hand():
    """Four reports of two terminals: one full, and one of which only levels are known."""
    sector = np.zeros((4, 8), np.int64)
    sector[:, 0] = [10, 10, 11, 12]
    sector[0, 1] = 20
    code = np.where(sector > 0, np.array([[57], [59], [58], [60]]), -1).astype(np.int16)
    sight = np.where(sector > 0, np.array([[1.0], [0.25], [1.0], [0.75]]), np.nan)
    return complete(
        xr.Dataset(
            {
                "sector_id": (("report", "slot"), sector),
                "rsrp_code": (("report", "slot"), code),
                "rt_line_of_sight": (("report", "slot"), sight.astype(np.float32)),
                "track": ("report", [0, 0, 0, 1]),
                "time_s": ("report", [0.0, 1.0, 4.0, 0.0]),
                "mobility": ("report", np.array([2, 2, 2, -1], np.int8)),
                "indoor": ("report", np.array([0, 0, 0, -1], np.int8)),
                "scenario": ("report", np.array([4, 4, 4, -1], np.int8)),
                "ta_code": ("report", np.array([3, -1, 3, -1], np.int16)),
            }
        )
    )


def test_a_small_set_counted_by_hand():
    card = data_card(by_hand())
    expected = {
        "reports": 4,
        "tracks": 2,
        "reports/mobility/vehicle": 3,
        "tracks/mobility/vehicle": 1,
        "reports/mobility/unknown": 1,
        "reports/scenario/full": 3,
        "tracks/scenario/unknown": 1,
        "reports/scenario/nr_beams": 0,
        "mean_sectors_heard": 1.25,
        "serving_rsrp_p50_dbm": -98.0,  # between codes 58 and 59: [-99, -98) and [-98, -97) dBm
        "missing_share/rsrp": 0.0,
        "missing_share/ta": 0.5,
        "lost_share/ta": 0.5,
        "indoor_share": 0.0,
        "serving_line_of_sight_share": 0.75,
        "mean_report_interval_s": 2.0,
        "handover_share": 0.5,
        "outside_window_share": None,
        "bytes_per_report": None,
    }
    assert {name: card[name] for name in expected} == expected


def test_counts_add_up(reports, card):
    for unit in ("reports", "tracks"):
        for name, labels in (("mobility", MOBILITIES), ("scenario", SCENARIOS)):
            parts = [card[f"{unit}/{name}/{label}"] for label in (*labels, "unknown")]
            assert sum(parts) == card[unit]
    assert card["tracks"] == len(np.unique(reports.track))


def test_what_was_lost_is_told_from_what_a_scenario_lacks(reports, card):
    """Fields were lost with probability 0.1 wherever the scenario has them: 4.5 sigma."""
    for feature in set(FEATURES) - {"rsrp"}:
        has = np.isin(
            reports.scenario, [scenario_code(n) for n in SCENARIOS if feature in features_of(n)]
        )
        count = int(has.sum())
        assert abs(card[f"lost_share/{feature}"] - LOST) < 4.5 * np.sqrt(LOST * 0.9 / count)
        if feature not in ("rsrq", "sinr"):
            missing = 1 - has.mean() + card[f"lost_share/{feature}"] * has.mean()
            assert card[f"missing_share/{feature}"] == pytest.approx(missing)
    assert card["missing_share/rsrp"] == card["lost_share/rsrp"] == 0


def test_terminals_outside_their_window(reports, windows, card):
    serving = reports.sector_id.values[:, 0].tolist()
    outside = [
        not windows[sector].contains(x, y)
        for sector, x, y in zip(serving, reports.x_m.values, reports.y_m.values, strict=True)
    ]
    assert card["outside_window_share"] == pytest.approx(np.mean(outside))
    assert 0 < card["outside_window_share"] < 1
    one = {10: windows[10]}
    first = reports.isel(report=reports.sector_id[:, 0] == 10)
    expected = data_card(first, windows)["outside_window_share"]
    assert data_card(reports, one)["outside_window_share"] == expected
    nowhere = reports.assign(x_m=reports.x_m * np.nan, y_m=reports.y_m * np.nan)
    assert data_card(nowhere, windows)["outside_window_share"] is None


def test_no_report_has_no_share():
    card = data_card(empty_reports(CITY), {})
    assert card["reports"] == card["tracks"] == 0
    shares = [value for name, value in card.items() if "share" in name or "mean" in name]
    assert shares == [None] * len(shares)


def test_the_size_is_that_of_the_store(reports, tmp_path):
    write_reports(reports, tmp_path)
    size = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    card = data_card(reports, folder=tmp_path)
    assert card["bytes_per_report"] == pytest.approx(size / reports.sizes["report"])


def test_the_card_is_json_of_plain_numbers(card, tmp_path):
    write_data_card(card, tmp_path)
    assert json.loads((tmp_path / "data_card.json").read_text()) == card
    assert all(value is None or type(value) in (int, float) for value in card.values())


@pytest.mark.parametrize("which", ["full", "levels alone", "one report", "none"])
def test_every_set_has_a_figure(reports, which, tmp_path):
    chosen = {
        "full": reports,
        "levels alone": complete(reports[["sector_id", "rsrp_code"]]),
        "one report": reports.isel(report=slice(0, 1)),
        "none": empty_reports(CITY),
    }[which]
    draw_data_card(chosen, tmp_path / "a.png")
    draw_data_card(chosen, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert imread(tmp_path / "a.png").std() > 0.02


def drawn_share(axes):
    return sum(patch.get_height() for patch in axes.patches)


def test_histograms_hold_every_report_and_agree_with_the_card(reports, card):
    figure = data_card_figure(reports)
    panels = {axes.get_xlabel(): axes for axes in figure.axes}
    shares = [name for name, axes in panels.items() if axes.get_ylabel() == "reports [%]"]
    assert len(shares) == 9
    for name in shares:
        assert drawn_share(panels[name]) == pytest.approx(100), name
    median = panels["serving SS-RSRP [dBm]"].lines[0].get_xdata()[0]
    assert median == card["serving_rsrp_p50_dbm"]
    bars = {
        p.get_y() + p.get_height() / 2: p.get_width() for p in panels["reports by scenario"].patches
    }
    assert [bars[float(k)] for k in range(5)] == [card[f"reports/scenario/{s}"] for s in SCENARIOS]
    missing = [p.get_width() for p in panels["reports without it [%]"].patches]
    np.testing.assert_allclose(
        missing[: len(FEATURES)], [100 * card[f"missing_share/{f}"] for f in FEATURES]
    )
