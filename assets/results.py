"""From an artifact of the store to what Dagster records and shows of it."""

import base64
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dagster as dg

from ueloc_core.provenance import Artifact

PREVIEW_BYTES = 50_000
"""Previews are kept in the instance's database, so they stay small."""


def materialized(
    artifact: Artifact,
    *,
    schema: Any = None,
    data: Any = None,
    preview: str = "",
    picture: str = "",
    report: str = "",
    checks: Iterable[dg.AssetCheckResult] = (),
) -> dg.MaterializeResult:
    """What a stage returns to Dagster.

    Parameters
    ----------
    artifact
        The stored result; its content digest becomes the data version.
    schema
        The pandera schema of its main table or data set, shown as columns.
    data
        The data set itself, where its variables' names and units describe them.
    preview, picture, report
        Names of a small image, of a larger one and of a page in its folder, if it has them.
    checks
        Outcomes of the stage's blocking checks.
    """
    metadata: dict[str, Any] = {
        name: _metadata_value(value) for name, value in artifact.metadata.items()
    }
    metadata |= {
        "cached": artifact.cached,
        "seconds": 0.0 if artifact.cached else artifact.elapsed_s,
        "compute_seconds": artifact.elapsed_s,
        "fingerprint": artifact.fingerprint,
        "folder": dg.MetadataValue.path(artifact.path),
    }
    if schema is not None:
        metadata["dagster/column_schema"] = column_schema(schema, data)
    if preview:
        metadata["preview"] = preview_image(artifact.path / preview)
    if picture and (artifact.path / picture).is_file():
        metadata["picture"] = dg.MetadataValue.path(artifact.path / picture)
    if report:
        metadata["report"] = dg.MetadataValue.path(artifact.path / report)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(artifact.content),
        metadata=metadata,
        check_results=list(checks),
    )


def column_schema(schema: Any, data: Any = None) -> dg.TableSchema:
    """Columns of a pandera schema: of a table, or the variables of an xarray data set.

    Parameters
    ----------
    schema
        A pandera schema or model.
    data
        An xarray data set whose attributes (``long_name``, ``units``) describe its variables.
    """
    if isinstance(schema, type):
        schema = schema.to_schema()
    columns = getattr(schema, "columns", None)
    if columns is None:
        columns = {**(schema.coords or {}), **schema.data_vars}
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=str(name),
                type=_type_of(column),
                description=column.description or _described(data, name),
                constraints=dg.TableColumnConstraints(
                    nullable=bool(column.nullable),
                    unique=bool(getattr(column, "unique", False)),
                    other=[str(check.error or check) for check in column.checks or []],
                ),
            )
            for name, column in columns.items()
        ]
    )


def preview_image(path: Path) -> dg.MarkdownMetadataValue:
    """An image as Markdown with its data inside, shrunk to `PREVIEW_BYTES` if it is larger."""
    data = path.read_bytes()
    width_px = 0
    while len(data) > PREVIEW_BYTES:
        from PIL import Image

        with Image.open(path) as image:
            width_px = round((width_px or image.width) * 0.8)
            small = image.convert("RGB").resize(
                (width_px, max(1, round(image.height * width_px / image.width)))
            )
        buffer = io.BytesIO()
        small.quantize(128).save(buffer, format="png", optimize=True)
        data = buffer.getvalue()
    text = base64.b64encode(data).decode()
    return dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{text})")


def _type_of(column: Any) -> str:
    dims = getattr(column, "dims", None)
    kind = getattr(column.dtype, "__name__", None) or str(column.dtype or "any")
    return f"{kind} ({', '.join(dims)})" if dims else kind


def _described(data: Any, name: Any) -> str | None:
    attributes = data[name].attrs if data is not None and name in data else {}
    if "long_name" not in attributes:
        return None
    units = attributes.get("units", "1")
    return f"{attributes['long_name']}" + ("" if units == "1" else f" [{units}]")


def _metadata_value(value: Any) -> Any:
    """Dagster's view of a JSON value; its plots and its API take finite numbers only."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return dg.MetadataValue.text("none" if value is None else str(value))
    if isinstance(value, bool | int | float | str):
        return value
    return dg.MetadataValue.json(value)
