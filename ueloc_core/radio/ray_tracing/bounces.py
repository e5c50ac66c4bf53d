"""Rays from a mast through reflections, refractions and scattering, to the grid cells they cross.

One pass serves all sectors of the site: a ray carries the fields of two unit sources. Between two
interactions everything is one kernel over all rays that are left; after each, rays that can no
longer reach a terminal are dropped.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ueloc_core.errors import RadioError
from ueloc_core.radio.ray_tracing.contributions import Contributions, power_of_fields
from ueloc_core.radio.ray_tracing.engine import RayScene, drjit, rows, sionna_rt
from ueloc_core.radio.ray_tracing.launch import Launch, RaySet
from ueloc_core.radio.ray_tracing.points import lies_indoors, to_centre
from ueloc_core.radio.ray_tracing.receivers import Grid, Plane, Surface

_CHUNK = 1 << 20  # rays that are under way at a time: about 150 MB
_CROSSINGS = 8  # of a hilly surface by one straight piece of a ray
_WEAKEST_GAIN = 1e-17  # a ray below -170 dB is given up: no receiver hears it


@dataclass(frozen=True)
class Interactions:
    """What happens to rays besides the direct path.

    Attributes
    ----------
    max_depth
        Most interactions along a path.
    diffraction
        Paths over one edge, in the edge's shadow.
    reflection, refraction, scattering
        Specular reflection, transmission through walls, and diffuse scattering (where a material
        has a scattering coefficient).

    Raises
    ------
    RadioError
        If the depth is negative.
    """

    max_depth: int
    diffraction: bool = True
    reflection: bool = True
    refraction: bool = False
    scattering: bool = False

    def __post_init__(self) -> None:
        if self.max_depth < 0:
            raise RadioError(
                f"max_depth = {self.max_depth}",
                where="interactions",
                remedy="Give 0 (the direct path alone) or more.",
            )


class CrossingTest:
    """Where straight pieces of rays cross a grid."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._scene: Any = None
        if isinstance(grid, Surface):
            mi = sionna_rt().mi
            vertices, faces = grid.triangles()
            properties = mi.Properties()
            properties["face_normals"] = True
            mesh = mi.Mesh("terminals", len(vertices), len(faces), props=properties)
            parameters = mi.traverse(mesh)
            parameters["vertex_positions"] = vertices.ravel()
            parameters["faces"] = faces.ravel()
            parameters.update()
            self._scene = mi.load_dict({"type": "scene", "terminals": mesh})

    def first(self, ray: Any, beyond: Any, before: Any) -> tuple[Any, Any, Any]:
        """Distance to the next crossing, the grid's upward normal there, and whether it exists.

        Parameters
        ----------
        ray
            Rays.
        beyond, before
            Open interval of distances [m] in which a crossing counts.
        """
        dr, mi = drjit(), sionna_rt().mi
        if isinstance(self.grid, Plane):
            distance = (self.grid.height_m - ray.o.z) / ray.d.z
            return distance, mi.Vector3f(0.0, 0.0, 1.0), (distance > beyond) & (distance < before)
        ahead = mi.Ray3f(mi.Point3f(ray.o + ray.d * beyond), ray.d)
        found = self._scene.ray_intersect(ahead)
        normal = mi.Vector3f(found.n) * dr.sign(found.n.z)
        distance = beyond + found.t
        return distance, normal, found.is_valid() & (found.t > 1e-3) & (distance < before)


def trace_rays(
    scene: RayScene,
    mast_m: tuple[float, float, float],
    crossings: CrossingTest,
    launch: Launch,
    interactions: Interactions,
    ray_set: RaySet,
) -> Iterator[Contributions]:
    """Paths with at least one interaction that cross the grid; the direct path is left out.

    Weights are shares of whole grid cells; divide them by the cells' outdoor share.

    Parameters
    ----------
    scene
        The scene.
    mast_m
        (x, y, z) of the antenna [m].
    crossings
        The grid.
    launch
        How rays leave the mast.
    interactions
        What may happen to them.
    ray_set
        How many rays, and which.
    """
    if interactions.max_depth == 0:
        return
    dr, mi = drjit(), sionna_rt().mi
    launched = _Launched(*launch.directions(ray_set), ray_set.rays // ray_set.batches)
    dr.eval(launched.directions, launched.solid_angles)
    count = dr.width(launched.solid_angles)
    seeds = ray_set.rng("bounces")
    for first in range(0, count, _CHUNK):
        index = dr.arange(mi.UInt, min(_CHUNK, count - first)) + dr.opaque(mi.UInt, first)
        rays = _Rays.leaving(mast_m, launched, index)
        for part, ray in _bounce(scene, crossings, interactions, rays, seeds):
            yield replace(
                part,
                batch=np.array(ray // launched.each, dtype=np.int64),
                departure=rows(dr.gather(mi.Vector3f, launched.directions, ray)),
            )


@dataclass(frozen=True)
class _Launched:
    """All rays as they leave the mast: directions, solid angles [sr], and rays of a batch."""

    directions: Any
    solid_angles: Any
    each: int


@dataclass
class _Rays:
    """Rays under way: Dr.Jit arrays of one width."""

    ray: Any
    index: Any  # among all rays that left the mast
    length: Any  # [m]
    free: Any  # [m] since the last scattering, which a ray tube starts anew
    solid_angle: Any  # [sr]
    zenith: Any  # Jones vector of the unit source along the zenith unit vector
    azimuth: Any

    @classmethod
    def leaving(cls, mast_m: Any, launched: "_Launched", index: Any) -> "_Rays":
        dr, mi = drjit(), sionna_rt().mi
        n = dr.width(index)
        one, none = dr.full(mi.Float, 1.0, n), dr.zeros(mi.Float, n)
        origin = mi.Point3f(*(dr.full(mi.Float, v, n) for v in mast_m))
        return cls(
            ray=mi.Ray3f(origin, dr.gather(mi.Vector3f, launched.directions, index)),
            index=index,
            length=mi.Float(none),
            free=mi.Float(none),
            solid_angle=dr.gather(mi.Float, launched.solid_angles, index),
            zenith=mi.Vector4f(one, none, none, none),
            azimuth=mi.Vector4f(none, one, none, none),
        )

    def chosen(self, left: Any) -> "_Rays":
        dr, mi = drjit(), sionna_rt().mi
        kept = _Rays(
            ray=mi.Ray3f(
                dr.gather(mi.Point3f, self.ray.o, left), dr.gather(mi.Vector3f, self.ray.d, left)
            ),
            index=dr.gather(mi.UInt, self.index, left),
            length=dr.gather(mi.Float, self.length, left),
            free=dr.gather(mi.Float, self.free, left),
            solid_angle=dr.gather(mi.Float, self.solid_angle, left),
            zenith=dr.gather(mi.Vector4f, self.zenith, left),
            azimuth=dr.gather(mi.Vector4f, self.azimuth, left),
        )
        dr.eval(kept.__dict__)
        return kept


def _bounce(
    scene: RayScene,
    crossings: CrossingTest,
    interactions: Interactions,
    rays: _Rays,
    seeds: np.random.Generator,
) -> Iterator[tuple[Contributions, Any]]:
    """Paths, still without batch and departure, and the rays that they belong to."""
    dr = drjit()
    ceiling_m = scene.ceiling_m(crossings.grid.highest_m)
    spread = scene.wavelength_m / (4.0 * math.pi)
    for depth in range(interactions.max_depth + 1):
        # evaluated by itself: the crossings and the interactions both read it
        met = scene.geometry.ray_intersect_preliminary(rays.ray, coherent=depth == 0)
        dr.eval(met)
        if depth > 0:
            yield from _crossings(scene, crossings, interactions, rays, met.t)
        if depth == interactions.max_depth:
            return
        onward = _interact(interactions, rays, met, seeds)
        ray, strongest = onward.ray, dr.squared_norm(onward.zenith)
        strongest = dr.maximum(strongest, dr.squared_norm(onward.azimuth))
        going = met.is_valid() & ~((ray.d.z >= 0.0) & (ray.o.z > ceiling_m))
        going &= strongest * dr.square(spread * dr.rcp(onward.length)) > _WEAKEST_GAIN
        dr.eval(going, onward.__dict__)
        left = dr.compress(going)
        if not dr.width(left):
            return
        rays = onward.chosen(left)


def _interact(
    interactions: Interactions, rays: _Rays, met: Any, seeds: np.random.Generator
) -> _Rays:
    """What Sionna's radio material makes of each ray at the face that it met."""
    from sionna.rt.constants import InteractionType  # noqa: PLC0415
    from sionna.rt.utils import spectrum_to_matrix_4f  # noqa: PLC0415

    dr, mi = drjit(), sionna_rt().mi
    allowed = 0
    for wanted, kind in (
        (interactions.reflection, InteractionType.SPECULAR),
        (interactions.scattering, InteractionType.DIFFUSE),
        (interactions.refraction, InteractionType.REFRACTION),
    ):
        allowed |= int(kind) if wanted else 0
    active = met.is_valid()
    face = met.compute_surface_interaction(rays.ray, mi.RayFlags.Minimal, active)
    # how a radio material takes its input: sionna.rt.RadioMaterialBase
    direction = mi.Vector3f(rays.ray.d)
    normal = face.n * dr.sign(dr.dot(face.n, -direction))
    face.sh_frame.n = normal
    face.initialize_sh_frame()
    face.n = normal
    face.wi = face.to_local(direction)
    face.dp_du = mi.Vector3f(0.0, 0.0, dr.reinterpret_array(mi.Float, mi.UInt(allowed)))
    face.t = rays.solid_angle
    context = mi.BSDFContext(mode=mi.TransportMode.Importance, type_mask=0, component=0)
    if interactions.scattering or interactions.refraction:
        sampler = mi.load_dict({"type": "independent"})
        sampler.seed(int(seeds.integers(2**31)), dr.width(rays.length))
        choice, lobe = sampler.next_1d(), sampler.next_2d()
    else:
        choice, lobe = mi.Float(0.5), mi.Point2f(0.5, 0.5)
    fields: list[Any] = []
    for field in (rays.zenith, rays.azimuth):
        # only scattering asks for the field: else the matrix of the first serves the second
        if interactions.scattering or not fields:
            face.duv_dx, face.duv_dy = mi.Vector2f(field.x, field.y), mi.Vector2f(field.z, field.w)
            found, jones = face.bsdf().sample(context, face, choice, lobe, active)
            matrix = spectrum_to_matrix_4f(jones)
        fields.append(mi.Vector4f(matrix @ field))
    scattered = found.sampled_component == InteractionType.DIFFUSE
    nothing = found.sampled_component == InteractionType.NONE
    return _Rays(
        ray=face.spawn_ray(found.wo),
        index=rays.index,
        length=rays.length + met.t,
        free=dr.select(scattered, 0.0, rays.free + met.t),
        solid_angle=dr.select(scattered, dr.two_pi, rays.solid_angle),
        zenith=dr.select(nothing, 0.0, fields[0]),
        azimuth=dr.select(nothing, 0.0, fields[1]),
    )


def _crossings(
    scene: RayScene,
    crossings: CrossingTest,
    interactions: Interactions,
    rays: _Rays,
    obstacle: Any,
) -> Iterator[tuple[Contributions, Any]]:
    """Grid cells that straight pieces of rays cross outdoors before they meet an obstacle."""
    dr, mi = drjit(), sionna_rt().mi
    grid = crossings.grid
    beyond = dr.zeros(mi.Float, dr.width(rays.length))
    for _ in range(1 if isinstance(grid, Plane) else _CROSSINGS):
        distance, normal, crosses = crossings.first(rays.ray, beyond, obstacle)
        place = rays.ray(distance)
        column = mi.Int(dr.floor((place.x - grid.corner_m[0]) * (1.0 / grid.cell_m)))
        row = mi.Int(dr.floor((place.y - grid.corner_m[1]) * (1.0 / grid.cell_m)))
        inside = (column >= 0) & (column < grid.columns) & (row >= 0) & (row < grid.rows)
        cell = mi.UInt(row * grid.columns + column)
        # the share of a grid cell, seen in plan, that the ray's solid angle covers
        free = rays.free + distance
        slant = dr.abs(dr.dot(normal, rays.ray.d))
        area = rays.solid_angle * normal.z * dr.rcp(dr.maximum(slant, 1e-4) * grid.cell_m**2)
        counted = crosses & inside
        if interactions.refraction:  # else no ray is in a building
            counted &= ~lies_indoors(scene, place)
        dr.eval(counted, cell, place, free, area, distance)
        hit = dr.compress(counted)
        if dr.width(hit):
            yield _contributions(scene, grid, rays, hit, (cell, place, free, area, distance))
        if isinstance(grid, Plane):
            return
        beyond = dr.select(crosses, distance, dr.inf)
        if not dr.any(crosses):
            return


def _contributions(
    scene: RayScene, grid: Grid, rays: _Rays, hit: Any, at: tuple[Any, ...]
) -> tuple[Contributions, Any]:
    """What the rays that cross the grid carry, still without batch and departure."""
    dr, mi = drjit(), sionna_rt().mi
    cell, place, free, area, distance = at
    scale = (scene.wavelength_m / (4.0 * math.pi)) ** 2
    free, area = dr.gather(mi.Float, free, hit), dr.gather(mi.Float, area, hit)
    length = dr.gather(mi.Float, rays.length + distance, hit)
    arrival = dr.gather(mi.Vector3f, rays.ray.d, hit)
    power = power_of_fields(
        dr.gather(mi.Vector4f, rays.zenith, hit),
        dr.gather(mi.Vector4f, rays.azimuth, hit),
        scale * dr.rcp(dr.square(free)),
    )
    weight = area * dr.square(free)
    ray = dr.gather(mi.UInt, rays.index, hit)
    cell, place = dr.gather(mi.UInt, cell, hit), dr.gather(mi.Point3f, place, hit)
    dr.eval(length, arrival, power, weight, ray, cell, place)
    cells = np.array(cell, dtype=np.int64)
    direction = rows(arrival)
    found = Contributions(
        cell=cells,
        batch=np.zeros(len(cells), dtype=np.int64),
        weight=np.array(weight),
        length_m=to_centre(np.array(length), direction, rows(place), cells, grid),
        departure=np.zeros_like(direction),
        arrival=direction,
        power=np.stack([np.array(p) for p in power], axis=1),
    )
    return found, ray
