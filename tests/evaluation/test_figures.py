import dataclasses
import struct

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ueloc_core.evaluation import figures, map_figures
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
    colours = [figures._colour(method) for method in figures.LABELS]
    assert len(set(colours)) == len(colours)


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
