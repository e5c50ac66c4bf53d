"""What reaches grid cells, path by path, before any antenna: the common currency of the tracer.

A contribution is one path at one place: a point of a grid cell that sees the antenna, a ray that
crosses the grid, or a path over an edge. It carries the field of two unit sources, one along the
zenith and one along the azimuth unit vector of departure. So the gain of any antenna, port and
beam that stands at the place follows from its far field, and sectors and beams share the rays.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Contributions:
    """Paths, n of them.

    Attributes
    ----------
    cell
        Grid cell, row by row from the south-west, shape (n,).
    batch
        Independent batch that found it, shape (n,).
    weight
        Share of the grid cell's area that it stands for in its batch, shape (n,). The mean gain
        of a grid cell is the sum of weight times gain.
    length_m
        Length of the path to the centre of its grid cell [m], shape (n,).
    departure, arrival
        Unit vectors of propagation at both ends, shape (n, 3).
    power
        Received by an isotropic terminal of both polarizations from a unit source, shape (n, 4):
        of a source along the zenith unit vector, along the azimuth unit vector, and real and
        imaginary part of the product of both fields (the first times the second's conjugate).
        For a far field (a, b) the path gain is
        ``|a|^2 p0 + |b|^2 p1 + 2 (Re(a b*) p2 - Im(a b*) p3)``.
    """

    cell: NDArray[np.int64]
    batch: NDArray[np.int64]
    weight: NDArray[np.float32]
    length_m: NDArray[np.float32]
    departure: NDArray[np.float32]
    arrival: NDArray[np.float32]
    power: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.cell)

    def __getitem__(self, chosen: NDArray[Any]) -> "Contributions":
        return Contributions(*(getattr(self, f.name)[chosen] for f in fields(self)))

    @classmethod
    def none(cls) -> "Contributions":
        """No paths."""
        return cls(
            cell=np.zeros(0, dtype=np.int64),
            batch=np.zeros(0, dtype=np.int64),
            weight=np.zeros(0, dtype=np.float32),
            length_m=np.zeros(0, dtype=np.float32),
            departure=np.zeros((0, 3), dtype=np.float32),
            arrival=np.zeros((0, 3), dtype=np.float32),
            power=np.zeros((0, 4), dtype=np.float32),
        )

    @classmethod
    def joined(cls, parts: "Iterable[Contributions]") -> "Contributions":
        """All paths of several sets."""
        parts = list(parts)
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def power_of_fields(zenith: Any, azimuth: Any, scale: Any) -> list[Any]:
    """The four columns of `Contributions.power`, of two Jones vectors.

    Parameters
    ----------
    zenith, azimuth
        Fields of the two unit sources, as Sionna's vectors (real of both components, then their
        imaginary parts).
    scale
        Factor on the powers.
    """
    own = [scale * (f.x * f.x + f.y * f.y + f.z * f.z + f.w * f.w) for f in (zenith, azimuth)]
    a, b = zenith, azimuth
    real = a.x * b.x + a.z * b.z + a.y * b.y + a.w * b.w
    imaginary = a.z * b.x - a.x * b.z + a.w * b.y - a.y * b.w
    return [*own, scale * real, scale * imaginary]
