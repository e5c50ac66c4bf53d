"""Tracks of reports in the made-up city, whose terminals move as a motion prior says."""

from functools import lru_cache

import numpy as np
from made_up_world import Population, outdoor_points, population

from ueloc_core.measurement.mobility import Tracks
from ueloc_core.measurement.movers import PEDESTRIAN, STATIC, VEHICLE

PATIENCE = 60  # draws of a way that leads over outdoor ground


def paths_to(atlas, prior, times_s, count, rng):
    """Last places uniform over the outdoor ground, and a way there that is never indoors.

    Returns places of shape (track, report, 2) [m] and mean speeds (track,).
    """
    ways, weight = prior.displacements_m(times_s)
    places = []
    while len(places) < count:
        end = np.array([v[0] for v in outdoor_points(atlas, 1, rng)])
        for _ in range(PATIENCE):
            angle = rng.uniform(0, 2 * np.pi)  # all directions, not those of the prior's nodes
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            path = end + ways[rng.choice(len(ways), p=weight)] @ turn
            if atlas.ground.contains(*path.T).all():
                row, column = atlas.ground.indices(*path.T)
                if atlas.outdoor[row, column].all():
                    places.append(path)
                    break
    found = np.array(places)
    gone_m = np.linalg.norm(np.diff(found, axis=1), axis=2).sum(axis=1)
    return found, gone_m / (times_s[-1] - times_s[0])


def as_tracks(places, speeds, times_s):
    """Tracks of terminals at places of shape (track, report, 2) [m]."""
    count, reports = places.shape[:2]
    kind = np.where(speeds == 0, STATIC, np.where(speeds < 3, PEDESTRIAN, VEHICLE))
    zeros = np.zeros(count * reports, np.float32)
    return Tracks(
        np.repeat(np.arange(count), reports),
        np.tile(times_s, count),
        places[..., 0].ravel(),
        places[..., 1].ravel(),
        np.repeat(speeds, reports).astype(np.float32),
        zeros,
        np.repeat(kind, reports).astype(np.int8),
        np.zeros(count * reports, np.int8),
    )


def draw_tracks(atlas, prior, times_s, count, seed, **settings):
    """Whole tracks, each pair of them from a city with shadowing of its own.

    Returns the first city's population, and reports and true last place (x, y) [m] of each track.
    """
    rng = np.random.default_rng([seed, 3])
    world = population(atlas, **settings)
    world.places.around = lru_cache(len(atlas.windows))(world.places._around)
    found = []
    while len(found) < count:
        city = Population(world.model, world.places, world.audible, int(rng.integers(2**31)))
        drawn = as_tracks(*paths_to(atlas, prior, times_s, 2, rng), times_s)
        batch, truth = city.sample(drawn, rng)
        for track in np.unique(truth.track):
            mine = np.flatnonzero(truth.track == track)
            if len(mine) == len(times_s):
                found.append((batch[mine], (truth.x_m[mine[-1]], truth.y_m[mine[-1]])))
    return world, found[:count]
