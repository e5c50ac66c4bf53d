"""What the exact paths from all sites in range say at the places of reports.

A site is in range of the grid cells that its radio maps cover, so the same sectors can be heard
as on maps. Places that several reports share (terminals that stand) are traced once.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.errors import ReportError
from ueloc_core.geodata.terrain import load_terrain
from ueloc_core.measurement.beam_gains import SectorPose
from ueloc_core.measurement.mobility import Tracks
from ueloc_core.measurement.path_levels import (
    Tones,
    beam_offsets_of_paths_db,
    coherent_gain,
    interaction_phases,
    movement_m,
    movement_phases,
)
from ueloc_core.measurement.scenarios import reported, scenario_code
from ueloc_core.measurement.shadowing import ShadowingField
from ueloc_core.radio.antennas import antenna_named
from ueloc_core.radio.ray_tracing import CellMap, Interactions, RayScene, Sector
from ueloc_core.radio.ray_tracing.reference import PathTable, reference_paths
from ueloc_core.radio.sites import load_sectors
from ueloc_core.units import linear_to_db, power_per_resource_element_dbm

SAMPLES = 300_000
"""Rays that look for chains of interactions from each site (docs/path_traced.md)."""

STREAM = 11
"""Of the city's seed: all that is drawn for these reports."""

CHOICE, DRAWS, CHAINS, MOVEMENT = range(4)
"""Parts of the stream."""

Progress = Callable[[int, int, str], None]

_AT_A_TIME = 64  # positions: a solve takes little longer for them than for 16
_WORD = 2**32
_LAYERS = tuple(f.name for f in fields(CellMap) if f.name not in ("path_gain_se_db", "ray_hits"))


@dataclass(frozen=True)
class SiteWork:
    """Paths from one site to positions: a unit of work.

    Attributes
    ----------
    scene_file
        The scene's XML.
    frequency_hz
        Carrier frequency [Hz].
    interactions, mast_m, sectors, positions_m, seed
        As of `reference_paths`.
    """

    scene_file: Path
    frequency_hz: float
    interactions: Interactions
    mast_m: tuple[float, float, float]
    sectors: tuple[Sector, ...]
    positions_m: NDArray[np.float64]
    seed: int


def site_paths(work: Sequence[SiteWork]) -> Iterator[PathTable]:
    """Paths of units of work, in their order; neighbours in it share a loaded scene."""
    file, scene = None, None
    for unit in work:
        if scene is None or file != unit.scene_file:
            file, scene = unit.scene_file, RayScene(unit.scene_file, unit.frequency_hz)
        yield reference_paths(
            scene,
            unit.mast_m,
            unit.sectors,
            unit.positions_m,
            unit.interactions,
            samples=SAMPLES,
            seed=unit.seed,
            at_a_time=_AT_A_TIME,
        )


@dataclass(frozen=True)
class Propagation:
    """What arrives from S sectors at n reports; NaN where no path does.

    Attributes
    ----------
    sectors
        Sectors by ``sector_id``.
    reference_dbm
        Power that each sends in one resource element [dBm], shape (S,).
    level_dbm
        Coherent level, shape (n, S).
    shadow_db
        Shadowing, shape (n, S); NaN out of range.
    layers
        Layers of radio maps by their names, from the paths, and ``line_of_sight`` (1 or 0),
        shape (n, S) each; gains are sums of the paths' gains.
    beams_db
        Gain of each beam over its sector's own pattern [dB], shape (n, S, beam); no beam where
        no scenario reports them.
    """

    sectors: pd.DataFrame
    reference_dbm: NDArray[np.float64]
    level_dbm: NDArray[np.float32]
    shadow_db: NDArray[np.float32]
    layers: Mapping[str, NDArray[np.float32]]
    beams_db: NDArray[np.float32]


def propagation(
    city: City,
    tracks: Tracks,
    scenes: Mapping[str, Path],
    sites: Mapping[str, Path],
    progress: Progress | None = None,
) -> Propagation:
    """Paths from all sectors in range to the reports of tracks, and what they add up to.

    Parameters
    ----------
    city
        The city.
    tracks
        Where and when the reports are sent, outdoors.
    scenes, sites
        Folders of the world's scenes and sites by tile.
    progress
        Called with (sites done, sites, message).

    Raises
    ------
    ReportError
        If no sector stands in the city.
    """
    tables = [load_sectors(sites[name]) for name in sorted(sites)]
    sectors = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    if not len(sectors):
        raise ReportError("no sector stands in this city", where=f"{city.name}: world_sites")
    sectors = sectors.sort_values("sector_id", ignore_index=True)
    sums = _Sums(city, tracks, sectors)
    # tile by tile, so that each scene is loaded once
    groups = [rows for _, rows in sectors.groupby(["tile", "site_id"], sort=True)]
    reached = [(rows, near) for rows in groups if len(near := sums.places_near(rows))]
    work = [
        _work(city, scenes[rows.tile.iloc[0]], rows, sums.place_m[near]) for rows, near in reached
    ]
    for done, ((rows, near), paths) in enumerate(zip(reached, site_paths(work), strict=True)):
        sums.add(rows, near, paths)
        if progress is not None:
            site_id = int(rows.site_id.iloc[0])
            progress(done + 1, len(work), f"{city.name}: paths from site {site_id}")
    return sums.result()


def _work(
    city: City, scene_folder: Path, of_site: pd.DataFrame, place_m: NDArray[np.float64]
) -> SiteWork:
    """The paths from one site to places [m], at the terminals' height above ground."""
    scene = json.loads((scene_folder / "scene.json").read_text(encoding="utf-8"))
    origin_m = np.array(scene["origin_m"], dtype=float)
    ground_m = load_terrain(scene_folder).height_at(*place_m.T)
    height_m = ground_m + city.ray_tracing.terminal_height_m
    rows: list[Any] = list(of_site.itertuples())
    mast_m = np.array([rows[0].x_m, rows[0].y_m, rows[0].elevation_m]) - origin_m
    config = city.ray_tracing
    return SiteWork(
        scene_file=scene_folder / "scene.xml",
        frequency_hz=city.radio.frequency_hz,
        interactions=Interactions(
            max_depth=config.max_depth,
            diffraction=True,
            refraction=config.refraction,
            scattering=config.scattering,
        ),
        mast_m=(float(mast_m[0]), float(mast_m[1]), float(mast_m[2])),
        sectors=tuple(
            Sector(
                antenna_named(row.antenna),
                float(row.azimuth_deg),
                float(row.downtilt_deg),
                float(row.electrical_tilt_deg),
            )
            for row in rows
        ),
        positions_m=np.column_stack([place_m, height_m]) - origin_m,
        seed=city.seed,
    )


class _Sums:
    """Fills in a `Propagation`, site by site.

    Parameters
    ----------
    city, tracks, sectors
        The city, its reports and its sectors by ``sector_id``.
    """

    def __init__(self, city: City, tracks: Tracks, sectors: pd.DataFrame) -> None:
        self.city, self.tracks, self.sectors = city, tracks, sectors
        where_m = np.column_stack([tracks.x_m, tracks.y_m])
        self.place_m, self._place = np.unique(where_m, axis=0, return_inverse=True)
        self._settings = city.measurements
        self._tones = Tones.of_ss_block(city.radio, self._settings.fading)
        self._field = ShadowingField(city.seed, self._settings.shadowing, city.grid.cell_m)
        shape = len(where_m), len(sectors)
        asked = reported("beams")[[scenario_code(name) for name in self._settings.scenarios]]
        beams = self._settings.beams.count if asked.any() else 0
        power_dbm = sectors.power_dbm.to_numpy(dtype=float)
        self._reference_dbm = np.asarray(
            power_per_resource_element_dbm(power_dbm, city.radio.resource_blocks)
        )
        self._level_dbm, self._shadow_db = np.full((2, *shape), np.nan, dtype=np.float32)
        self._layers = {
            name: np.full(shape, np.nan, dtype=np.float32) for name in (*_LAYERS, "line_of_sight")
        }
        self._beams_db = np.full((*shape, beams), np.nan, dtype=np.float32)

    def places_near(self, of_site: pd.DataFrame) -> NDArray[np.int64]:
        """Places that the maps of a site would hold."""
        return np.flatnonzero(self._window(of_site).contains(*self.place_m.T))

    def add(self, of_site: pd.DataFrame, near: NDArray[np.int64], paths: PathTable) -> None:
        """Take in the paths from a site to the places near it."""
        column = of_site.index.to_numpy()  # the sectors' positions
        there = np.full(len(self.place_m), -1)
        there[near] = np.arange(len(near))
        report = np.flatnonzero(there[self._place] >= 0)
        at = there[self._place[report]]
        summary = paths.summary()
        cells = np.ix_(report, column)
        for name in _LAYERS:
            of_sectors = [getattr(sector, name)[at] for sector in summary.sectors]
            self._layers[name][cells] = np.stack(of_sectors, axis=1)
        known = np.isfinite(self._layers["path_gain_db"][cells])
        seen = summary.line_of_sight[at][:, None]
        self._layers["line_of_sight"][cells] = np.where(known, seen, np.nan)
        gain_db = np.asarray(linear_to_db(self._coherent(of_site, near, paths, report, at)))
        level_dbm = gain_db + self._reference_dbm[column]
        self._level_dbm[cells] = np.where(known, level_dbm, np.nan)
        self._shadow_db[cells] = self._shadow(of_site)[self._cell(of_site, report)][:, None]
        if self._beams_db.shape[2]:
            for k, s in enumerate(column):
                self._beams_db[report, s] = self._beams(s, paths, paths.gain[k])[at]

    def result(self) -> Propagation:
        """What was taken in."""
        return Propagation(
            self.sectors,
            self._reference_dbm,
            self._level_dbm,
            self._shadow_db,
            self._layers,
            self._beams_db,
        )

    def _window(self, of_site: pd.DataFrame) -> Any:
        return self.city.trace_window(float(of_site.x_m.iloc[0]), float(of_site.y_m.iloc[0]))

    def _cell(self, of_site: pd.DataFrame, report: NDArray[np.int64]) -> Any:
        return self._window(of_site).indices(self.tracks.x_m[report], self.tracks.y_m[report])

    def _shadow(self, of_site: pd.DataFrame) -> NDArray[np.float32]:
        """Shadowing of a site over its window [dB]: the field that map-drawn reports read."""
        site_id = int(of_site.site_id.iloc[0])
        (shadow,) = self._field.site_shadowing_db(self._window(of_site), [site_id])
        return np.asarray(shadow)

    def _coherent(
        self,
        of_site: pd.DataFrame,
        near: NDArray[np.int64],
        paths: PathTable,
        report: NDArray[np.int64],
        at: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Coherent gain of each sector of a site at reports, shape (report, sector)."""
        bounds = np.searchsorted(paths.position, np.arange(len(near) + 1))
        site_id, seed = int(of_site.site_id.iloc[0]), (self.city.seed, STREAM)
        out = np.zeros((len(report), len(of_site)))
        for k, (r, place) in enumerate(zip(report, at, strict=True)):
            own = slice(bounds[place], bounds[place + 1])
            # keyed by the place, so that reports from one place see one channel
            centimetres = np.rint(100 * self.place_m[near[place]]).astype(np.int64) % _WORD
            chains = np.random.default_rng([*seed, CHAINS, site_id, *centimetres.tolist()])
            phase = interaction_phases(paths.line_of_sight[own], chains)
            phase = phase + movement_phases(
                paths.arrival[own], self._moved_m[r], self._tones.carrier_hz
            )
            out[k] = coherent_gain(paths.gain[:, own], paths.delay_ns[own], phase, self._tones)
        return out

    @cached_property
    def _moved_m(self) -> NDArray[np.float64]:
        """Where the terminal is for each sample of a report [m], shape (report, sample, 3)."""
        samples = self._settings.fading.averaged_samples
        seed = (self.city.seed, STREAM, MOVEMENT)
        moved = np.zeros((len(self.tracks.track), samples, 3))
        microseconds = np.rint(1e6 * self.tracks.time_s).astype(np.int64)
        for r, (track, time_us) in enumerate(zip(self.tracks.track, microseconds, strict=True)):
            own = np.random.default_rng([*seed, int(track), int(time_us)])
            moved[r] = movement_m(samples, self._tones.carrier_hz, own)
        return moved

    def _beams(self, s: int, paths: PathTable, gain: NDArray[Any]) -> NDArray[np.float64]:
        row = self.sectors.iloc[s]
        pose = SectorPose(
            str(row.antenna),
            float(row.azimuth_deg),
            float(row.downtilt_deg),
            float(row.electrical_tilt_deg),
        )
        return beam_offsets_of_paths_db(
            self._settings.beams, pose, gain, paths.departure, paths.position, paths.positions
        )
