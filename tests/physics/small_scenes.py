"""Scenes of a few bodies, what is traced in them, and the formulas that they are held to."""

import numpy as np
import trimesh

from ueloc_core.radio.antennas import Antenna, antenna_named
from ueloc_core.radio.ray_tracing import (
    Interactions,
    Plane,
    RayScene,
    RaySet,
    Sector,
    SiteTracer,
)
from ueloc_core.units import SPEED_OF_LIGHT_M_S, free_space_gain_db, wavelength_m

FREQUENCY_HZ = 3.5e9
WAVELENGTH_M = wavelength_m(FREQUENCY_HZ)
ISO = Sector(antenna_named("iso"), 0.0, 0.0)
BOTH = Sector(Antenna("both", pattern="iso", polarization="VH"), 0.0, 0.0)
"""Half of its power in each polarization."""

CONCRETE_M = 0.3
_ITU = (
    '<bsdf type="itu-radio-material" id="mat-{0}"><string name="type" value="{1}"/>'
    '<float name="thickness" value="{2}"/></bsdf>'
)
_OWN = (
    '<bsdf type="radio-material" id="mat-{0}"><float name="relative_permittivity" value="{1}"/>'
    '<float name="conductivity" value="{2}"/><float name="thickness" value="{3}"/>'
    '<float name="scattering_coefficient" value="{4}"/></bsdf>'
)
PANE = 6.0, 0.001, 0.01
"""A pane of low loss: relative permittivity, conductivity [S/m], thickness [m]."""
ROUGHNESS = 0.6
"""Scattering coefficient of rough concrete."""
MATERIALS = {
    "concrete": _ITU.format("concrete", "concrete", CONCRETE_M),
    "tiles": _ITU.format("tiles", "concrete", CONCRETE_M),  # shapes of one name would be merged
    "metal": _ITU.format("metal", "metal", 0.01),
    "pane": _OWN.format("pane", *PANE, 0.0),
    "rough": _OWN.format("rough", 5.24, 0.09, CONCRETE_M, ROUGHNESS),
    "black": _OWN.format("black", 1.0, 0.0, CONCRETE_M, 0.0),  # air: it reflects nothing
}
_SHAPE = (
    '<shape type="ply" id="mesh-body-{0}"><string name="filename" value="{0}.ply"/>'
    '<boolean name="face_normals" value="true"/><ref id="mat-{1}" name="bsdf"/></shape>'
)


def box(x_m, y_m, z_m):
    """A box between two values along each axis [m]."""
    low, high = np.transpose([x_m, y_m, z_m]).astype(float)
    mesh = trimesh.creation.box(extents=high - low)
    mesh.apply_translation((low + high) / 2)
    return mesh


def sheet(corners_m):
    """A flat sheet of four corners, seen from whence they run counter-clockwise."""
    return trimesh.Trimesh(np.asarray(corners_m, float), [[0, 1, 2], [0, 2, 3]], process=False)


def ground(half_m, z_m=0.0):
    """A level square that looks up."""
    corners = [(-half_m, -half_m), (half_m, -half_m), (half_m, half_m), (-half_m, half_m)]
    return sheet([(x, y, z_m) for x, y in corners])


def nothing():
    """A body five kilometres below: no path of interest meets it."""
    return box((-5, 5), (-5, 5), (-5001, -5000))


def small_scene(folder, **bodies):
    """A scene of meshes, each with the name of its material: ``name=(mesh, material)``."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, (mesh, _) in bodies.items():
        mesh.export(folder / f"{name}.ply", vertex_normal=False)
    used = dict.fromkeys(material for _, material in bodies.values())
    parts = [MATERIALS[material] for material in used]
    parts += [_SHAPE.format(name, material) for name, (_, material) in bodies.items()]
    file = folder / "scene.xml"
    file.write_text(f'<scene version="2.1.0">{"".join(parts)}</scene>')
    return RayScene(file, FREQUENCY_HZ)


def trace(scene, mast_m, grid, *sectors, rays=40_000, seed=1, batches=4, points=4, **interactions):
    """Maps of sectors (an isotropic one where none is given) at a mast."""
    tracer = SiteTracer(
        scene, Interactions(**{"max_depth": 1, "diffraction": False} | interactions)
    )
    return tracer.maps(mast_m, sectors or (ISO,), grid, RaySet(rays, seed, batches, points))


def square(centre_m, cells, cell_m, height_m):
    """A level grid around a place."""
    half = cells * cell_m / 2
    return Plane((centre_m[0] - half, centre_m[1] - half), cells, cells, cell_m, height_m)


def places(grid, parts=1):
    """Places [m] of `parts` x `parts` points of each grid cell, shape (rows, columns, parts, 3)."""
    step = grid.cell_m / parts
    x = grid.corner_m[0] + step * (np.arange(grid.columns * parts) + 0.5)
    y = grid.corner_m[1] + step * (np.arange(grid.rows * parts) + 0.5)
    x, y = np.meshgrid(x, y)
    found = np.stack([x, y, grid.height_at(x, y)], axis=-1)
    split = found.reshape(grid.rows, parts, grid.columns, parts, 3).swapaxes(1, 2)
    return split.reshape(grid.rows, grid.columns, parts**2, 3)


def friis(length_m):
    """Linear gain between isotropic antennas in free space."""
    return 10 ** (free_space_gain_db(length_m, FREQUENCY_HZ) / 10)


def delay_ns(length_m):
    return np.asarray(length_m) / SPEED_OF_LIGHT_M_S * 1e9


def azimuth_deg(way):
    """Compass azimuth of vectors."""
    return np.degrees(np.arctan2(way[..., 0], way[..., 1])) % 360


def zenith_deg(way):
    return np.degrees(np.arccos(way[..., 2] / np.linalg.norm(way, axis=-1)))


def turn_deg(first, second):
    """The smaller angle between two azimuths."""
    return np.abs((np.asarray(first) - second + 180) % 360 - 180)


def permittivity(relative, conductivity):
    """Complex relative permittivity (ITU-R P.2040-3, eq. 9b)."""
    return relative - 1j * conductivity / (2 * np.pi * FREQUENCY_HZ * 8.8541878128e-12)


ROUGH = permittivity(5.24, 0.09), CONCRETE_M


def concrete():
    """ITU-R P.2040-3, table 3: permittivity 5.24, conductivity 0.0462 f^0.7822."""
    return permittivity(5.24, 0.0462 * (FREQUENCY_HZ / 1e9) ** 0.7822)


def slab(cosine, eta, thickness_m):
    """Reflection and transmission of a slab, (TE, TM) each (ITU-R P.2040-3, eq. 37, 43, 44).

    Parameters
    ----------
    cosine
        Of the angle of incidence, to the normal.
    eta
        Complex relative permittivity.
    thickness_m
        Thickness [m].
    """
    inner = np.sqrt(eta - (1 - cosine**2))
    single = (cosine - inner) / (cosine + inner), (eta * cosine - inner) / (eta * cosine + inner)
    once = np.exp(-2j * np.pi * thickness_m / WAVELENGTH_M * inner)
    reflected = [r * (1 - once**2) / (1 - r**2 * once**2) for r in single]
    passed = [(1 - r**2) * once / (1 - r**2 * once**2) for r in single]
    return reflected, passed


def reflectivity(mast_m, place_m, normal, eta, thickness_m, *, polarization="V"):
    """Share of the power that a plane reflects on the way to a place, seen from the image.

    Parameters
    ----------
    mast_m
        The source itself.
    place_m
        Places whose path from the source's image runs through the plane, shape (..., 3).
    normal
        Unit normal of the plane.
    eta, thickness_m
        As of `slab`.
    polarization
        ``V``: the field is along the zenith unit vector of departure; ``VH``: mean of both.
    """
    normal = np.asarray(normal, float)
    way = np.asarray(place_m) - np.asarray(mast_m)
    arriving = way / np.linalg.norm(way, axis=-1, keepdims=True)
    cosine = np.abs(arriving @ normal)
    (te, tm), _ = slab(cosine, eta, thickness_m)
    te, tm = np.abs(te) ** 2, np.abs(tm) ** 2
    if polarization == "VH":
        return (te + tm) / 2
    # the image's ray, mirrored, is the one that leaves the mast
    leaving = arriving - 2 * (arriving @ normal)[..., None] * normal
    across = np.cross(leaving, normal)
    across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-12)
    flat = np.hypot(leaving[..., 0], leaving[..., 1])
    theta = np.stack(
        [
            leaving[..., 0] * leaving[..., 2] / flat,
            leaving[..., 1] * leaving[..., 2] / flat,
            -flat,
        ],
        axis=-1,
    )
    share = ((across * theta).sum(axis=-1)) ** 2
    return te * share + tm * (1 - share)


def knife_edge_gain(detour_m):
    """Gain over free space of a knife edge (ITU-R P.526-15, eq. 31), nu of the path's detour."""
    nu = 2 * np.sqrt(np.asarray(detour_m) / WAVELENGTH_M)
    loss_db = 6.9 + 20 * np.log10(np.sqrt((nu - 0.1) ** 2 + 1) + nu - 0.1)
    return 10 ** (-loss_db / 10)
