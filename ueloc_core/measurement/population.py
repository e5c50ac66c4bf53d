"""The reports of a population of terminals: true tracks in, reports out.

What lasts over a track is drawn once: the terminal's gain offset, its clock and its scenario.
The shadowing is a field over the ground, so reports from one place share it, and near ones
nearly so. Reports follow each other in time, because the serving sector of one bears on the next.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from ueloc_core.measurement.audible import AudibleSectors
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.dataset import Truth
from ueloc_core.measurement.mobility import Tracks
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.scenarios import scenario_code
from ueloc_core.measurement.schemas import SLOTS
from ueloc_core.measurement.shadowing import ShadowingField
from ueloc_core.measurement.simulate import Serving, Surroundings, Terminals
from ueloc_core.units import wavelength_m

RT_LAYERS = {
    "rt_path_gain_db": "path_gain_db",
    "rt_first_arrival_ns": "first_arrival_ns",
    "rt_mean_delay_ns": "mean_delay_ns",
    "rt_delay_spread_ns": "delay_spread_ns",
    "rt_departure_azimuth_deg": "departure_azimuth_deg",
    "rt_departure_zenith_deg": "departure_zenith_deg",
    "rt_departure_spread_deg": "departure_spread_deg",
    "rt_arrival_azimuth_deg": "arrival_azimuth_deg",
    "rt_arrival_zenith_deg": "arrival_zenith_deg",
    "rt_arrival_spread_deg": "arrival_spread_deg",
    "rt_line_of_sight": "line_of_sight",
}
"""Ray-tracing layer of a report, and the map layer that it is read from."""

_BATCH = 16_384
# Building entry loss of TR 38.901 V17.0.0, 7.4.3: low-loss model, table 7.4.3-1 and -2.
_ENTRY_SIGMA_DB = 4.4
_PER_METRE_DB = 0.5


@dataclass(frozen=True)
class Lasting:
    """What lasts over the track of each of n terminals.

    Attributes
    ----------
    gain_db
        Offset of all levels [dB].
    clock_ns
        One-way offset of the clock [ns].
    scenario
        Index into `ueloc_core.measurement.scenarios.SCENARIOS`.
    """

    gain_db: NDArray[np.float32]
    clock_ns: NDArray[np.float64]
    scenario: NDArray[np.int64]

    @classmethod
    def draw(cls, model: MeasurementModel, count: int, rng: np.random.Generator) -> "Lasting":
        """Draw it for n terminals."""
        config = model.settings
        names = sorted(config.scenarios)
        share = np.array([config.scenarios[name] for name in names])
        codes = np.array([scenario_code(name) for name in names])
        return cls(
            gain_db=config.terminal.gain_sigma_db * rng.standard_normal(count, dtype=np.float32),
            clock_ns=config.terminal.clock_sigma_ns * rng.standard_normal(count),
            scenario=codes[rng.choice(len(names), size=count, p=share / share.sum())],
        )


class Population:
    """Draws the reports of tracks.

    Parameters
    ----------
    model
        The measurement model of the world.
    places
        The world's maps.
    audible
        The sectors that can be heard where terminals may be.
    seed
        Of the shadowing, one for the whole city.
    """

    def __init__(
        self, model: MeasurementModel, places: PlaceMaps, audible: AudibleSectors, seed: int
    ) -> None:
        self.model, self.places, self.audible = model, places, audible
        atlas = places.atlas
        ids = np.unique(atlas.sectors.site_id.to_numpy())
        field = ShadowingField(seed, model.settings.shadowing, atlas.ground.cell_m)
        # only where a terminal can be; by grid cell, so that a report reads one row
        shadow = field.site_shadowing_db(audible.window, ids.tolist())
        self.shadow_db = np.ascontiguousarray(shadow[:, audible.cell >= 0].T)
        self._site = np.append(atlas.site, 0)

    def sample(
        self,
        tracks: Tracks,
        rng: np.random.Generator,
        own: NDArray[np.int64] | None = None,
    ) -> tuple[ReportBatch, Truth]:
        """Reports of tracks, by track and time, those that hear a sector.

        Parameters
        ----------
        tracks
            Where the terminals are and when.
        rng
            Source of all draws.
        own
            Positions of the sectors whose terminals are wanted: tracks whose first report
            another one serves are left out. All by default.
        """
        count = int(tracks.track.max()) + 1 if len(tracks.track) else 0
        lasting = Lasting.draw(self.model, count, rng)
        row, entry_db = self._places_of(tracks, rng)
        first = np.r_[True, tracks.track[1:] != tracks.track[:-1]][: len(row)]
        turn = np.arange(len(row)) - np.maximum.accumulate(np.where(first, np.arange(len(row)), 0))
        serving = np.full(count, -1, dtype=np.int64)
        wanted = np.ones(count, dtype=bool)
        batches, kept = [], []
        for k in range(int(turn.max()) + 1 if len(turn) else 0):
            reports = np.flatnonzero((turn == k) & (row >= 0) & wanted[tracks.track])
            for start in range(0, len(reports), _BATCH):
                part = reports[start : start + _BATCH]
                at = (row[part], entry_db[part])
                batch = self._reports(tracks, part, at, lasting, serving, rng)
                found = batch.sector[:, 0].numpy()
                serving[tracks.track[part]] = found
                if k == 0 and own is not None:
                    wanted[tracks.track[part]] = np.isin(found, own)
                use = (found >= 0) & wanted[tracks.track[part]]
                batches.append(batch[np.flatnonzero(use)])
                kept.append(part[use])
            if k == 0:
                unheard = np.ones(count, dtype=bool)
                unheard[tracks.track[reports]] = serving[tracks.track[reports]] < 0
                wanted &= ~unheard
        if not batches:
            return empty_batch(), truth_of(tracks, np.zeros(0, dtype=np.int64), {})
        index = np.concatenate(kept)
        order = np.argsort(index, kind="stable")
        batch, index = ReportBatch.cat(batches)[order], index[order]
        return batch, truth_of(tracks, index, self.ray_tracing_layer(batch, tracks, index))

    def surroundings(
        self,
        row: NDArray[np.int64],
        x_m: NDArray[np.float64],
        y_m: NDArray[np.float64],
        gain_db: NDArray[np.floating[Any]],
    ) -> Surroundings:
        """What terminals could hear.

        Parameters
        ----------
        row
            Their grid cells' rows in `AudibleSectors`, shape (n,).
        x_m, y_m
            Where they are [m].
        gain_db
            Offset of all their levels [dB].
        """
        heard = self.audible
        sector = heard.sector[row]
        shadow = self.shadow_db[row[:, None], self._site[sector]]
        return Surroundings(
            sector=sector,
            mean_dbm=heard.level_dbm[row] + shadow + np.asarray(gain_db, dtype=np.float32)[:, None],
            mapped_mw=heard.level_mw[row],
            noise_db=heard.noise_db[row],
            others_mw=heard.others_mw[row],
            serving=lambda rows, sectors: self._serving(sectors, x_m[rows], y_m[rows]),
        )

    def _serving(
        self, sectors: NDArray[np.int64], x_m: NDArray[np.float64], y_m: NDArray[np.float64]
    ) -> Serving:
        values, beams = self.places.serving_arrays(sectors, x_m, y_m)
        return Serving(
            first_arrival_ns=values["first_arrival_ns"],
            line_of_sight=values["line_of_sight"],
            azimuth_deg=values["departure_azimuth_deg"],
            spread_deg=values["departure_spread_deg"],
            beam_offset_db=beams,
            reference_dbm=self.places.reference_dbm[sectors],
        )

    def _reports(
        self,
        tracks: Tracks,
        part: NDArray[np.int64],
        at: tuple[NDArray[np.int64], NDArray[np.float64]],
        lasting: Lasting,
        serving: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> ReportBatch:
        (row, entry_db), track = at, tracks.track[part]
        gain = np.asarray(lasting.gain_db[track] - entry_db)
        around = self.surroundings(row, tracks.x_m[part], tracks.y_m[part], gain)
        terminals = Terminals(lasting.scenario[track], lasting.clock_ns[track], serving[track])
        return self.model.sample(around, rng, terminals)

    def _places_of(
        self, tracks: Tracks, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Row in `AudibleSectors` of each report, and its building entry loss [dB].

        A terminal indoors hears what the nearest outdoor grid cell does, less the entry loss of
        TR 38.901, which is one for its track.
        """
        x_m, y_m = tracks.x_m.copy(), tracks.y_m.copy()
        loss = np.zeros(len(x_m))
        inside = np.flatnonzero(tracks.indoor == 1)
        if len(inside):
            window = self.audible.window
            depth, nearest = distance_transform_edt(
                self.audible.cell < 0, sampling=window.cell_m, return_indices=True
            )
            at = window.indices(x_m[inside], y_m[inside])
            x_m[inside] = window.x_centres_m[nearest[1][at]]
            y_m[inside] = window.y_centres_m[nearest[0][at]]
            of_track = _ENTRY_SIGMA_DB * rng.standard_normal(int(tracks.track.max()) + 1)
            loss[inside] = (
                entry_loss_db(self.model.radio.frequency_ghz)
                + _PER_METRE_DB * depth[at]
                + of_track[tracks.track[inside]]
            )
        return self.audible.rows_at(x_m, y_m), loss

    def ray_tracing_layer(
        self, batch: ReportBatch, tracks: Tracks, index: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float32]]:
        """Layers of the world's maps where the reports come from, shape (report, slot)."""
        atlas, sector = self.places.atlas, batch.sector.numpy()
        corner = np.array([(w.row, w.column) for w in atlas.windows])
        rows, columns = atlas.rsrp_dbm.shape[1:]
        row, column = atlas.ground.indices(tracks.x_m[index], tracks.y_m[index])
        row = (row + atlas.ground.row)[:, None] - corner[sector, 0]
        column = (column + atlas.ground.column)[:, None] - corner[sector, 1]
        inside = (sector >= 0) & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        place = ((sector * rows + row) * columns + column)[inside]
        values = {}
        for name, layer in RT_LAYERS.items():
            values[name] = np.full(sector.shape, np.nan, np.float32)
            values[name][inside] = atlas.layer(layer).reshape(-1)[place]
        towards = np.radians(
            values["rt_arrival_azimuth_deg"] - np.nan_to_num(tracks.heading_deg[index])[:, None]
        )
        rise = np.sin(np.radians(values["rt_arrival_zenith_deg"]))
        speed = tracks.speed_m_s[index][:, None] / wavelength_m(self.model.radio.frequency_hz)
        values["rt_doppler_hz"] = (speed * np.cos(towards) * rise).astype(np.float32)
        return values


def entry_loss_db(frequency_ghz: float) -> float:
    """Loss [dB] through the outer wall of a building (TR 38.901 V17.0.0, 7.4.3, low loss).

    >>> round(entry_loss_db(3.5), 1)
    12.7
    """
    glass, concrete = 2.0 + 0.2 * frequency_ghz, 5.0 + 4.0 * frequency_ghz
    through = 0.3 * 10 ** (-glass / 10) + 0.7 * 10 ** (-concrete / 10)
    return float(5.0 - 10.0 * np.log10(through))


def truth_of(tracks: Tracks, index: NDArray[np.int64], rt: dict[str, NDArray[np.float32]]) -> Truth:
    """The truth of some reports of tracks; times start at each track's first one."""
    track, time = tracks.track[index], tracks.time_s[index]
    if len(index):
        first = np.r_[True, track[1:] != track[:-1]]
        start = time[np.maximum.accumulate(np.where(first, np.arange(len(time)), 0))]
        time = time - start
    return Truth(
        track=track,
        time_s=time,
        x_m=tracks.x_m[index],
        y_m=tracks.y_m[index],
        speed_m_s=tracks.speed_m_s[index],
        heading_deg=tracks.heading_deg[index],
        mobility=tracks.mobility[index],
        indoor=tracks.indoor[index],
        rt=rt,
    )


def empty_batch() -> ReportBatch:
    """No report."""
    nothing = np.zeros((0, SLOTS), dtype=np.int64)
    return ReportBatch.of(nothing, nothing)
