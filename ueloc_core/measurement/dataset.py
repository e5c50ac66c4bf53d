"""Report data sets in memory, in a store, and as tensors.

A store is one Zarr v3 group, ``reports.zarr``: an array per variable, chunked along the reports
(`CHUNK`), the same chunks for all, so that a part of the reports is read from a few of them. The
floats of the ray-tracing layer are rounded to integers by the CF conventions, with the steps of
the radio maps that they come from.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from ueloc_core.city import City
from ueloc_core.errors import ReportError, StoreError
from ueloc_core.measurement.report_variables import (
    FLAGS,
    NEEDED,
    SPLIT,
    VARIABLES,
    Variable,
    flags_of_codes,
)

if TYPE_CHECKING:
    from ueloc_core.measurement.batch import ReportBatch
    from ueloc_core.radio.atlas import MapAtlas

STORE = "reports.zarr"
CHUNK = 16_384
"""Reports in a chunk.

Each chunk of a variable costs 0.5 ms to read, whatever it holds. On 270,000 reports of 26
variables, reading chunks in random order takes 33 / 11 / 3.4 / 1.0 / 0.4 us a report with 512 /
2048 / 4096 / 16,384 / 65,536 of them in a chunk (2-core machine, local disk), and the store
shrinks from 196 to 180 bytes a report. A window of `RandomReads` holds several chunks: 26 MB with
16,384, four times that with the longest.
"""

_TENSORS = {
    "rsrp": "rsrp_code",
    "rsrq": "rsrq_code",
    "sinr": "sinr_code",
    "cqi": "cqi",
    "ri": "ri",
    "ul_sinr": "ul_sinr_code",
    "ta": "ta_code",
    "ta_offset": "ta_offset_ns",
    "aoa": "aoa_code",
    "throughput": "throughput_kbps",
    "bler": "bler_percent",
    "selected": "selected",
    "scenario": "scenario",
    "beam": "beam_index",
    "beam_level": "beam_code",
}
_ALL = {**VARIABLES, "split": SPLIT}


@dataclass(frozen=True)
class Truth:
    """Who sent reports, where and when: arrays of shape (report,).

    Attributes
    ----------
    track
        Terminal; its reports stand together, by rising time.
    time_s
        Time since the track's first report [s].
    x_m, y_m
        Position [m], NaN where unknown.
    speed_m_s, heading_deg
        Speed [m/s] and heading clockwise from north [deg], NaN where unknown.
    mobility, indoor
        Index into `MOBILITIES`, and 1 in buildings, 0 outdoors; -1 unknown.
    rt
        Ray-tracing layer, variables ``rt_*`` of shape (report, slot); those left out are NaN.
    """

    track: NDArray[np.int64]
    time_s: NDArray[np.float64]
    x_m: NDArray[np.float64]
    y_m: NDArray[np.float64]
    speed_m_s: NDArray[np.floating[Any]]
    heading_deg: NDArray[np.floating[Any]]
    mobility: NDArray[np.integer[Any]]
    indoor: NDArray[np.integer[Any]]
    rt: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)

    @classmethod
    def standing(
        cls,
        x_m: NDArray[np.float64],
        y_m: NDArray[np.float64],
        track: NDArray[np.int64] | None = None,
    ) -> "Truth":
        """Terminals that stand outdoors at points [m] and send one report each."""
        count = len(x_m)
        return cls(
            track=np.arange(count) if track is None else np.asarray(track),
            time_s=np.zeros(count),
            x_m=x_m,
            y_m=y_m,
            speed_m_s=np.zeros(count),
            heading_deg=np.full(count, np.nan),
            mobility=np.zeros(count, dtype=np.int8),
            indoor=np.zeros(count, dtype=np.int8),
        )


def to_dataset(city: City, atlas: "MapAtlas", batch: "ReportBatch", truth: Truth) -> xr.Dataset:
    """Reports as a data set (`ReportSchema`).

    Parameters
    ----------
    city, atlas
        Where the reports come from; the atlas names the sectors.
    batch
        The reports.
    truth
        Who sent them, where and when.

    Raises
    ------
    ReportError
        If an array does not fit, or a value is beyond what its integers hold.
    """
    known = np.append(atlas.sectors.sector_id.to_numpy(), 0)  # position -1 is the empty slot
    arrays = {name: getattr(batch, tensor).numpy() for tensor, name in _TENSORS.items()}
    arrays["sector_id"] = known[batch.sector.numpy()]
    for name in ("track", "time_s", "x_m", "y_m", "speed_m_s", "heading_deg", "mobility", "indoor"):
        arrays[name] = getattr(truth, name)
    arrays |= {name: _on_steps(name, values) for name, values in truth.rt.items()}
    return _of_city(city, complete(xr.Dataset({n: _as_variable(n, v) for n, v in arrays.items()})))


def empty_reports(city: City) -> xr.Dataset:
    """A data set without reports."""
    nothing = {name: _as_variable(name, VARIABLES[name].absent(0)) for name in VARIABLES}
    return _of_city(city, complete(xr.Dataset(nothing)))


def complete(reports: xr.Dataset) -> xr.Dataset:
    """A data set with all variables (`ReportSchema`): what is not given is missing.

    Without ``track`` and ``time_s`` every report is another terminal's. ``present`` is computed
    anew. Types, the order of the variables and their attributes become those of the contract.

    Parameters
    ----------
    reports
        ``sector_id`` and ``rsrp_code``, and any of the other variables.

    Raises
    ------
    ReportError
        If one of the two is missing, a variable is unknown, or its dims or values do not fit.
    """
    if lacking := [name for name in NEEDED if name not in reports]:
        raise ReportError(f"reports without {' and '.join(lacking)}", where="report data set")
    if unknown := sorted({str(name) for name in reports.data_vars} - set(_ALL)):
        raise ReportError(
            f"unknown variables {', '.join(unknown)}",
            where="report data set",
            remedy=f"Known: {', '.join(_ALL)}.",
        )
    count = int(reports.sizes["report"])
    defaults = {"track": np.arange(count), "time_s": np.zeros(count)}
    given = {
        name: _as_variable(name, defaults.get(name, variable.absent(count)))
        if name not in reports
        else _as_variable(name, reports[name].values, reports[name].dims)
        for name, variable in _ALL.items()
        if name in reports or name in VARIABLES
    }
    result = xr.Dataset(given, attrs=reports.attrs)
    result["present"] = _as_variable("present", flags_of_codes(result))
    return result


def present_flags(reports: xr.Dataset) -> dict[str, NDArray[np.bool_]]:
    """Where each feature is there, by name (`ueloc_core.measurement.scenarios.FEATURES`).

    Shape (report, slot) for rsrp, rsrq and sinr, else (report,).
    """
    flags = reports["present"].values
    per_slot = ("rsrp", "rsrq", "sinr")
    return {
        feature: ((flags if feature in per_slot else flags[:, 0]) & bit) != 0
        for feature, bit in FLAGS.items()
    }


def write_reports(reports: xr.Dataset, folder: Path) -> None:
    """Write ``reports.zarr`` (Zarr v3, zstd) into a folder.

    Raises
    ------
    ReportError
        If a value is beyond what its integers hold.
    """
    stored = xr.Dataset(attrs=reports.attrs)
    for name, variable in reports.data_vars.items():
        values = variable.values
        if _ALL[str(name)].layer is not None:
            values = _on_steps(str(name), values)
        stored[name] = _as_variable(str(name), values, variable.dims)
    stored.to_zarr(
        folder / STORE,
        mode="w-",
        zarr_format=3,
        consolidated=False,
        encoding={str(n): _encoding(_ALL[str(n)], v.shape) for n, v in stored.data_vars.items()},
    )


def open_reports(folder: Path, variables: Collection[str] | None = None) -> xr.Dataset:
    """``reports.zarr`` of a folder, read when values are asked for.

    Integers of the ray-tracing layer come out as float64 here; `typed` gives them their type.

    Raises
    ------
    StoreError
        If it is missing or corrupt, or has no such variable.
    """
    path = folder / STORE
    try:
        reports: xr.Dataset = xr.open_zarr(path, consolidated=False, chunks=None)
    except Exception as error:
        raise _unreadable(path, error) from error
    if variables is None:
        return reports[[name for name in _ALL if name in reports]]
    if lacking := [name for name in variables if name not in reports]:
        raise _unreadable(path, f"it has no {', '.join(lacking)}")
    return reports[list(variables)]


def load_reports(folder: Path, variables: Collection[str] | None = None) -> xr.Dataset:
    """Read ``reports.zarr`` of a folder into memory.

    Parameters
    ----------
    folder
        Where `write_reports` wrote it.
    variables
        The variables to read; all by default, 0.6 kB a report (two thirds of it `RAY_TRACED`).

    Raises
    ------
    StoreError
        If it is missing or corrupt, or has no such variable.
    """
    with open_reports(folder, variables) as reports:
        try:
            return typed(reports.load())
        except Exception as error:
            raise _unreadable(folder / STORE, error) from error


def stored_bytes(folder: Path) -> int:
    """Size of ``reports.zarr`` of a folder [byte]."""
    return sum(path.stat().st_size for path in (folder / STORE).rglob("*") if path.is_file())


def typed(reports: xr.Dataset) -> xr.Dataset:
    """Variables in the types of the contract."""
    return reports.assign(
        {
            name: reports[name].astype(_ALL[str(name)].dtype)
            for name in reports.data_vars
            if reports[name].dtype != _ALL[str(name)].dtype
        }
    )


def to_batch(reports: xr.Dataset, atlas: "MapAtlas") -> "ReportBatch":
    """Reports as tensors over the sectors of an atlas; variables that are not there are missing.

    Raises
    ------
    RadioError
        If a report names a sector that the atlas does not know.
    """
    from ueloc_core.measurement.batch import ReportBatch  # noqa: PLC0415  (reading needs no torch)

    given = {t: reports[name].values for t, name in _TENSORS.items() if name in reports}
    return ReportBatch.of(atlas.indices(reports["sector_id"].values), **given)


def _as_variable(name: str, values: Any, dims: Any = None) -> xr.Variable:
    """Values in the type, dims and with the attributes of the contract."""
    variable, values = _ALL[name], np.asarray(values)
    dims = variable.dims if dims is None else tuple(dims)
    if dims != variable.dims or values.ndim != len(dims):
        raise ReportError(
            f"{name} has dims {dims} and shape {values.shape}", remedy=f"Give {variable.dims}."
        )
    with np.errstate(invalid="ignore"):
        typed_values = values.astype(variable.dtype)
    whole = not np.issubdtype(variable.dtype, np.floating)
    if whole and not np.array_equal(typed_values, values):
        raise ReportError(f"{name} has values that {np.dtype(variable.dtype)} does not hold")
    return xr.Variable(variable.dims, typed_values, variable.attrs)


def _on_steps(name: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """Values of the ray-tracing layer as the store gives them back."""
    variable = VARIABLES.get(name)
    layer = variable.layer if variable is not None else None
    if layer is None or layer.step is None:
        raise ReportError(f"{name} is no variable of the ray-tracing layer")
    steps = np.rint(np.asarray(values, dtype=np.float64) / layer.step)
    if layer.period is not None:
        steps = np.mod(steps, round(layer.period / layer.step))
    wrong = ~np.isnan(steps) & ~(
        (steps >= layer.lowest / layer.step - 0.5) & (steps <= layer.highest / layer.step + 0.5)
    )
    if wrong.any():
        raise ReportError(
            f"{name} = {np.asarray(values)[wrong][0]:g} {layer.units} cannot be stored",
            remedy=f"It lies between {layer.lowest:g} and {layer.highest:g}.",
        )
    return (steps * layer.step).astype(np.float32)


def _encoding(variable: Variable, shape: tuple[int, ...]) -> dict[str, Any]:
    layer = variable.layer
    encoding: dict[str, Any] = {}
    if layer is not None:
        encoding |= {"dtype": layer.dtype, "scale_factor": layer.step, "_FillValue": layer.fill}
    if shape[0]:
        encoding |= {
            "chunks": (min(CHUNK, shape[0]), *shape[1:]),
            # bytes of one significance side by side
            "compressors": [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")],
        }
    return encoding


def _of_city(city: City, reports: xr.Dataset) -> xr.Dataset:
    return reports.assign_attrs(
        {
            "Conventions": "CF-1.11",
            "title": "measurement reports of terminals",
            "city": city.name,
            "crs": city.crs_code,
            "cell_m": city.grid.cell_m,
            "frequency_hz": city.radio.frequency_hz,
            "seed": city.seed,
            "attribution": "(c) OpenStreetMap contributors, ODbL 1.0",
        }
    )


def _unreadable(path: Path, problem: Exception | str) -> StoreError:
    return StoreError(
        f"reports cannot be read ({problem})",
        where=str(path),
        remedy="Materialize the measurements again.",
    )
