"""Report data sets on disk and as tensors."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from ueloc_core.city import City
from ueloc_core.errors import StoreError
from ueloc_core.measurement.schemas import SLOTS

if TYPE_CHECKING:
    from ueloc_core.measurement.model import ReportBatch
    from ueloc_core.radio.atlas import MapAtlas

_CHUNK = 4096
_ATTRS: dict[str, dict[str, str]] = {
    "sector_id": {"long_name": "sector of the slot, 0 = empty; slot 0 serves", "units": "1"},
    "rsrp_code": {"long_name": "SS-RSRP code, TS 38.133 table 10.1.6.1-1", "units": "1"},
    "rsrq_code": {"long_name": "SS-RSRQ code, TS 38.133 table 10.1.11.1-1", "units": "1"},
    "sinr_code": {"long_name": "SS-SINR code, TS 38.133 table 10.1.16.1-1", "units": "1"},
    "cqi": {"long_name": "channel quality indicator, TS 38.214 table 5.2.2.1-2", "units": "1"},
    "x_m": {"long_name": "true easting", "units": "m"},
    "y_m": {"long_name": "true northing", "units": "m"},
    "track": {"long_name": "terminal", "units": "1"},
    "time_s": {"long_name": "time since the track's start", "units": "s"},
    "split": {"long_name": "train, validation, calibration, test; -1 unused", "units": "1"},
}


def to_dataset(
    city: City,
    atlas: "MapAtlas",
    batch: "ReportBatch",
    x_m: NDArray[np.float64],
    y_m: NDArray[np.float64],
    track: NDArray[np.int64],
) -> xr.Dataset:
    """Reports as a data set (`ReportSchema`), one report a track.

    Parameters
    ----------
    city, atlas
        Where the reports come from; the atlas names the sectors.
    batch
        The reports.
    x_m, y_m
        True positions [m].
    track
        Identity of each terminal.
    """
    known = np.append(atlas.sectors.sector_id.to_numpy(), 0)  # position -1 is the empty slot
    codes = {
        f"{name}_code": (("report", "slot"), getattr(batch, name).numpy().astype(np.int16))
        for name in ("rsrp", "rsrq", "sinr")
    }
    return _described(
        city,
        xr.Dataset(
            {
                "sector_id": (("report", "slot"), known[batch.sector.numpy()].astype(np.int64)),
                **codes,
                "cqi": ("report", batch.cqi.numpy().astype(np.int8)),
                "x_m": ("report", x_m.astype(np.float64)),
                "y_m": ("report", y_m.astype(np.float64)),
                "track": ("report", track.astype(np.int64)),
                "time_s": ("report", np.zeros(len(track))),
            }
        ),
    )


def empty_reports(city: City) -> xr.Dataset:
    """A data set without reports."""
    slots = {
        name: (("report", "slot"), np.zeros((0, SLOTS), dtype=dtype))
        for name, dtype in (
            ("sector_id", np.int64),
            ("rsrp_code", np.int16),
            ("rsrq_code", np.int16),
            ("sinr_code", np.int16),
        )
    }
    flat = {
        name: ("report", np.zeros(0, dtype=dtype))
        for name, dtype in (
            ("cqi", np.int8),
            ("x_m", np.float64),
            ("y_m", np.float64),
            ("track", np.int64),
            ("time_s", np.float64),
        )
    }
    return _described(city, xr.Dataset({**slots, **flat}))


def _described(city: City, reports: xr.Dataset) -> xr.Dataset:
    for name, variable in reports.data_vars.items():
        variable.attrs.update(_ATTRS[str(name)])
    reports.attrs.update({"city": city.name, "crs": city.crs_code, "seed": city.seed})
    return reports


def write_reports(reports: xr.Dataset, folder: Path) -> None:
    """Write ``reports.zarr`` (Zarr v3, zstd) into a folder."""
    for name, variable in reports.data_vars.items():
        variable.attrs.update(_ATTRS[str(name)])
    encoding: dict[str, Any] = {
        str(name): {
            "chunks": (_CHUNK, *variable.shape[1:]),
            "compressors": [ZstdCodec(level=3)],
        }
        for name, variable in reports.data_vars.items()
        if variable.size
    }
    reports.to_zarr(
        folder / "reports.zarr", mode="w-", zarr_format=3, consolidated=False, encoding=encoding
    )


def load_reports(folder: Path) -> xr.Dataset:
    """Read ``reports.zarr`` of a folder.

    Raises
    ------
    StoreError
        If it is missing or corrupt.
    """
    path = folder / "reports.zarr"
    try:
        with xr.open_zarr(path, consolidated=False, chunks=None) as reports:
            loaded: xr.Dataset = reports.load()
            return loaded
    except Exception as error:
        raise StoreError(
            f"reports cannot be read ({error})",
            where=str(path),
            remedy="Materialize the measurements again.",
        ) from error


def to_batch(reports: xr.Dataset, atlas: "MapAtlas") -> "ReportBatch":
    """Reports as tensors over the sectors of an atlas.

    Raises
    ------
    RadioError
        If a report names a sector that the atlas does not know.
    """
    import torch  # noqa: PLC0415  (reading reports alone needs no torch)

    from ueloc_core.measurement.model import ReportBatch  # noqa: PLC0415

    def tensor(values: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values).astype(np.int64))

    return ReportBatch(
        sector=tensor(atlas.indices(reports.sector_id.values)),
        rsrp=tensor(reports.rsrp_code.values),
        rsrq=tensor(reports.rsrq_code.values),
        sinr=tensor(reports.sinr_code.values),
        cqi=tensor(reports.cqi.values),
    )
