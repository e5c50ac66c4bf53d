import json
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from ueloc_core.city import load_city
from ueloc_core.errors import UelocError
from ueloc_core.grid import Window
from ueloc_core.localization.fix_files import fix_table, write_fixes
from ueloc_core.localization.regions import to_wgs84


@dataclass(frozen=True)
class GaussianFix:
    """A round posterior around a point of the city."""

    x_m: float
    y_m: float
    window: Window
    mass: np.ndarray
    outside_mass: float
    std_m: float
    needed: float = 0.0

    def region_level(self, level):
        """As calibration would: a wider region than the posterior's own."""
        return level + self.needed * (1 - level)

    @classmethod
    def around(cls, x_m, y_m, outside_mass=0.0, needed=0.0, sigma_m=10.0):
        window = Window.centred(x_m, y_m, 200, 4)
        east, north = np.meshgrid(window.x_centres_m - x_m, window.y_centres_m - y_m)
        mass = np.exp(-(east**2 + north**2) / (2 * sigma_m**2))
        mass *= (1 - outside_mass) / mass.sum()
        return cls(x_m, y_m, window, mass, outside_mass, 2**0.5 * sigma_m, needed)


@pytest.fixture(scope="module")
def city():
    return load_city("helsinki")


@pytest.fixture(scope="module")
def table(city):
    x0, y0, x1, y1 = city.bounds_m
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    fixes = [GaussianFix.around(*middle), GaussianFix.around(*middle, outside_mass=0.2)]
    return fix_table(fixes, ["a", "b"], city)


def test_a_row_says_where_and_how_sure(table, city):
    row = table.iloc[0]
    west, south, east, north = city.bbox
    assert west < row["lon_deg"] < east
    assert south < row["lat_deg"] < north
    assert row["radius50_m"] == pytest.approx(10 * np.sqrt(2 * np.log(2)), abs=2)
    assert row["radius90_m"] == pytest.approx(10 * np.sqrt(2 * np.log(10)), abs=2)
    assert row["area90_m2"] == pytest.approx(np.pi * row["radius90_m"] ** 2, rel=0.1)
    assert row["region50"].difference(row["region90"]).area < 1e-3 * row["region50"].area
    assert row["region50"].covers(row["geometry"])


def test_regions_are_as_wide_as_calibration_says(city):
    x0, y0, x1, y1 = city.bounds_m
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    fixes = [GaussianFix.around(*middle), GaussianFix.around(*middle, needed=0.3)]
    plain, wide = fix_table(fixes, ["a", "b"], city).to_dict("records")
    for name in ("radius50_m", "radius90_m", "area50_m2", "area90_m2"):
        assert wide[name] > plain[name]
    assert plain["region90"].difference(wide["region90"]).area < 1e-3 * plain["region90"].area
    assert wide["std_m"] == plain["std_m"]


def test_a_window_that_holds_too_little_has_no_radius(table):
    assert table["radius90_m"].tolist()[1] == np.inf
    assert np.isfinite(table["radius50_m"]).all()


def test_geojson_is_rfc_7946(table, tmp_path):
    path = tmp_path / "fixes.geojson"
    write_fixes(table, path)
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert "crs" not in content
    features = content["features"]
    assert [f["geometry"]["type"] for f in features] == [
        "Point",
        "MultiPolygon",
        "MultiPolygon",
    ] * 2
    assert [f["properties"].get("probability") for f in features[:3]] == [None, 0.5, 0.9]
    assert {f["properties"]["report_id"] for f in features[3:]} == {"b"}
    assert features[0]["properties"]["area90_m2"] == table["area90_m2"][0]
    assert features[3]["properties"]["radius90_m"] is None
    assert [features[i]["properties"]["truncated90"] for i in (0, 3)] == [False, True]
    for feature in features:
        geometry = shapely.geometry.shape(feature["geometry"])
        assert geometry.is_valid
        if geometry.geom_type == "MultiPolygon":
            assert all(shapely.is_ccw(part.exterior) for part in geometry.geoms)


def test_csv_has_a_row_per_report_and_its_regions_as_wkt(table, tmp_path):
    path = tmp_path / "fixes.csv"
    write_fixes(table, path)
    read = pd.read_csv(path)
    assert read["report_id"].tolist() == ["a", "b"]
    regions = shapely.from_wkt(read["region90"])
    assert shapely.equals_exact(regions, table["region90"].to_numpy(), tolerance=1e-6).all()
    assert read["lat_deg"].tolist() == table["lat_deg"].tolist()


def test_parquet_is_geoparquet(table, tmp_path, city):
    path = tmp_path / "fixes.parquet"
    write_fixes(table, path)
    read = gpd.read_parquet(path)
    assert read.crs.to_authority() == ("OGC", "CRS84")
    assert read["region90"].crs == read.crs
    in_metres = read["region90"].to_crs(city.crs_code).area
    np.testing.assert_allclose(in_metres, table["area90_m2"], rtol=1e-3)


def test_batches_can_be_joined(table, tmp_path):
    joined = pd.concat([table, table], ignore_index=True)
    write_fixes(joined, tmp_path / "fixes.parquet")
    assert len(gpd.read_parquet(tmp_path / "fixes.parquet")) == 4


def test_coordinates_are_longitude_first(table, city):
    row = table.iloc[0]
    again = to_wgs84(shapely.Point(row["x_m"], row["y_m"]), city)
    assert (again.x, again.y) == pytest.approx((row["lon_deg"], row["lat_deg"]), abs=1e-6)


@pytest.mark.parametrize("name", ["fixes.xls", "fixes", "nowhere/fixes.csv"])
def test_a_file_that_cannot_be_written_says_why(table, tmp_path, name):
    with pytest.raises(UelocError, match=r"End the name in .geojson|Create it first"):
        write_fixes(table, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(table, tmp_path):
    path = tmp_path / "fixes.csv"
    path.mkdir()
    with pytest.raises(UelocError, match="cannot be written"):
        write_fixes(table, path)
    assert [p.name for p in tmp_path.iterdir()] == ["fixes.csv"]
