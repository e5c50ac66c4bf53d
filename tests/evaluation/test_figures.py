import dataclasses
import struct

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from ueloc_core.errors import UelocError
from ueloc_core.evaluation import calibration_figures, figures, map_figures, palette
from ueloc_core.evaluation.metrics import METHODS
from ueloc_core.evaluation.strata import STRATA
from ueloc_core.grid import Window


def texts(figure):
    found = []
    for axes in figure.axes:
        found += [t.get_text() for t in axes.texts]
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        if axes.get_legend():
            found += [t.get_text() for t in axes.get_legend().get_texts()]
    return found


def size_of(image):
    assert image.startswith(b"\x89PNG")
    return struct.unpack(">II", image[16:24])


@pytest.mark.parametrize("draw", [figures.error_histogram, figures.error_cdf, figures.error_box])
def test_error_figures_draw_every_method(fixes, draw):
    figure = draw(fixes)
    width, height = size_of(figures.png(figure))
    assert 800 <= width <= 1200
    assert 200 <= height <= 1200
    shown = " ".join(texts(figure) + [t.get_text() for t in figure.axes[0].get_yticklabels()])
    for word in ("Network", "Oracle", "kNN", "Strongest"):
        assert word in shown
    assert "position [m]" in shown


def test_cdf_passes_through_the_median(fixes):
    figure = figures.error_cdf(fixes)
    by_label = {line.get_label(): line for line in figure.axes[0].lines}
    x_m, share = by_label["Network"].get_data()
    own = fixes[fixes["method"] == "network"]["error_m"]
    assert np.interp(own.median(), x_m, share) == pytest.approx(50, abs=1)
    assert share[-1] == 100


def test_an_error_of_zero_is_drawn(fixes):
    perfect = fixes.assign(error_m=0.0)
    for draw in (figures.error_histogram, figures.error_cdf, figures.error_box):
        figures.png(draw(perfect))


def test_coverage_draws_only_methods_with_a_density(fixes):
    shown = texts(figures.coverage(fixes))
    assert "Network" in shown
    assert not any("kNN" in t for t in shown)
    assert any("samples of 150" in t for t in shown)


def test_training_curves_draw_each_term(history):
    figure = figures.training_curves(history)
    assert [a.get_title() for a in figure.axes] == [
        *("Total loss", "Coarse cross-entropy", "Fine mixture", "Posterior")
    ]
    validation = next(line for line in figure.axes[0].lines if line.get_label() == "validation")
    np.testing.assert_allclose(validation.get_ydata(), [9 / e + 0.2 for e in range(1, 6)])
    figures.png(figure)


def test_training_curves_of_one_epoch(history):
    figures.png(figures.training_curves(history[history["epoch"] == 1]))


def test_every_method_has_its_own_colour():
    others = ("kalman", "hopfield", "rnn")
    for look in (palette.colour, palette.marker):
        assert len({look(method) for method in METHODS}) == len(METHODS)
    assert {palette.colour(m) for m in others}.isdisjoint(palette.colour(m) for m in METHODS)
    assert set(METHODS) == set(figures.LABELS) == set(figures.SHORT_LABELS)


def legend_of(figure):
    return [t.get_text() for legend in figure.legends for t in legend.get_texts()]


def test_success_bars_are_the_shares(all_fixes):
    figure = figures.success_bars(all_fixes, radii_m=(10.0, 30.0))
    axes = figure.axes[0]
    assert legend_of(figure) == [figures.SHORT_LABELS[m] for m in METHODS]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["within 10 m", "within 30 m"]
    bars = [c for c in axes.containers if hasattr(c, "patches")]
    for method, drawn in zip(METHODS, bars, strict=True):
        error_m = all_fixes.loc[all_fixes["method"] == method, "error_m"]
        shares = [100 * (error_m <= r).mean() for r in (10, 30)]
        assert [bar.get_height() for bar in drawn] == pytest.approx(shares)
    figures.png(figure)


def test_errors_by_stratum_are_the_quantiles(all_fixes):
    heard = next(s for s in STRATA if s.name == "heard")
    figure = figures.error_by_stratum(all_fixes, [heard])
    axes = figure.axes[0]
    own = all_fixes[all_fixes["method"] == "oracle"]
    groups = own.groupby(heard.of(own), observed=True)["error_m"]
    rows = [t.get_text() for t in axes.get_yticklabels()]
    assert rows == [f"{value}  ({n})" for value, n in groups.size().items()]
    filled = next(line for line in axes.lines if line.get_label() == "Oracle")
    assert list(filled.get_xdata()) == pytest.approx(groups.median().tolist())
    assert axes.yaxis_inverted()
    figures.png(figure)


def test_reliability_by_stratum_is_the_coverage_with_exact_intervals(all_fixes):
    figure = calibration_figures.reliability_by_stratum(all_fixes)
    axes = figure.axes[0]
    assert legend_of(figure) == [
        figures.SHORT_LABELS[m] for m in ("network", "network_refined", "oracle", "grid_bayes_twin")
    ]
    assert any(title.get_text() == "Sectors heard" for title in axes.texts)
    drawn = axes.containers[0]
    points, _, (bars,) = drawn.lines
    own = all_fixes[(all_fixes["method"] == "network") & (all_fixes["split"] == "test_area")]
    hits = int((own["hpd_level"] <= 0.9).sum())
    assert points.get_xdata()[0] == pytest.approx(100 * hits / len(own))
    interval = stats.binomtest(hits, len(own)).proportion_ci(method="exact")
    assert bars.get_segments()[0][:, 0] == pytest.approx([100 * interval.low, 100 * interval.high])
    figures.png(figure)


def test_coverage_by_stratum_has_a_panel_per_part(all_fixes):
    heard = next(s for s in STRATA if s.name == "heard")
    figure = calibration_figures.coverage_by_stratum(all_fixes, heard)
    assert [a.get_title().split()[0] for a in figure.axes] == list(heard.values)
    own = all_fixes[(all_fixes["method"] == "oracle") & (all_fixes["heard"] == 1)]
    line = next(x for x in figure.axes[0].lines if x.get_label().startswith("Oracle"))
    expected = [100 * (own["hpd_level"] <= q / 100).mean() for q in line.get_xdata()]
    assert list(line.get_ydata()) == pytest.approx(expected)
    assert len(legend_of(figure)) == 4
    figures.png(figure)


def test_transforms_are_counted(all_fixes):
    figure = calibration_figures.pit_histograms(all_fixes)
    assert len(figure.axes) == 8
    for axes in figure.axes:
        heights = axes.patches[-1].get_data().values
        assert heights.mean() == pytest.approx(1.0)
    some = all_fixes.copy()
    some.loc[some["hpd_level"] > 0.5, ["pit_x", "pit_y"]] = np.nan  # outside of their windows
    assert "(400)" not in calibration_figures.pit_histograms(some).axes[0].get_title(loc="left")
    figures.png(figure)


def test_tarp_draws_methods_with_a_density(all_fixes):
    figure = calibration_figures.tarp(all_fixes)
    shown = texts(figure)
    assert "Network" in shown
    assert not any("kNN" in t for t in shown)
    line = next(x for x in figure.axes[0].lines if x.get_label() == "Grid Bayes on the twin")
    assert line.get_ydata()[0] > line.get_xdata()[0]  # too narrow: steep at the ends
    figures.png(figure)


@pytest.mark.parametrize(
    ("draw", "why"),
    [
        (calibration_figures.tarp, "'tarp'"),
        (calibration_figures.pit_histograms, "'pit_x'"),
        (calibration_figures.reliability_by_stratum, "no stratum"),
        (figures.error_by_stratum, "no stratum"),
    ],
)
def test_what_the_fixes_lack_is_not_drawn(fixes, draw, why):
    with pytest.raises(UelocError, match=why):
        draw(fixes)


@pytest.fixture
def overview(fixes, footprints):
    window = Window(95, 195, 60, 50, 4.0)
    rsrp_dbm = np.random.default_rng(0).normal(-85, 10, window.shape)
    rsrp_dbm[:4] = np.nan
    x_m, y_m = window.centre_m
    sectors = pd.DataFrame({"x_m": x_m, "y_m": y_m, "azimuth_deg": [0.0, 120.0, 240.0]})
    return {
        "window": window,
        "rsrp_dbm": rsrp_dbm,
        "footprints": footprints,
        "sectors": sectors,
        "fixes": fixes,
    }


def test_overview_shows_the_window_and_whose_data_it_is(overview):
    figure = map_figures.overview_map(**overview)
    x0, y0, x1, y1 = overview["window"].bounds_m
    assert figure.axes[0].get_xlim() == (x0, x1)
    assert figure.axes[0].get_ylim() == (y0, y1)
    shown = texts(figure)
    assert shown.count("© OpenStreetMap contributors") == 2
    assert "150 test terminals, where they stood" in shown
    assert "50 m" in shown
    figures.png(figure)


def test_overview_points_north_and_east(overview):
    figure = map_figures.overview_map(**overview)
    image = figure.axes[0].images[0]
    assert image.origin == "lower"
    first, second = figure.axes[0].lines[0], figure.axes[0].lines[1]
    assert np.diff(first.get_ydata()) > 30
    assert np.diff(second.get_xdata()) > 30 * np.cos(np.radians(30)) - 1


def test_overview_without_buildings_signal_or_fixes(overview):
    empty = overview | {
        "footprints": overview["footprints"].iloc[:0],
        "rsrp_dbm": np.full(overview["window"].shape, np.nan),
        "fixes": overview["fixes"].iloc[:0],
        "sectors": overview["sectors"].iloc[:0],
    }
    figures.png(map_figures.overview_map(**empty))


def test_posterior_panels_share_scale_and_view(example, footprints):
    figure = map_figures.posterior_panels(example, footprints)
    assert isinstance(figure, Figure)
    network, oracle = figure.axes[:2]
    assert network.get_xlim() == oracle.get_xlim()
    assert network.images[0].norm is oracle.images[0].norm
    assert network.get_title().startswith("Network: 9 m off\n90% region of ")
    assert oracle.get_title().startswith("Oracle: 3 m off\n90% region of ")
    for x_m, y_m in (example.truth_m, example.site_m):
        assert network.get_xlim()[0] < x_m < network.get_xlim()[1]
        assert network.get_ylim()[0] < y_m < network.get_ylim()[1]
    assert texts(figure).count("© OpenStreetMap contributors") == 2
    figures.png(figure)


@pytest.mark.parametrize(
    ("length_m", "round_m"), [(99.0, 50.0), (100.0, 100.0), (260.0, 200.0), (7.0, 5.0)]
)
def test_scale_bar_lengths_are_round(length_m, round_m):
    assert map_figures._round_length_m(length_m) == round_m


def test_posterior_panels_state_the_calibrated_region(example, footprints):
    wide = dataclasses.replace(example, mass90={"network": 0.97})
    titles = [
        map_figures.posterior_panels(e, footprints).axes[0].get_title() for e in (example, wide)
    ]
    plain_m2, wide_m2 = (float(t.split()[-2].replace(",", "")) for t in titles)
    assert wide_m2 > plain_m2
