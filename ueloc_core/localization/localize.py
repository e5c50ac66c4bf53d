"""From reports to fixes with a trained model: what the command line and services call."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.grid import Window
from ueloc_core.localization.calibrated import Calibration, Correction, corrections
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.samples import Samples
from ueloc_core.localization.training import load_network, predict_then
from ueloc_core.localization.windows import WindowBatch, WindowReader
from ueloc_core.measurement.dataset import to_batch
from ueloc_core.measurement.map_error import load_map_error
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.provenance import ArtifactKey, Store
from ueloc_core.radio.atlas import MapAtlas

_AT_ONCE = 64  # reports


@dataclass(frozen=True)
class Fix:
    """One estimated position with its posterior.

    Attributes
    ----------
    x_m, y_m
        The point with the least expected distance to the terminal [m], city's CRS.
    std_m
        Root mean square distance of the posterior from its mean [m].
    window
        The serving sector's window.
    batch, row
        Calibrated posteriors and corrections of the reports that were located together, and
        which of them this one is.
    """

    x_m: float
    y_m: float
    std_m: float
    window: Window
    batch: tuple[Posterior, Correction]
    row: int

    @property
    def posterior(self) -> Posterior:
        """The calibrated posterior of this report alone."""
        return self.batch[0][self.row : self.row + 1]

    @property
    def correction(self) -> Correction:
        """Gives the posterior mass that a region of a nominal level needs."""
        return self.batch[1][self.row : self.row + 1]

    @cached_property
    def mass(self) -> NDArray[np.float64]:
        """Posterior mass per grid cell, shape of `window`; sums to 1 - `outside_mass`."""
        return np.asarray(self.posterior.raster()[0].double().numpy())

    @property
    def outside_mass(self) -> float:
        """Posterior mass beyond the window."""
        return float(self.batch[0].log_outside[self.row].exp())

    def region_level(self, level: float) -> float:
        """Posterior mass of the region that holds the terminal with probability `level`."""
        return float(self.correction.region_level(level)[0])


class Locator:
    """A trained model over one city's maps.

    Parameters
    ----------
    reader
        Cuts windows out of the city's maps.
    network
        The trained network.
    calibration
        Its calibration.
    """

    def __init__(
        self, reader: WindowReader, network: PosteriorNetwork, calibration: Calibration
    ) -> None:
        self.reader, self.network, self.calibration = reader, network, calibration

    @classmethod
    def load(cls, city: City, store: Store) -> "Locator":
        """The model and the maps of a city from a store.

        Raises
        ------
        StoreError
            If a stage has not been materialized, or its files are damaged.
        """

        def tiles(stage: str) -> dict[str, ArtifactKey]:
            return {name: ArtifactKey(city.name, stage, name) for name in city.tile_names}

        model_folder = store.require(ArtifactKey(city.name, "posterior_model")).path
        calibration_folder = store.require(ArtifactKey(city.name, "calibration")).path
        map_error = load_map_error(store.require(ArtifactKey(city.name, "map_error")).path)
        folders = [
            {name: store.require(key).path for name, key in tiles(stage).items()}
            for stage in ("scene", "sites", "radio_map")
        ]
        atlas = MapAtlas.load(city, *folders)
        model = MeasurementModel(city.measurements, city.radio, map_error)
        return cls(
            WindowReader(atlas, model),
            load_network(model_folder),
            Calibration.load(calibration_folder),
        )

    def locate(self, reports: xr.Dataset) -> list[Fix]:
        """Fixes of reports (`ReportSchema`; ground truth is not read), in their order.

        Raises
        ------
        RadioError
            If a report names a sector that the city does not have.
        """
        batch = to_batch(reports, self.reader.atlas)
        samples = Samples(batch, np.full((len(batch), 2), np.nan))
        parts = predict_then(self.network, self.reader, samples, self._fixes, _AT_ONCE)
        return [fix for part in parts for fix in part]

    def _fixes(self, _: slice, raw: Posterior, batch: WindowBatch) -> list[Fix]:
        """Fixes of a batch with their posteriors before calibration."""
        correction = corrections(self.calibration, batch, raw)
        posterior = correction.of(raw)
        point, spread = posterior.point_and_spread()
        fixes = []
        serving = batch.reports.sector[:, 0].tolist()
        for i, (sector, (x_m, y_m), std_m) in enumerate(
            zip(serving, point.tolist(), spread.tolist(), strict=True)
        ):
            frame = self.reader.frames[sector]
            x0, y0 = frame.centre_m
            fixes.append(Fix(x0 + x_m, y0 + y_m, std_m, frame, (posterior, correction), i))
        return fixes


def posterior_rasters(
    posterior: Posterior, correction: Correction
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Calibrated mass per grid cell (report, rows, columns), and the mass beyond the window."""
    corrected = correction.of(posterior)
    return corrected.raster().double().numpy(), corrected.log_outside.exp().double().numpy()
