"""Likelihood of which sectors a terminal reports and how strong, with the errors they share.

The received level of sector s of site i at a place is

    mapped level + map error of (s, place) + c + z_i + fading and accuracy,

- c: what all sectors share at a place: the terminal's gain offset, the shadowing that sites
  share, and the part of the map's error that does (Gaussian);
- z_i: the site's own shadowing and map error (Gaussian);
- map error of the sector: a narrow Gaussian core and a wide tail, none in the world's own maps;
- fading and accuracy: Gaussian, new in every report.

Levels are reported as SS-RSRP codes; a sector that is not reported was too weak or lost, and has
the probability of that. Given the shift c + z_i the sectors are independent. So the likelihood
is two nested sums over one uniform grid of shifts: the inner one, over z_i, is a convolution,
and the outer one runs over c. The step follows the accuracy of a level; half of it moves no
more than 0.005 of a posterior's mass (`tests/measurement/test_levels.py` holds it to that).

This module evaluates each place on its own (`LevelLikelihood.direct`); `level_tables` looks up
many places, and the reports of a track.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.bins import (
    SMALLEST_PROBABILITY,
    bin_probability,
    edges,
    normal_cdf,
)
from ueloc_core.measurement.reports import MISSING, SS_RSRP
from ueloc_core.measurement.scenarios import max_neighbours
from ueloc_core.measurement.settings import MeasurementConfig

NOWHERE_DBM = -400.0
ONE_HIT_DB = 4.34  # relative error of a mean of two of which one is nothing
_STEP_PER_SIGMA = 1.25  # of the grid of shifts, over the accuracy of a level
_REACH = 3.7  # standard deviations


@dataclass(frozen=True)
class MapError:
    """Error of a map, fitted on reports from known places (`map_error`); all zero in the world.

    The fields may be floats or tensors (while they are fitted).

    Attributes
    ----------
    core_db, core_per_se
        Core's standard deviation: ``hypot(core_db, core_per_se * standard error)`` [dB].
    tail_logit, tail_per_db, tail_per_10db
        Share of the tail: ``sigmoid(tail_logit + tail_per_db * (level's spread - 2 dB) +
        tail_per_10db * (-90 dBm - level) / 10)``, level and spread those that arrive.
    tail_db, tail_bias_db
        Standard deviation and mean of the tail [dB].
    unhit_dbm, unhit_db
        Mean level and standard deviation where no ray arrived [dBm, dB].
    common_db, site_db
        Standard deviation of the error that all sectors share at a place, and of that which the
        sectors of a site share [dB].
    total_db
        Standard deviation of the map error of the unreported sectors' power [dB].
    level_exponent
        Exponent of the levels' likelihood of a report, below one where errors go together in
        ways that the shared parts do not hold.
    delay_core_ns, delay_tail_share, delay_tail_ns
        Error of the first arrival: core's standard deviation, and share and standard deviation
        of a wide tail [ns].
    azimuth_core_deg, azimuth_tail_share
        Error of the departure azimuth: core's standard deviation [deg], and share of places
        where it tells nothing.
    beam_db
        Standard deviation of the error of beams' gains against their sector's [dB].
    """

    core_db: Any = 0.0
    core_per_se: Any = 0.0
    tail_logit: Any = -100.0
    tail_per_db: Any = 0.0
    tail_per_10db: Any = 0.0
    tail_db: Any = 1.0
    tail_bias_db: Any = 0.0
    unhit_dbm: Any = NOWHERE_DBM
    unhit_db: Any = 1.0
    common_db: Any = 0.0
    site_db: Any = 0.0
    total_db: Any = 0.0
    level_exponent: Any = 1.0
    delay_core_ns: Any = 0.0
    delay_tail_share: Any = 0.0
    delay_tail_ns: Any = 500.0
    azimuth_core_deg: Any = 0.0
    azimuth_tail_share: Any = 0.0
    beam_db: Any = 0.0

    @classmethod
    def none(cls) -> "MapError":
        """The world's own maps: no error, and no level where no ray arrived."""
        return cls()

    def as_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True)
class LevelMaps:
    """What maps say about the levels of all sectors at places; n is 1 where reports share places.

    Attributes
    ----------
    rsrp_dbm, se_db
        Mapped RSRP [dBm] and its standard error [dB], NaN where no ray arrived, shape
        (n, sector, place).
    noise_db
        Standard deviation of fading and accuracy [dB], shape (n, sector, place).
    site
        Index of each sector's site, counted from 0, shape (sector,).
    """

    rsrp_dbm: Tensor
    se_db: Tensor
    noise_db: Tensor
    site: Tensor

    def __len__(self) -> int:
        return int(self.rsrp_dbm.shape[0])

    def row(self, n: int) -> "LevelMaps":
        """Maps at the places of one report."""
        k = n if len(self) > 1 else 0
        return replace(self, **{name: getattr(self, name)[k : k + 1] for name in _PLACE_FIELDS})

    def places(self, chosen: Tensor) -> "LevelMaps":
        """Some of the places."""
        return replace(self, **{name: getattr(self, name)[..., chosen] for name in _PLACE_FIELDS})


_PLACE_FIELDS = ("rsrp_dbm", "se_db", "noise_db")


class LevelLikelihood:
    """Log-likelihood of the reported levels.

    Parameters
    ----------
    settings
        Thresholds, losses and the shared errors.
    map_error
        Error of the maps that will be given.
    step_db
        Step of the grid of shifts [dB]; by default as fine as the accuracy of levels asks for.
    """

    def __init__(
        self, settings: MeasurementConfig, map_error: MapError, step_db: float | None = None
    ) -> None:
        self.settings, self.map_error = settings, map_error
        finest = _STEP_PER_SIGMA * min(1.0, settings.terminal.level_sigma_db)
        self.step_db = finest if step_db is None else step_db
        self.threshold_code = int(SS_RSRP.encode(settings.detection_threshold_dbm))
        # the last entry is that of an unknown scenario, -1
        most = [min(int(n), settings.max_neighbours) for n in max_neighbours()]
        self._most_neighbours = torch.tensor([*most, settings.max_neighbours])
        shadow, gain = settings.shadowing, settings.terminal.gain_sigma_db
        self._gain_variance = gain**2
        self._common_variance = shadow.inter_site * shadow.sigma_db**2 + map_error.common_db**2
        self._site_variance = (1 - shadow.inter_site) * shadow.sigma_db**2 + map_error.site_db**2

    @property
    def shared_variances(self) -> tuple[float, float]:
        """Variances [dB2] of what all sectors share at a place, and of what a site's share."""
        return float(self._gain_variance + self._common_variance), float(self._site_variance)

    # -- one sector -----------------------------------------------------------------------

    def mean_and_spread(self, maps: LevelMaps) -> tuple[Tensor, Tensor, Tensor]:
        """Mean [dBm] and independent spread [dB] of levels, and whether a ray arrived."""
        error = self.map_error
        hit = ~maps.rsrp_dbm.isnan()
        se = torch.where(maps.se_db.isnan(), ONE_HIT_DB, maps.se_db)
        core = error.core_db**2 + (error.core_per_se * se) ** 2
        variance = maps.noise_db**2 + torch.where(hit, core, error.unhit_db**2)
        mean = torch.where(hit, maps.rsrp_dbm.nan_to_num(0.0), error.unhit_dbm)
        spread: Tensor = variance**0.5
        return mean, spread, hit

    def tail_share(self, mean_dbm: Tensor, spread_db: Tensor) -> Tensor:
        """Share of the tail of the map's error, at the level and spread that arrive."""
        error = self.map_error
        below = (-90.0 - mean_dbm).clamp(-40.0, 60.0) / 10.0
        return torch.sigmoid(
            error.tail_logit
            + error.tail_per_db * (spread_db.clamp_max(12.0) - 2.0)
            + error.tail_per_10db * below
        )

    def reported(self, code: Tensor, mean_dbm: Tensor, spread_db: Tensor, hit: Tensor) -> Tensor:
        """Log-probability of SS-RSRP codes, elementwise; a missing one gives 0."""
        low, high = edges(SS_RSRP, code)
        mixed = self._mixed(
            lambda loc, scale: bin_probability(low, high, loc, scale), mean_dbm, spread_db, hit
        )
        return torch.where(code == MISSING, 0.0, mixed.clamp_min(SMALLEST_PROBABILITY).log())

    def unreported(
        self, ceiling: tuple[Tensor, Tensor], mean_dbm: Tensor, spread_db: Tensor, hit: Tensor
    ) -> Tensor:
        """Log-probability that a sector is not reported, elementwise.

        Parameters
        ----------
        ceiling
            From `ceilings`: levels that it stayed under if not lost, and if lost [dBm].
        mean_dbm, spread_db, hit
            From `mean_and_spread`.
        """
        lost = self.settings.dropout_probability

        def below(loc: Tensor, scale: Tensor) -> Tensor:
            weak, given_lost = (normal_cdf((edge - loc) / scale) for edge in ceiling)
            return (1 - lost) * weak + lost * given_lost

        probability: Tensor = self._mixed(below, mean_dbm, spread_db, hit)
        return probability.clamp_min(SMALLEST_PROBABILITY).log()

    def _mixed(self, probability: Any, mean: Tensor, spread: Tensor, hit: Tensor) -> Tensor:
        """Core and tail put together; one distribution alone where no ray arrived."""
        core: Tensor = probability(mean, spread)
        if self.has_no_tail:
            return core
        share = torch.where(hit, self.tail_share(mean, spread), 0.0)
        tail_scale = (spread**2 + self.map_error.tail_db**2) ** 0.5
        tail = probability(mean + self.map_error.tail_bias_db, tail_scale)
        mixed: Tensor = (1 - share) * core + share * tail
        return mixed

    @property
    def has_no_tail(self) -> bool:
        """Whether the map's error is Gaussian alone, as in the world's own maps."""
        logit = self.map_error.tail_logit
        return not isinstance(logit, Tensor) and logit <= -100.0

    def ceilings(self, reports: ReportBatch) -> tuple[Tensor, Tensor]:
        """Levels [dBm] that unreported sectors stayed under, shapes (report,).

        First where it was not lost: the detection threshold, the neighbours' offset below the
        serving sector, or the weakest neighbour where all slots are full (the middle of its bin:
        equal codes are cut at random). Second where it was lost: a better sector would have
        become the serving one.
        """
        threshold = float(SS_RSRP.lower_edge(self.threshold_code))
        serving = reports.level_dbm[:, 0].nan_to_num(threshold)
        # codes are whole numbers, and so are the offsets between them
        floor = serving - 0.5 - int(self.settings.neighbour_offset_db)
        kept = serving + 0.5 + int(self.settings.handover_offset_db)
        lost = torch.where(reports.selected == 1, serving, kept)
        level = reports.level_dbm.nan_to_num(threshold)
        neighbour = reports.heard & (torch.arange(level.shape[1], device=level.device) > 0)
        weakest = torch.where(neighbour, level, math.inf).amin(dim=1)
        weakest = torch.where(weakest.isinf(), lost, weakest)  # no neighbour is ever reported
        full = reports.heard.sum(dim=1) > self._most_neighbours[reports.scenario]
        weak = torch.where(full, weakest, -math.inf)
        weak = torch.maximum(torch.maximum(weak, floor), torch.full_like(weak, threshold))
        return weak, torch.maximum(lost, weak)

    # -- shared errors --------------------------------------------------------------------

    def _weights(self, variance: Any) -> Tensor:
        """Normalised weights of shifts at multiples of the step, symmetric around 0."""
        sigma = variance**0.5 if isinstance(variance, Tensor) else math.sqrt(variance)
        if not isinstance(variance, Tensor) and sigma < self.step_db / 100:
            return torch.ones(1)
        reach = max(1, math.ceil(_REACH * _number(sigma) / self.step_db))
        offset = self.step_db * torch.arange(-reach, reach + 1, dtype=torch.float32)
        return torch.softmax(-0.5 * (offset / sigma) ** 2, dim=0)

    def core_db(self, maps: LevelMaps) -> Tensor:
        """Standard deviation of the map's own error but for its tail [dB]."""
        error = self.map_error
        se = torch.where(maps.se_db.isnan(), ONE_HIT_DB, maps.se_db)
        core: Tensor = (error.core_db**2 + (error.core_per_se * se) ** 2) ** 0.5
        return torch.where(maps.rsrp_dbm.isnan(), error.unhit_db, core)

    def variance_of(self, weights: Tensor) -> float:
        """Variance [dB2] of the shifts that weights stand for."""
        shift = self.step_db * (torch.arange(len(weights)) - len(weights) // 2)
        return float((weights.detach() * shift**2).sum())

    def shift_weights(self, shared: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of the shifts common to all sectors, a site's own, and a site's at one place.

        Parameters
        ----------
        shared
            Mean correlation of the shadowing between the places of a track: 1 for one place.
        """
        common = self._gain_variance + shared * self._common_variance
        apart = (1 - shared) * (self._common_variance + self._site_variance)
        variances = (common, shared * self._site_variance, apart if shared < 1.0 else 0.0)
        return tuple(self._weights(v) for v in variances)  # type: ignore[return-value]

    def direct(self, reports: ReportBatch, maps: LevelMaps) -> Tensor:
        """Log-likelihood of n reports at their own few places, shape (n, place).

        Differentiable in the maps and in the map's error.
        """
        common, own, _ = self.shift_weights()
        mean, spread, hit = (v[..., None] for v in self.mean_and_spread(maps))
        reach = (len(common) + len(own)) // 2 - 1
        shift = self.step_db * torch.arange(-reach, reach + 1, dtype=torch.float32)
        weak, lost = (v[:, None, None, None] for v in self.ceilings(reports))
        levels = mean + shift
        spreads, hits = spread.expand_as(levels), hit.expand_as(levels)
        evidence = self.unreported((weak, lost), levels, spreads, hits)
        evidence = evidence.expand(len(reports), *evidence.shape[1:]).clone()
        slots = [int(k) for k in torch.nonzero(reports.heard.any(dim=0))[:, 0]]
        for slot in slots:
            rows = torch.nonzero(reports.heard[:, slot])[:, 0]
            sector = reports.sector[rows, slot]
            of = (rows if len(maps) > 1 else torch.zeros_like(rows), sector)
            code = reports.rsrp[rows, slot].reshape(-1, 1, 1)
            found = self.reported(code, levels[of], spreads[of], hits[of])
            evidence = evidence.index_put((rows, sector), found)
        value = shared_out(by_site(evidence, maps.site), common, own)
        return value * self.map_error.level_exponent  # type: ignore[no-any-return]

    def marginal(self, code: Tensor, maps: LevelMaps) -> Tensor:
        """Log-likelihood of reported levels one by one, shape (n, sector, place).

        Each sector's own marginal distribution, shared errors included in its spread: for terms
        that weigh sectors apart, such as the physics loss; never for a posterior.

        Parameters
        ----------
        code
            SS-RSRP codes of the maps' sectors, shape (n, sector, 1); a missing one gives 0.
        maps
            Levels of the reported sectors.
        """
        mean, spread, hit = self.mean_and_spread(maps)
        shared = self._gain_variance + self._common_variance + self._site_variance
        return self.reported(code, mean, (spread**2 + shared) ** 0.5, hit)


def _number(value: Any) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


# -- sums over shifts -------------------------------------------------------------------------


def by_site(evidence: Tensor, site: Tensor) -> Tensor:
    """Log-likelihood of sites at shifts, shape (..., site, place, shift), from their sectors'.

    Parameters
    ----------
    evidence
        Log-likelihood of each sector at each shift, shape (..., sector, place, shift).
    site
        Index of each sector's site, shape (sector,).
    """
    shape = list(evidence.shape)
    shape[-3] = int(site.max()) + 1
    index = site.reshape(-1, 1, 1).expand(evidence.shape[-3:]).expand(evidence.shape)
    return evidence.new_zeros(shape).scatter_add(-3, index, evidence)


def smoothed(log_prob: Tensor, weights: Tensor) -> Tensor:
    """Logarithm of the mean over a further shift; the shifts that its ends need fall away.

    Parameters
    ----------
    log_prob
        Values at shifts, shape (..., shift).
    weights
        Of the further shifts, symmetric around 0.
    """
    if len(weights) == 1:
        return log_prob
    peak = log_prob.detach().amax(dim=-1, keepdim=True)
    kept = log_prob.shape[-1] - len(weights) + 1
    # a product with the matrix of the convolution is ten times as fast as one along rows so short
    padded = torch.cat([weights, weights.new_zeros(kept)])
    matrix = padded.repeat(kept)[: kept * log_prob.shape[-1]]
    mean = (log_prob - peak).exp() @ matrix.reshape(kept, -1).T.to(log_prob)
    return mean.clamp_min(1e-30).log() + peak


def shared_out(of_site: Tensor, common: Tensor, own: Tensor) -> Tensor:
    """Log-likelihood at places with the sites' own and the common shift integrated out.

    Parameters
    ----------
    of_site
        Log-likelihood of each site at each shift, shape (..., site, place, shift), the shifts
        symmetric around 0 and as many as both weights reach.
    common, own
        Weights of the shifts that all sectors share, and of a site's own.
    """
    total = smoothed(of_site, own).sum(dim=-3) + common.log()
    return total.logsumexp(dim=-1)
