"""Shadowing that no map of buildings holds: Gaussian fields over the global grid.

A field is white noise on the grid cells of the whole plane, drawn block by block from a
counter-based generator, and filtered with a kernel of finite reach. So any two windows read the
same field wherever they overlap, and no window has to know of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ueloc_core.errors import RadioError, UelocError
from ueloc_core.grid import Window
from ueloc_core.measurement.settings import ShadowingConfig

COMMON = 0
"""Key of the part that all sites share; no site has this number."""

_REACH = 6.0  # of the kernel, in correlation distances
_PERIOD = 3.0  # of the torus on which the kernel is found, in reaches
_BLOCK_CELLS = 64  # side of the blocks that white noise is drawn in
_WORD = 2**64  # what a word of Philox's key and counter holds


@dataclass(frozen=True)
class ShadowingField:
    """Standard normal fields over the global grid with correlation ``exp(-d / correlation_m)``.

    The correlation is that of ITU-R M.2135-1, A.1.3.1.1, and TR 38.901 V17.0.0, 7.4.4. The
    kernel is the inverse Fourier transform of the square root of the spectrum of the sampled
    correlation function, cut off at six correlation distances and scaled to unit variance:
    correlations are within 0.0005 of the exponential. The noise is keyed by the seed, the field
    and the block of grid cells, so a field depends on no window; two windows that overlap agree
    to 1e-5, the rounding of the transforms.

    Attributes
    ----------
    seed
        Of all fields.
    settings
        Correlation distance [m], standard deviation [dB], correlation between sites.
    cell_m
        Side of a grid cell [m].
    """

    seed: int
    settings: ShadowingConfig
    cell_m: float

    def over(self, window: Window, keys: Sequence[int]) -> NDArray[np.float32]:
        """Standard normal fields at the centres of a window's grid cells.

        Parameters
        ----------
        window
            Grid cells of side `cell_m`.
        keys
            One field each: the number of a site, or `COMMON`.

        Returns
        -------
        Shape (key, rows, columns).

        Raises
        ------
        UelocError
            If the window's grid cells have another size.
        """
        if window.cell_m != self.cell_m:
            raise UelocError(f"grid cells of {window.cell_m:g} m, not {self.cell_m:g} m")
        reach = self.kernel.shape[0] // 2
        around = window.buffered(reach * self.cell_m)
        size = [fft.next_fast_len(n, real=True) for n in around.shape]
        response = fft.rfft2(self.kernel, size)
        fields = np.empty((len(keys), *window.shape), dtype=np.float32)
        for field, key in zip(fields, keys, strict=True):
            spectrum = fft.rfft2(self._noise(around, int(key)), size) * response
            # what wraps around stays in the margin of twice the reach
            field[:] = fft.irfft2(spectrum, size)[2 * reach :, 2 * reach :][
                : window.rows, : window.columns
            ]
        return fields

    def site_shadowing_db(self, window: Window, site_ids: Sequence[int]) -> NDArray[np.float32]:
        """Shadowing [dB] of sites at the centres of a window's grid cells.

        A share ``inter_site`` of the variance is common to all sites (ITU-R M.2135-1,
        A.1.3.1.1); the sectors of a site have all of it in common.

        Parameters
        ----------
        window
            Grid cells of side `cell_m`.
        site_ids
            Numbers of the sites.

        Returns
        -------
        Shape (site, rows, columns), to be added to path gains.

        Raises
        ------
        RadioError
            If a site has the number that stands for the common part.
        UelocError
            If the window's grid cells have another size.
        """
        if COMMON in site_ids:
            raise RadioError(
                f"site_id {COMMON} stands for what all sites share",
                where="site_id",
                remedy="Number the sites from 1.",
            )
        share = self.settings.inter_site
        common = self.over(window, [COMMON])
        own = self.over(window, site_ids)
        own *= np.float32(self.settings.sigma_db * np.sqrt(1 - share))
        own += np.float32(self.settings.sigma_db * np.sqrt(share)) * common
        return own

    @cached_property
    def kernel(self) -> NDArray[np.float32]:
        """What white noise is filtered with, square, of odd side, centred; sum of squares 1."""
        correlation_cells = self.settings.correlation_m / self.cell_m
        reach = max(1, int(np.ceil(_REACH * correlation_cells)))
        period = fft.next_fast_len(int(np.ceil(_PERIOD * reach)), real=True)
        axis = fft.fftfreq(period, 1 / period)
        lag = np.hypot(axis[:, None], axis[None, :])
        spectrum = fft.rfft2(np.exp(-lag / correlation_cells)).real
        # the torus leaves values of about exp(-9) of the largest lag that may be negative
        whole = fft.irfft2(np.sqrt(np.maximum(spectrum, 0.0)), (period, period))
        whole = fft.fftshift(whole)
        middle = period // 2
        cut = slice(middle - reach, middle + reach + 1)
        kernel = whole[cut, cut]
        return np.asarray(kernel / np.sqrt((kernel**2).sum()), dtype=np.float32)

    def _noise(self, window: Window, key: int) -> NDArray[np.float32]:
        """White noise of a field over a window, from the blocks that meet it."""
        n = _BLOCK_CELLS
        rows = range(window.row // n, -(-(window.row + window.rows) // n))
        columns = range(window.column // n, -(-(window.column + window.columns) // n))
        blocks = [[self._block(key, row, column) for column in columns] for row in rows]
        top, left = window.row - rows.start * n, window.column - columns.start * n
        return np.block(blocks)[top : top + window.rows, left : left + window.columns]

    def _block(self, key: int, row: int, column: int) -> NDArray[np.float32]:
        # the two low words of the counter are left to the draws within the block
        generator = np.random.Philox(
            key=np.array([self.seed % _WORD, key % _WORD], dtype=np.uint64),
            counter=np.array([0, 0, row % _WORD, column % _WORD], dtype=np.uint64),
        )
        shape = (_BLOCK_CELLS, _BLOCK_CELLS)
        return np.random.Generator(generator).standard_normal(shape, dtype=np.float32)
