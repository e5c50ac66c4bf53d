"""Layers that follow from the radio maps of a city: quality, best server, rate, timing advance.

They are the means that reports scatter around: each is computed by the function of `radio.link`
that the measurement model uses, from the mapped levels instead of drawn ones.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.errors import RadioError
from ueloc_core.geodata.georeference import grid_coordinates
from ueloc_core.grid import Window
from ueloc_core.radio.atlas import MapAtlas
from ueloc_core.radio.cube_layers import RSRP
from ueloc_core.radio.link import (
    cqi_of_sinr,
    downlink_overhead_share,
    interference_mw,
    mcs_of_sinr,
    received_power_mw,
    rsrq_db,
    rssi_dbm,
    throughput_mbps,
    timing_advance,
    timing_advance_step_m,
)
from ueloc_core.radio.mosaic import covered_window
from ueloc_core.units import db_to_linear, linear_to_db, noise_per_resource_element_dbm

_OF_SECTOR = ("sector", "y", "x")
_OF_PLACE = ("y", "x")
_NO_SECTOR = 0  # sector_id are above 0
_MISSING = -1

OF_SECTORS: Mapping[str, tuple[str, str]] = {
    "rsrp_dbm": ("dBm", "synchronisation-signal reference signal received power"),
    "snr_db": ("dB", "signal-to-noise ratio of a resource element"),
    "sinr_db": ("dB", "signal-to-interference-and-noise ratio of a resource element"),
    "rsrq_db": ("dB", "synchronisation-signal reference signal received quality"),
    "timing_advance": ("1", "timing advance of the first arrival; -1 where unknown"),
}
"""Layers of each sector, dims (sector, y, x): units and long_name by name."""

OF_PLACES: Mapping[str, tuple[str, str]] = {
    "rssi_dbm": ("dBm", "received signal strength over the carrier"),
    "best_server": ("1", "sector_id of the strongest sector; 0 where none is known"),
    "serving_rsrp_dbm": ("dBm", "RSRP of the best server"),
    "serving_sinr_db": ("dB", "SINR of the best server"),
    "cqi": ("1", "channel quality indicator of the best server; -1 where none is known"),
    "mcs": ("1", "modulation and coding scheme at the best server; -1 where none works"),
    "throughput_mbps": ("Mbit s-1", "single-layer downlink throughput with all resource blocks"),
    "serving_timing_advance": ("1", "timing advance to the best server; -1 where unknown"),
}
"""Layers of all sectors together, dims (y, x): units and long_name by name."""


def derived_layers(city: City, atlas: MapAtlas, window: Window | None = None) -> xr.Dataset:
    """What terminals would measure and get, over any window of the city.

    Parameters
    ----------
    city
        Gives load, noise figure, numerology and resource blocks.
    atlas
        The radio maps. The timing advance follows from their ``first_arrival_ns``; where that is
        None there is no timing advance, for a straight line is no path.
    window
        Where; all ground of the city by default. Memory is about 20 bytes for every grid cell and
        sector that reaches it.

    Returns
    -------
    Dataset
        Dims (sector, y, x), of the sectors whose maps meet the window: ``rsrp_dbm``, ``snr_db``,
        ``sinr_db``, ``rsrq_db``, ``timing_advance``. Dims (y, x): ``rssi_dbm``, ``best_server``,
        ``serving_rsrp_dbm``, ``serving_sinr_db``, ``cqi``, ``mcs``, ``throughput_mbps``,
        ``serving_timing_advance``. Row 0 is the southernmost. NaN (or the value that the
        layer's long_name tells) where no sector's level is known. The load is that of all
        sectors, the serving one included in RSSI and RSRQ (TS 38.215, 5.1.3) and left out of
        SINR. Of equally strong sectors the one of lowest sector_id serves.

    Raises
    ------
    RadioError
        If `window` has other grid cells than the city, or the delays other shapes than the maps.
    """
    window = atlas.ground if window is None else window
    if window.cell_m != atlas.ground.cell_m:
        raise RadioError(
            f"grid cells of {window.cell_m:g} m over maps of {atlas.ground.cell_m:g} m",
            where=city.name,
        )
    chosen = np.array(
        [i for i, own in enumerate(atlas.windows) if window.intersection(own) is not None],
        dtype=np.int64,
    )
    delays_ns = atlas.first_arrival_ns
    if delays_ns is not None:
        delays_ns = _delays_in(atlas, delays_ns, window, chosen)
    sector_ids = atlas.sectors.sector_id.to_numpy()[chosen]
    return layers_of(city, window, sector_ids, atlas.maps_in(window, chosen)[0], delays_ns)


def layers_of(
    city: City,
    window: Window,
    sector_ids: NDArray[np.int64],
    rsrp_dbm: NDArray[np.float32],
    first_arrival_ns: NDArray[np.float32] | None = None,
) -> xr.Dataset:
    """What follows from the maps of some sectors over a window.

    Parameters
    ----------
    city
        As of `derived_layers`.
    window
        Where.
    sector_ids
        The sectors, from the lowest: shape (sector,).
    rsrp_dbm
        Their levels [dBm], shape (sector, rows, columns); NaN where unknown. What is not among
        them interferes nowhere.
    first_arrival_ns
        One-way delay of their first detected paths [ns], of the same shape; None for no timing
        advance.

    Returns
    -------
    As of `derived_layers`.
    """
    layers = _levels_and_quality(city, rsrp_dbm)
    layers |= _of_best_server(city, layers, sector_ids)
    if first_arrival_ns is not None:
        layers |= _timing(city, layers, first_arrival_ns)
    del layers["_best"]
    return _dataset(city, window, sector_ids, layers)


def layers_of_maps(city: City, maps: xr.Dataset) -> xr.Dataset:
    """What follows from a mosaic, or from a part of one (`ueloc_core.radio.mosaic.part_over`).

    As `derived_layers`; sectors that the part does not hold interfere nowhere.
    """
    delays_ns = maps["first_arrival_ns"].values if "first_arrival_ns" in maps else None
    window, level_dbm = covered_window(maps), maps[RSRP].values
    return layers_of(city, window, maps.sector.values, level_dbm, delays_ns)


def _levels_and_quality(city: City, rsrp_dbm: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    radio = city.radio
    noise_dbm = noise_per_resource_element_dbm(radio.numerology, radio.noise_figure_db)
    noise_mw = db_to_linear(noise_dbm)
    levels_mw = np.zeros(rsrp_dbm.shape[1:])
    for plane in rsrp_dbm:
        levels_mw += _milliwatts(plane)
    total_mw = received_power_mw(levels_mw, load=radio.load, noise_mw=noise_mw)
    total_dbm = linear_to_db(total_mw)
    sinr, rsrq = np.empty_like(rsrp_dbm), np.empty_like(rsrp_dbm)
    for k, plane in enumerate(rsrp_dbm):
        rest_mw = interference_mw(total_mw, _milliwatts(plane), load=radio.load, noise_mw=noise_mw)
        sinr[k] = plane - linear_to_db(rest_mw)
        rsrq[k] = rsrq_db(plane, total_dbm)
    known = np.isfinite(rsrp_dbm).any(axis=0)
    rssi = np.where(known, rssi_dbm(total_dbm, radio.resource_blocks), np.nan)
    return {
        "rsrp_dbm": rsrp_dbm,
        "snr_db": (rsrp_dbm - noise_dbm).astype(np.float32),
        "sinr_db": sinr,
        "rsrq_db": rsrq,
        "rssi_dbm": rssi.astype(np.float32),
    }


def _milliwatts(level_dbm: NDArray[np.float32]) -> NDArray[np.float64]:
    """Levels [mW], 0 where unknown: what no ray reached disturbs nobody."""
    return np.asarray(np.nan_to_num(db_to_linear(level_dbm.astype(np.float64)), nan=0.0))


def _of_best_server(
    city: City, layers: dict[str, NDArray[Any]], sector_ids: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    rsrp, radio = layers["rsrp_dbm"], city.radio
    shape = rsrp.shape[1:]
    best = np.full(shape, _MISSING, dtype=np.int64)
    level = np.full(shape, np.nan, dtype=np.float32)
    sinr = np.full(shape, np.nan, dtype=np.float32)
    for k, plane in enumerate(rsrp):
        better = (plane > level) | (np.isfinite(plane) & np.isnan(level))
        best[better], level[better] = k, plane[better]
        sinr[better] = layers["sinr_db"][k][better]
    named = np.append(sector_ids, _NO_SECTOR)[best]  # -1 is the last
    speed = throughput_mbps(
        sinr,
        resource_blocks=radio.resource_blocks,
        numerology=radio.numerology,
        overhead_share=downlink_overhead_share(radio.frequency_hz),
    )
    return {
        "_best": best,
        "best_server": named,
        "serving_rsrp_dbm": level,
        "serving_sinr_db": sinr,
        "cqi": cqi_of_sinr(sinr).astype(np.int8),
        "mcs": mcs_of_sinr(sinr).astype(np.int8),
        "throughput_mbps": speed.astype(np.float32),
    }


def _delays_in(
    atlas: MapAtlas, delays_ns: NDArray[Any], window: Window, chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """First arrivals [ns] of some sectors over a window, NaN outside of their own."""
    if np.shape(delays_ns) != atlas.rsrp_dbm.shape:
        raise RadioError(
            f"delays of shape {np.shape(delays_ns)} with levels of shape {atlas.rsrp_dbm.shape}",
            where=atlas.city.name,
        )
    delays = np.full((len(chosen), *window.shape), np.nan, dtype=np.float32)
    for k, sector in enumerate(chosen):
        own = atlas.windows[sector]
        shared = window.intersection(own)
        if shared is not None:
            source = delays_ns[(int(sector), *shared.slices_in(own))]
            delays[(k, *shared.slices_in(window))] = source
    return delays


def _timing(
    city: City, layers: dict[str, NDArray[Any]], delays_ns: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    best = layers["_best"]
    advance = np.empty(delays_ns.shape, dtype=np.int16)
    serving = np.full(best.shape, _MISSING, dtype=np.int16)
    for k, delay in enumerate(delays_ns):
        advance[k] = timing_advance(delay, city.radio.numerology)
        serving[best == k] = advance[k][best == k]
    return {"timing_advance": advance, "serving_timing_advance": serving}


def _dataset(
    city: City, window: Window, sector_ids: NDArray[np.int64], layers: dict[str, NDArray[Any]]
) -> xr.Dataset:
    radio = city.radio
    variables = {
        name: (
            _OF_SECTOR if layers[name].ndim == 3 else _OF_PLACE,
            layers[name],
            {"units": units, "long_name": long_name, "grid_mapping": "spatial_ref"},
        )
        for name, (units, long_name) in {**OF_SECTORS, **OF_PLACES}.items()
        if name in layers
    }
    return xr.Dataset(
        variables,
        coords={
            "sector": ("sector", sector_ids, {"units": "1", "long_name": "sector_id"}),
            **grid_coordinates(city.crs_code, window),
        },
        attrs={
            "Conventions": "CF-1.11",
            "title": "layers derived from the radio maps of all sectors",
            "crs": city.crs_code,
            "cell_m": window.cell_m,
            "frequency_hz": radio.frequency_hz,
            "load": radio.load,
            "noise_dbm": noise_per_resource_element_dbm(radio.numerology, radio.noise_figure_db),
            "numerology": radio.numerology,
            "resource_blocks": radio.resource_blocks,
            "timing_advance_step_m": timing_advance_step_m(radio.numerology),
            "seed": city.seed,
            "attribution": "(c) OpenStreetMap contributors, ODbL 1.0",
        },
    )
