"""Radio maps by ray tracing: the one importer of Sionna, Mitsuba and Dr.Jit.

One pass over a site finds the paths to every grid cell: direct ones and those over an edge at
points of the cells, reflected ones by rays. From the paths follow, for each sector, gain and its
standard error, delays, angles and line of sight. Coordinates are local to a scene (its origin is
the lower-left corner of its tile), so that single precision keeps millimetres.
"""

from ueloc_core.radio.ray_tracing.bounces import Interactions
from ueloc_core.radio.ray_tracing.cells import CellMap
from ueloc_core.radio.ray_tracing.engine import RayScene, bundled_scene, device_name, sionna_rt
from ueloc_core.radio.ray_tracing.far_field import Sector
from ueloc_core.radio.ray_tracing.launch import RaySet
from ueloc_core.radio.ray_tracing.receivers import Grid, Plane, Surface
from ueloc_core.radio.ray_tracing.site import SiteMaps, SiteTracer
from ueloc_core.radio.ray_tracing.workers import Trace, trace

__all__ = [
    "CellMap",
    "Grid",
    "Interactions",
    "Plane",
    "RayScene",
    "RaySet",
    "Sector",
    "SiteMaps",
    "SiteTracer",
    "Surface",
    "Trace",
    "bundled_scene",
    "device_name",
    "sionna_rt",
    "trace",
]
