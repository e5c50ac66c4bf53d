"""Drawing reports: the sampling half of the measurement model, in numpy.

Means and scatter come from the same functions as the likelihood's (`accuracy`, `quality`,
`reports`); a terminal at a place is described by what it could hear there (`Surroundings`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.city_sections import RadioConfig
from ueloc_core.measurement import scenarios
from ueloc_core.measurement.accuracy import direction_sigma_deg, uplink_sinr_db
from ueloc_core.measurement.levels import NOWHERE_DBM, MapError
from ueloc_core.measurement.quality import BLOCKS, RANK_THRESHOLDS_DB, QualityLikelihood
from ueloc_core.measurement.reports import (
    CQI_LAST,
    INT16_MISSING,
    L1_RSRP,
    L1_RSRP_DROP,
    MISSING,
    SS_RSRP,
    SS_RSRQ,
    SS_SINR,
    TIMING_ADVANCE_OFFSET,
    UL_AOA,
    UL_SINR,
    ul_aoa_of_compass_deg,
)
from ueloc_core.measurement.schemas import BEAMS, SLOTS
from ueloc_core.measurement.settings import MeasurementConfig
from ueloc_core.measurement.timing import TimingLikelihood
from ueloc_core.radio.link import cqi_thresholds_db, rsrq_db, timing_advance

Floats = NDArray[np.floating[Any]]
Codes = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Serving:
    """What a serving sector's maps say at the places of n reports.

    Attributes
    ----------
    first_arrival_ns, line_of_sight, azimuth_deg, spread_deg
        Shape (n,): delay of the first path [ns], share in sight, mean compass azimuth and RMS
        spread of departure [deg].
    beam_offset_db
        Gain of each beam over the sector's pattern [dB], shape (n, beam).
    reference_dbm
        Power that the sector sends in one resource element [dBm], shape (n,).
    """

    first_arrival_ns: Floats
    line_of_sight: Floats
    azimuth_deg: Floats
    spread_deg: Floats
    beam_offset_db: Floats
    reference_dbm: Floats


@dataclass(frozen=True)
class Surroundings:
    """What n terminals could hear where they are; k candidates each, in any order.

    Attributes
    ----------
    sector
        Position of each candidate in the atlas, shape (n, k), -1 for none.
    mean_dbm
        Mean level [dBm] with everything that lasts: map, its error, shadowing, the terminal's
        gain offset; NaN where no path arrives; shape (n, k).
    mapped_mw
        Mapped level [mW], shape (n, k).
    noise_db
        Standard deviation of fading and accuracy [dB], shape (n, k).
    others_mw
        Sum of the mapped levels of all sectors that are no candidates [mW], shape (n,).
    serving
        Maps of the sectors that turn out to serve: called with (rows, sectors).
    """

    sector: NDArray[np.integer[Any]]
    mean_dbm: Floats
    mapped_mw: Floats
    noise_db: Floats
    others_mw: Floats
    serving: Callable[[NDArray[np.int64], NDArray[np.int64]], Serving]

    def __len__(self) -> int:
        return len(self.sector)


@dataclass(frozen=True)
class Terminals:
    """What n reports know of their terminals.

    Attributes
    ----------
    scenario
        Index into `scenarios.SCENARIOS`, -1 for all features, shape (n,).
    clock_ns
        One-way offset of the terminal's clock [ns], shape (n,).
    served_by
        Sector that served the report before, -1 for none, shape (n,).
    """

    scenario: NDArray[np.integer[Any]]
    clock_ns: Floats
    served_by: NDArray[np.integer[Any]]

    @classmethod
    def unrelated(cls, count: int, clock_ns: Floats | float = 0.0) -> "Terminals":
        """Terminals that report everything and have no history."""
        none = np.full(count, -1)
        return cls(none, np.broadcast_to(np.asarray(clock_ns, dtype=float), count), none)


class Simulator:
    """Draws reports.

    Parameters
    ----------
    settings, radio
        As in the city file.
    """

    def __init__(self, settings: MeasurementConfig, radio: RadioConfig) -> None:
        self.settings, self.radio = settings, radio
        self.quality = QualityLikelihood(settings.quality, radio, 0.0)
        self.threshold_code = int(SS_RSRP.encode(settings.detection_threshold_dbm))
        self.timing = TimingLikelihood(settings, radio, MapError.none())

    @cached_property
    def _reported(self) -> dict[str, NDArray[np.bool_]]:
        """Whether a scenario reports each feature; the last entry is scenario -1: everything."""
        return {name: np.append(scenarios.reported(name), True) for name in scenarios.FEATURES}

    def sample(self, around: Surroundings, terminals: Terminals, rng: np.random.Generator) -> Codes:
        """Draw one report of each of n terminals.

        Parameters
        ----------
        around
            What they could hear.
        terminals
            Scenario, clock and history.
        rng
            Source of all draws.

        Returns
        -------
        dict
            The fields of `ueloc_core.measurement.batch.ReportBatch` as arrays; a report that
            hears no sector has an empty slot 0.
        """
        report, chosen = self._levels(around, terminals, rng)
        sinr_db = self._quality(around, report, chosen, terminals, rng)
        self._rates(report, sinr_db, terminals, rng)
        heard = np.flatnonzero(report["sector"][:, 0] >= 0)
        maps = around.serving(heard, report["sector"][heard, 0])
        self._uplink(report, heard, maps, terminals, rng)
        self._beams(report, heard, maps, terminals, rng)
        return report

    # -- levels ---------------------------------------------------------------------------

    def _levels(
        self, around: Surroundings, terminals: Terminals, rng: np.random.Generator
    ) -> tuple[Codes, NDArray[np.int64]]:
        """Sectors and SS-RSRP codes by slot, and each slot's candidate."""
        config, (count, k) = self.settings, around.sector.shape
        noise = rng.standard_normal((count, k), dtype=np.float32)
        level = around.mean_dbm + around.noise_db * noise
        code = (np.nan_to_num(level, nan=NOWHERE_DBM) - (SS_RSRP.low - SS_RSRP.step)) / SS_RSRP.step
        code = np.clip(np.floor(code), 0, SS_RSRP.last).astype(np.int16)
        detected = (code >= self.threshold_code) & (around.sector >= 0)
        ranked = np.where(detected, code, -1).astype(np.float32)
        serving, selected = self._serve(around, ranked, terminals)
        rows = np.arange(count)
        own = code[rows, serving]
        kept = rng.random((count, k), dtype=np.float32) >= config.dropout_probability
        kept &= code >= (own - int(config.neighbour_offset_db))[:, None]
        kept[rows, serving] = True
        ranked[~kept] = -1
        # equal codes are cut at random; codes are whole numbers
        ranked += 0.5 * rng.random((count, k), dtype=np.float32)
        ranked[rows, serving] += 1e3 * (ranked[rows, serving] >= 0)
        most = np.append(scenarios.max_neighbours(), config.max_neighbours)
        most = np.minimum(most, config.max_neighbours)[terminals.scenario]
        wide = min(SLOTS, k)
        slots = (
            np.argpartition(-ranked, wide - 1, axis=1)[:, :wide]
            if wide < k
            else (np.broadcast_to(np.arange(k), (count, k)))
        )
        order = np.argsort(-np.take_along_axis(ranked, slots, axis=1), axis=1)
        slots = np.take_along_axis(slots, order, axis=1)
        filled = np.take_along_axis(ranked, slots, axis=1) >= 0
        filled &= np.arange(wide) <= most[:, None]
        sector = np.where(filled, np.take_along_axis(around.sector, slots, axis=1), -1)
        rsrp = np.where(filled, np.take_along_axis(code, slots, axis=1), MISSING)
        spare = ((0, 0), (0, SLOTS - wide))
        report: Codes = {
            "sector": np.pad(sector, spare, constant_values=-1).astype(np.int64),
            "rsrp": np.pad(rsrp, spare, constant_values=MISSING).astype(np.int16),
            "selected": np.where(filled[:, 0], selected, 0).astype(np.int8),
            "scenario": np.asarray(terminals.scenario, dtype=np.int8),
        }
        return report, slots

    def _serve(
        self, around: Surroundings, ranked: Floats, terminals: Terminals
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Candidate that serves, and whether it was chosen afresh.

        The sector that served before stays unless a detected one is better by the handover
        offset; then, and at first, the strongest serves.
        """
        rows = np.arange(len(ranked))
        best = ranked.argmax(axis=1)
        before = terminals.served_by
        same = (around.sector == np.asarray(before)[:, None]) & (around.sector >= 0)
        at = same.argmax(axis=1)
        stays = same.any(axis=1) & (ranked[rows, at] >= 0)
        # equal to the offset is not better by it: the likelihood's edge lies above that code
        stays &= ranked[rows, best] <= ranked[rows, at] + int(self.settings.handover_offset_db)
        return np.where(stays, at, best), ~stays

    # -- quality --------------------------------------------------------------------------

    def _quality(
        self,
        around: Surroundings,
        report: Codes,
        slots: NDArray[np.int64],
        terminals: Terminals,
        rng: np.random.Generator,
    ) -> Floats:
        """Add SS-RSRQ, SS-SINR, CQI and RI; returns the serving sector's SINR [dB]."""
        quality, settings = self.quality, self.settings.quality
        count, heard = len(around), report["sector"] >= 0
        level = SS_RSRP.lower_edge(report["rsrp"] + 0.5).astype(np.float32)
        level_mw = np.where(heard, 10 ** (level / 10), 0.0)
        silent = around.mapped_mw.sum(axis=1) + around.others_mw
        listed = np.take_along_axis(around.mapped_mw, slots, axis=1)
        silent = silent - np.where(heard[:, : slots.shape[1]], listed, 0.0).sum(axis=1)
        whole = (level_mw.sum(axis=1) + np.maximum(silent, 0.0))[:, None]
        deviation = settings.interference_sigma_db * rng.standard_normal((count, 1))
        load = quality.loads(deviation)
        others = np.maximum(whole - level_mw, 0.0)
        sinr_db = level - quality.received_dbm(others, load)
        ratio_db = rsrq_db(level, quality.received_dbm(whole, load))

        def scattered(value: Floats, sigma: float) -> Floats:
            return value + sigma * rng.standard_normal(value.shape, dtype=np.float32)

        rsrq = SS_RSRQ.encode(scattered(ratio_db, settings.sigma_db))
        sinr = SS_SINR.encode(scattered(sinr_db, settings.sigma_db))
        report["rsrq"] = self._kept("rsrq", rsrq, terminals, rng, heard)
        report["sinr"] = self._kept("sinr", sinr, terminals, rng, heard)
        serving = sinr_db[:, 0]
        cqi = np.searchsorted(cqi_thresholds_db(), scattered(serving, settings.sigma_db), "right")
        ri = np.searchsorted(RANK_THRESHOLDS_DB, scattered(serving, settings.rank_sigma_db)) + 1
        served = heard[:, 0]
        report["cqi"] = self._kept("cqi", np.minimum(cqi, CQI_LAST), terminals, rng, served)
        report["ri"] = self._kept("ri", ri, terminals, rng, served)
        return np.asarray(serving)

    def _rates(
        self, report: Codes, sinr_db: Floats, terminals: Terminals, rng: np.random.Generator
    ) -> None:
        """Add throughput and BLER."""
        laws, served = self.quality.rates, report["sector"][:, 0] >= 0
        sinr_db = np.where(served, sinr_db, 0.0)
        deviation = self.settings.quality.throughput_sigma * rng.standard_normal(len(sinr_db))
        kbps = np.floor(laws.median_kbps(sinr_db) * np.exp(deviation)).clip(0, 2**31 - 1)
        lost = rng.binomial(BLOCKS, laws.lost_share(sinr_db))
        report["throughput"] = self._kept("throughput", kbps, terminals, rng, served)
        report["bler"] = self._kept("bler", lost, terminals, rng, served)

    # -- the serving sector's uplink and beams --------------------------------------------

    def _uplink(
        self,
        report: Codes,
        heard: NDArray[np.int64],
        maps: Serving,
        terminals: Terminals,
        rng: np.random.Generator,
    ) -> None:
        """Add UL SINR, timing advance and its offset, and the angle of arrival."""
        config, count = self.settings, len(heard)
        level = SS_RSRP.lower_edge(report["rsrp"][heard, 0] + 0.5)
        mean_db = uplink_sinr_db(
            level, maps.reference_dbm, config.terminal.power_dbm, self.radio.numerology
        )
        measured = mean_db + config.quality.uplink_sigma_db * rng.standard_normal(count)
        late = rng.random(count) < self.timing.late_share(np.nan_to_num(maps.line_of_sight))
        excess = late * rng.exponential(config.timing.late_mean_ns, count)
        delay = maps.first_arrival_ns + terminals.clock_ns[heard] + excess
        coarse, fine = self.timing.sigmas_ns(mean_db)
        trip = 2 * delay + coarse * rng.standard_normal(count)
        ta = timing_advance(trip / 2, self.radio.numerology)
        offset = 2 * delay + fine * rng.standard_normal(count) - ta * self.timing.step_ns
        sigma = direction_sigma_deg(mean_db, maps.spread_deg, config.direction)
        angle = ul_aoa_of_compass_deg(maps.azimuth_deg + sigma * rng.standard_normal(count))
        wrong = rng.random(count) < config.direction.outlier_share
        angle = np.where(wrong, rng.uniform(0, 360, count), angle)
        self._put(report, "ul_sinr", heard, UL_SINR.encode(measured), terminals, rng)
        self._put(report, "ta", heard, ta, terminals, rng)
        offset_code = TIMING_ADVANCE_OFFSET.encode(offset)
        self._put(report, "ta_offset", heard, offset_code, terminals, rng)
        self._put(report, "aoa", heard, UL_AOA.encode(angle), terminals, rng)

    def _beams(
        self,
        report: Codes,
        heard: NDArray[np.int64],
        maps: Serving,
        terminals: Terminals,
        rng: np.random.Generator,
    ) -> None:
        """Add the strongest beams of the serving sector, by code, equal codes by index."""
        config, count = self.settings.beams, len(report["sector"])
        report["beam"] = np.full((count, BEAMS), MISSING, dtype=np.int16)
        report["beam_level"] = np.full((count, BEAMS), MISSING, dtype=np.int16)
        asked = self._reported["beams"][terminals.scenario[heard]]
        asked &= rng.random(len(heard)) >= self.settings.dropout_probability
        asked &= ~np.isnan(maps.beam_offset_db).any(axis=1)
        rows = heard[asked]
        if not len(rows) or not maps.beam_offset_db.shape[1]:
            return
        own = SS_RSRP.lower_edge(report["rsrp"][rows, 0] + 0.5)
        offset = maps.beam_offset_db[asked]
        level = own[:, None] + offset + config.sigma_db * rng.standard_normal(offset.shape)
        absolute = L1_RSRP.encode(level)
        strongest = absolute.argmax(axis=1)  # of equal codes the first index
        first = np.take_along_axis(absolute, strongest[:, None], axis=1)
        step = L1_RSRP_DROP.encode(np.maximum(L1_RSRP.decode(first) - level, 0.0))
        np.put_along_axis(step, strongest[:, None], -1, axis=1)
        order = np.argsort(step, axis=1, kind="stable")[:, : config.reported]
        codes = np.take_along_axis(step, order, axis=1)
        codes[:, :1] = first
        report["beam"][rows, : order.shape[1]] = order
        report["beam_level"][rows, : order.shape[1]] = codes

    # -- what is not reported -------------------------------------------------------------

    def _kept(
        self,
        feature: str,
        codes: NDArray[Any],
        terminals: Terminals,
        rng: np.random.Generator,
        there: NDArray[np.bool_],
    ) -> NDArray[Any]:
        """Codes less those that the scenario lacks, nobody measured, or were lost."""
        asked = self._reported[feature][terminals.scenario]
        asked = asked.reshape(-1, *([1] * (codes.ndim - 1)))
        lost = rng.random(codes.shape, dtype=np.float32) < self.settings.dropout_probability
        return np.where(asked & there & ~lost, codes, MISSING).astype(
            np.int32 if feature == "throughput" else np.int16
        )

    def _put(
        self,
        report: Codes,
        feature: str,
        heard: NDArray[np.int64],
        codes: NDArray[Any],
        terminals: Terminals,
        rng: np.random.Generator,
    ) -> None:
        missing = INT16_MISSING if feature in ("ul_sinr", "ta_offset") else MISSING
        values = np.full(len(report["sector"]), missing, dtype=np.int16)
        asked = self._reported[feature][terminals.scenario[heard]]
        lost = rng.random(len(heard)) < self.settings.dropout_probability
        values[heard] = np.where(asked & ~lost, codes, missing)
        report[feature] = values
