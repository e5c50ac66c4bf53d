"""How artifacts and contracts look in Dagster."""

import base64
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pandera.xarray as px
import pytest
import xarray as xr

from ueloc_core.provenance import Artifact, ArtifactKey


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    metadata = {"sectors": 3, "median_m": float("nan"), "best": None, "counts": {"a": 1}}
    key = ArtifactKey("synthetic", "scene", "e1n1")
    return Artifact(key, "f" * 16, "c" * 16, tmp_path, metadata, {}, 2.5, cached=False)


def test_metadata_keeps_numbers_plottable_and_the_rest_readable(artifact: Artifact):
    from assets.results import materialized

    result = materialized(artifact)
    assert result.data_version.value == "c" * 16
    assert result.metadata["sectors"] == 3
    assert result.metadata["seconds"] == 2.5
    assert result.metadata["cached"] is False
    assert result.metadata["median_m"].text == "nan"
    assert result.metadata["best"].text == "none"
    assert result.metadata["counts"].data == {"a": 1}


def test_a_large_picture_is_shrunk_to_fit_the_database(tmp_path: Path):
    from PIL import Image

    from assets.results import PREVIEW_BYTES, preview_image

    noise = np.random.default_rng(1).integers(0, 255, (600, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    text = preview_image(tmp_path / "noise.png").md_str
    data = base64.b64decode(text.partition("base64,")[2].rstrip(")"))
    assert text.startswith("![noise](data:image/png;base64,")
    assert len(data) <= PREVIEW_BYTES
    assert data.startswith(b"\x89PNG")


TABLE = pa.DataFrameSchema(
    {
        "sector_id": pa.Column(np.int64, unique=True, description="Identity"),
        "power_dbm": pa.Column(float, pa.Check.le(80), nullable=True),
    },
    name="Sectors",
)


def test_columns_of_a_table():
    from assets.results import column_schema

    identity, power = column_schema(TABLE).columns
    assert (identity.name, identity.type, identity.description) == (
        "sector_id",
        "int64",
        "Identity",
    )
    assert identity.constraints.unique
    assert power.constraints.nullable
    assert power.constraints.other == ["less_than_or_equal_to(80)"]


def test_variables_of_a_data_set():
    from assets.results import column_schema

    schema = px.DatasetSchema(
        data_vars={"rsrp_dbm": px.DataVar(dtype=np.float32, dims=("y", "x"))}, name="map"
    )
    values = np.zeros((2, 2), np.float32)
    attributes = {"units": "dBm", "long_name": "received power"}
    data = xr.Dataset({"rsrp_dbm": (("y", "x"), values, attributes)})
    (column,) = column_schema(schema, data).columns
    assert column.type == "float32 (y, x)"
    assert column.description == "received power [dBm]"


def test_a_table_that_breaks_its_schema_is_explained():
    from assets.checks import conforms

    good = pd.DataFrame({"sector_id": [1, 2], "power_dbm": [46.0, np.nan]})
    assert conforms(good, TABLE).passed
    result = conforms(good.assign(power_dbm=[99.0, 46.0]), TABLE)
    assert not result.passed
    assert "power_dbm" in result.description
    assert "99.0" in result.description
    assert result.metadata["failures"].value == 1


def test_a_data_set_that_breaks_its_schema_is_explained():
    from assets.checks import conforms

    schema = px.DatasetSchema(
        data_vars={"gain_db": px.DataVar(dims=("x",), checks=px.Check.le(0))}, name="map"
    )
    result = conforms(xr.Dataset({"gain_db": ("x", [-80.0, 3.0])}), schema)
    assert not result.passed
    assert "gain_db" in result.description
