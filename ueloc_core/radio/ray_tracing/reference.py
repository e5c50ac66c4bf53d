"""Exact paths to chosen positions, by Sionna's path solver: a reference, and a source of reports.

Radio maps are means over grid cells; here every path ends at one point, found by the image
method. Chains that mix reflections with an edge, which radio maps leave out, are found too and
named, so that a comparison can leave them out as well. Paths over one edge get the field of `utd`;
mixed ones keep Sionna's. The solver knows only chains that its rays
have met, so few rays miss paths: it costs some hundred times what a map costs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import RadioError
from ueloc_core.radio.ray_tracing.bounces import Interactions
from ueloc_core.radio.ray_tracing.cells import CellMap, CellStatistics
from ueloc_core.radio.ray_tracing.contributions import Contributions
from ueloc_core.radio.ray_tracing.diffraction import power_over
from ueloc_core.radio.ray_tracing.engine import RayScene, sionna_rt
from ueloc_core.radio.ray_tracing.far_field import PathGains, Sector
from ueloc_core.radio.ray_tracing.wedges import Wedges, facing, wedges_of
from ueloc_core.units import SPEED_OF_LIGHT_M_S

# Chains that the solver holds at a time: about 1 GB at depth 5. Its table of chains already seen is
# as long; two that share their entries count as one and the second is lost.
_MOST_CHAINS = 1 << 22
_ON_EDGE_M = 0.01  # the solver's place on an edge is as near as this to it
_OF_EACH_PATH = (
    *("position", "delay_ns", "departure", "arrival"),
    *("reflections", "refractions", "scatterings", "diffractions"),
)


@dataclass(frozen=True)
class PathTable:
    """Paths from a mast to positions, n of them, in order of their positions.

    Attributes
    ----------
    positions
        Number of positions, with paths or without.
    position
        Index of the position that each path ends at, shape (n,).
    gain
        Path gain of each sector along each path to an isotropic terminal of both polarizations,
        shape (sector, n).
    delay_ns
        Travel time [ns], shape (n,).
    departure, arrival
        Unit vectors of propagation at both ends, shape (n, 3).
    reflections, refractions, scatterings, diffractions
        How often each happens along each path, shape (n,); none at all is line of sight.
    """

    positions: int
    position: NDArray[np.int64]
    gain: NDArray[np.float32]
    delay_ns: NDArray[np.float64]
    departure: NDArray[np.float32]
    arrival: NDArray[np.float32]
    reflections: NDArray[np.uint8]
    refractions: NDArray[np.uint8]
    scatterings: NDArray[np.uint8]
    diffractions: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, chosen: NDArray[Any]) -> "PathTable":
        """Some of the paths, to the same positions."""
        each = {name: getattr(self, name)[chosen] for name in _OF_EACH_PATH}
        return replace(self, gain=self.gain[:, chosen], **each)

    @property
    def line_of_sight(self) -> NDArray[np.bool_]:
        """Which paths are direct, shape (n,)."""
        return np.asarray(~self.diffracted & (self._bounces == 0))

    @property
    def diffracted(self) -> NDArray[np.bool_]:
        """Which paths run over an edge, shape (n,)."""
        return np.asarray(self.diffractions > 0)

    @property
    def mixed(self) -> NDArray[np.bool_]:
        """Which paths run over an edge and have other interactions too, shape (n,).

        Radio maps leave these out.
        """
        return np.asarray(self.diffracted & (self._bounces > 0))

    @property
    def _bounces(self) -> NDArray[np.int64]:
        kinds = (self.reflections, self.refractions, self.scatterings)
        return np.asarray(np.sum(kinds, axis=0, dtype=np.int64))

    @property
    def kind(self) -> NDArray[np.str_]:
        """``los``, ``reflected`` (also refracted, scattered), ``diffracted`` or ``mixed``."""
        names = ["mixed", "diffracted", "los"]
        return np.select([self.mixed, self.diffracted, self.line_of_sight], names, "reflected")

    def summary(self, group: NDArray[np.integer[Any]] | None = None) -> "PositionSummary":
        """What a terminal at each position measures, by the definitions of radio maps.

        Parameters
        ----------
        group
            Place that each position belongs to, shape (positions,), counted from 0: figures are
            then those of the mean over the positions of each place, as radio maps are over the
            points of a grid cell. Every position is a place of its own if it is left out.
        """
        group = np.arange(self.positions) if group is None else np.asarray(group)
        members = np.bincount(group)
        place = group[self.position]
        length_m = self.delay_ns * (SPEED_OF_LIGHT_M_S * 1e-9)
        paths = Contributions(
            cell=place.astype(np.int64),
            batch=np.zeros(len(self), dtype=np.int64),
            weight=(1.0 / members[place]).astype(np.float32),
            length_m=length_m.astype(np.float32),
            departure=self.departure,
            arrival=self.arrival,
            power=np.zeros((len(self), 4), dtype=np.float32),
        )
        statistics = CellStatistics(paths, (1, len(members)), batches=1)
        maps = [statistics.of(gain) for gain in self.gain]
        seen = np.unique(self.position[self.line_of_sight])
        return PositionSummary(
            [CellMap(*(getattr(m, f.name)[0] for f in fields(CellMap))) for m in maps],
            np.bincount(group[seen], minlength=len(members)) / members,
        )


@dataclass(frozen=True)
class PositionSummary:
    """What a terminal at each of n places measures.

    Attributes
    ----------
    sectors
        For each sector the fields of a radio map, of shape (n,); gains have no error.
    line_of_sight
        Share of each place's positions that see the mast, shape (n,).
    """

    sectors: list[CellMap]
    line_of_sight: NDArray[np.float64]


def reference_paths(
    scene: RayScene,
    mast_m: tuple[float, float, float],
    sectors: Sequence[Sector],
    positions_m: NDArray[Any],
    interactions: Interactions,
    *,
    samples: int = 1_000_000,
    seed: int = 1,
    at_a_time: int = 16,
) -> PathTable:
    """Paths from the sectors of a site to positions.

    Parameters
    ----------
    scene
        The scene.
    mast_m
        (x, y, z) of the antennas in the scene's frame [m].
    sectors
        The antennas.
    positions_m
        (x, y, z) of isotropic terminals of both polarizations [m], shape (n, 3).
    interactions
        What may happen along a path; diffraction only in the shadow of an edge.
    samples
        Rays that look for chains of interactions, over the whole sphere.
    seed
        Of the choice between interactions at a place where several are possible.
    at_a_time
        Positions that are solved together. More are faster, but share the solver's table of
        chains, and it loses those whose entries collide: of 512 together one path in seven.

    Raises
    ------
    RadioError
        If positions are no such array.
    """
    places = np.asarray(positions_m, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 3:
        raise RadioError(f"positions of shape {places.shape}", remedy="Give them as (n, 3).")
    kinds = [np.zeros((0, 4), dtype=np.uint8)]
    found = [Contributions.none()]
    facing_mast = mast_m, facing(wedges_of(scene), mast_m)
    with _antennas(scene, mast_m):
        for first in range(0, len(places), at_a_time):
            some = places[first : first + at_a_time]
            # always as many, so that the kernel is compiled once
            filled = some[np.minimum(np.arange(at_a_time), len(some) - 1)]
            paths, kind, first_m = _solve(scene, filled, interactions, samples, seed)
            _bend(scene, facing_mast, filled, paths, kind, first_m)
            true = paths.cell < len(some)
            paths.cell[:] += first
            found.append(paths[true])
            kinds.append(kind[true])
    paths, kind = Contributions.joined(found), np.concatenate(kinds)
    order = np.lexsort((paths.length_m, paths.cell))
    gains_of = PathGains(paths) if len(paths) else None
    gains = [gains_of.of(sector)[order] for sector in sectors if gains_of]
    return PathTable(
        positions=len(places),
        position=paths.cell[order],
        gain=np.stack(gains) if gains else np.zeros((len(sectors), 0), dtype=np.float32),
        delay_ns=paths.length_m[order].astype(np.float64) * (1e9 / SPEED_OF_LIGHT_M_S),
        departure=paths.departure[order],
        arrival=paths.arrival[order],
        reflections=kind[order, 0],
        refractions=kind[order, 1],
        scatterings=kind[order, 2],
        diffractions=kind[order, 3],
    )


@contextmanager
def _antennas(scene: RayScene, mast_m: tuple[float, float, float]) -> Iterator[None]:
    """A transmitter of two unit sources, along the zenith and along the azimuth unit vector."""
    rt = sionna_rt()
    sionna = scene.sionna
    sionna.tx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="VH")
    sionna.rx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="VH")
    sionna.add(rt.Transmitter("mast", [float(v) for v in mast_m], orientation=[0.0, 0.0, 0.0]))
    try:
        yield
    finally:
        sionna.remove("mast")


def _solve(
    scene: RayScene,
    places_m: NDArray[np.float64],
    interactions: Interactions,
    samples: int,
    seed: int,
) -> tuple[Contributions, NDArray[np.uint8], NDArray[np.float64]]:
    """Paths to a few positions (`Contributions.cell` is the position), and what happens on them.

    The last array is where the first thing happens [m], shape (n, 3).
    """
    rt, sionna = sionna_rt(), scene.sionna
    names = [f"terminal-{index}" for index in range(len(places_m))]
    for name, place in zip(names, places_m, strict=True):
        sionna.add(rt.Receiver(name, [float(v) for v in place], orientation=[0.0, 0.0, 0.0]))
    try:
        paths = rt.PathSolver()(
            sionna,
            max_depth=interactions.max_depth,
            max_num_paths_per_src=_MOST_CHAINS,
            samples_per_src=samples,
            synthetic_array=True,  # of one element: tensors without axes for it
            los=True,
            specular_reflection=interactions.reflection,
            diffuse_reflection=interactions.scattering,
            refraction=interactions.refraction,
            diffraction=interactions.diffraction and interactions.max_depth > 0,
            edge_diffraction=False,
            diffraction_lit_region=False,
            seed=seed,
        )
        return _read(paths)
    finally:
        for name in names:
            sionna.remove(name)


def _bend(
    scene: RayScene,
    mast_m_and_wedges: tuple[tuple[float, float, float], Wedges],
    places_m: NDArray[np.float64],
    paths: Contributions,
    kind: NDArray[np.uint8],
    first_m: NDArray[np.float64],
) -> None:
    """Give paths over one edge, and nothing else, the field of `utd` in place of Sionna's.

    Edges that maps leave out (nearly flat ones) keep Sionna's field.
    """
    mast_m, wedges = mast_m_and_wedges
    bent = np.flatnonzero((kind[:, 3] == 1) & (kind.sum(axis=1) == 1))
    if not len(bent) or not len(wedges):
        return
    away = first_m[bent, None] - wedges.start_m
    along_m = np.clip((away * wedges.along).sum(axis=2), 0.0, wedges.length_m)
    aside_m = np.linalg.norm(away - along_m[..., None] * wedges.along, axis=2)
    edge = aside_m.argmin(axis=1)
    known = aside_m[np.arange(len(bent)), edge] < _ON_EDGE_M
    bent, edge = bent[known], edge[known]
    if len(bent):
        ends_m = places_m[paths.cell[bent]]
        paths.power[bent] = power_over(scene, mast_m, wedges, ends_m, edge)


def _read(paths: Any) -> tuple[Contributions, NDArray[np.uint8], NDArray[np.float64]]:
    from sionna.rt.constants import InteractionType  # noqa: PLC0415

    valid = np.array(paths.valid)[:, 0]  # (position, path)
    terminal, path = np.nonzero(valid)
    # (receiver, its port, transmitter, its port, path)
    real, imaginary = (np.array(part)[:, :, 0] for part in paths.a)
    field = (real + 1j * imaginary)[terminal, :, :, path]
    zenith, azimuth = field[..., 0], field[..., 1]
    product = (zenith * azimuth.conj()).sum(axis=1)
    own = [(np.abs(part) ** 2).sum(axis=1) for part in (zenith, azimuth)]
    power = np.stack([*own, product.real, product.imag], axis=1)
    angles = [
        np.array(getattr(paths, name))[:, 0][terminal, path].astype(np.float64)
        for name in ("theta_t", "phi_t", "theta_r", "phi_r")
    ]
    met = np.array(paths.interactions)[:, :, 0][:, terminal, path]
    happened = (
        InteractionType.SPECULAR,
        InteractionType.REFRACTION,
        InteractionType.DIFFUSE,
        InteractionType.DIFFRACTION,
    )
    kinds = np.stack([(met == kind).sum(axis=0) for kind in happened], axis=1).astype(np.uint8)
    vertices = np.array(paths.vertices)  # (depth, position, transmitter, path, axis)
    first_m = np.zeros((len(terminal), 3))
    if len(vertices):
        first_m[:] = vertices[0, :, 0][terminal, path]
    delay_s = np.array(paths.tau)[:, 0][terminal, path].astype(np.float64)
    return (
        Contributions(
            cell=terminal.astype(np.int64),
            batch=np.zeros(len(terminal), dtype=np.int64),
            weight=np.ones(len(terminal), dtype=np.float32),
            length_m=(delay_s * SPEED_OF_LIGHT_M_S).astype(np.float32),
            departure=_direction(*angles[:2]),
            arrival=-_direction(*angles[2:]),
            power=power.astype(np.float32),
        ),
        kinds,
        first_m,
    )


def _direction(zenith_rad: NDArray[Any], azimuth_rad: NDArray[Any]) -> NDArray[np.float32]:
    """Unit vectors of shape (n, 3) of Sionna's angles, the azimuth counted from east to north."""
    sine = np.sin(zenith_rad)
    return np.stack(
        [sine * np.cos(azimuth_rad), sine * np.sin(azimuth_rad), np.cos(zenith_rad)], axis=1
    ).astype(np.float32)
