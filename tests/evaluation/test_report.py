import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from ueloc_core.city import load_city
from ueloc_core.evaluation.figures import coverage, error_cdf
from ueloc_core.evaluation.metrics import summarise
from ueloc_core.evaluation.report import NO_VALUE, headline, summary_text, write_report

ATTRIBUTION = "Map data © OpenStreetMap contributors, ODbL 1.0"


class Page(HTMLParser):
    """Collects tags, the cells of tables and text; complains about tags that do not close."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.rows, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += f"{data} "


@pytest.fixture(scope="module")
def page(fixes, history, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(
        path,
        city=load_city("helsinki"),
        summary=summarise(fixes),
        fixes=fixes,
        history=history,
        figures={"error_cdf": error_cdf(fixes), "coverage": coverage(fixes), "extra": b"\x89PNG"},
        facts={
            "reports": 150,
            "<script>": "a & b",
            "inputs": {"radio_map": "0123abcd"},
            "config": {"grid": {"cell_m": 4.0}, "splits": ["a", "b"], "schedule": None},
        },
        attribution=ATTRIBUTION,
    )
    return path.read_text(encoding="utf-8")


def test_it_needs_nothing_else(page):
    for _, attributes in Page(page).tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert not re.search(r"https?://|url\(|@import", page)


def test_its_pictures_are_whole(page):
    pictures = [a["src"] for tag, a in Page(page).tags if tag == "img"]
    assert len(pictures) == 3
    for source in pictures:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")).startswith(
            b"\x89PNG"
        )
    assert all(a["alt"] for tag, a in Page(page).tags if tag == "img")


def test_every_method_stands_next_to_the_oracle(page, fixes):
    rows = {}
    for row in Page(page).rows:
        rows.setdefault(row[0].strip(), row)
    summary = summarise(fixes).set_index("method")
    assert f"{summary.loc['oracle', 'median_m']:.1f}" in " ".join(rows["Oracle"])
    ratio = summary.loc["knn", "median_m"] / summary.loc["oracle", "median_m"]
    assert f"{ratio:.2f}" in " ".join(rows["kNN fingerprints"])
    assert rows["Strongest sector"].count(f"{NO_VALUE} ") == 5


def test_facts_are_shown_and_escaped(page):
    rows = {row[0].strip(): row[-1].strip() for row in Page(page).rows if len(row) == 2}
    assert rows["radio_map"] == "0123abcd"
    assert rows["grid.cell_m"] == "4"
    assert rows["splits"] == "a, b"
    assert rows["schedule"] == NO_VALUE
    assert rows["<script>"] == "a & b"
    assert "<script>" not in page


def test_it_names_whose_data_it_shows(page):
    assert ATTRIBUTION in "".join(Page(page).text)


def test_it_is_fine_on_a_phone_and_in_the_dark(page):
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_training_is_told(page):
    assert "5 epochs; posterior on the validation reports is lowest after epoch 5: 1.40" in page


def test_headline_names_the_oracle(fixes):
    summary = summarise(fixes)
    text = headline(summary)
    assert f"within {summary['median_m'].iloc[0]:.0f} m" in text
    assert f"reaches {summary['median_m'].iloc[1]:.0f} m" in text
    assert "methods were compared" in headline(summary[summary["method"] == "knn"])


def test_text_table_lines_up_and_dashes_what_is_missing(fixes):
    summary = summarise(fixes)
    lines = summary_text(summary).splitlines()
    assert len(lines) == 6
    assert lines[0].split("  ")[0] == "method"
    assert len({len(line) for line in lines}) == 1
    knn = next(line for line in lines if line.startswith("kNN"))
    assert knn.split()[-4:-1] == ["-", "-", "-"]
    assert np.isclose(float(lines[2].split()[1]), summary["median_m"].iloc[0], atol=0.05)
