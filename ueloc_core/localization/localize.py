"""From reports to fixes with a trained model: what the command line and services call."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.grid import Window
from ueloc_core.localization.baselines import geometric_median
from ueloc_core.localization.calibrated import Calibration, Correction, FeatureReader
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.training import load_network, predict, read_samples
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.map_error import load_map_error
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.provenance import ArtifactKey, Store
from ueloc_core.radio.atlas import MapAtlas


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
    mass
        Posterior mass per grid cell, shape of `window`; sums to 1 - `outside_mass`.
    outside_mass
        Posterior mass beyond the window.
    correction
        Of this report alone: gives the posterior mass that a region of a nominal level needs.
    """

    x_m: float
    y_m: float
    std_m: float
    window: Window
    mass: NDArray[np.float64]
    outside_mass: float
    correction: Correction

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
        self._features = FeatureReader(reader)

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
        samples = read_samples(self.reader, reports, split=None)
        serving = samples.reports.sector[:, 0].tolist()
        fixes = []
        for part, posterior, _ in predict(self.network, self.reader, samples):
            reports_here = samples.reports[part]
            correction = self._features.corrections(self.calibration, reports_here, posterior)
            masses, outside = posterior_rasters(posterior, correction)
            for i, sector in enumerate(serving[part]):
                frame = self.reader.frames[sector]
                fixes.append(_fix(masses[i], float(outside[i]), frame, correction[i : i + 1]))
        return fixes


def posterior_rasters(
    posterior: Posterior, correction: Correction
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Calibrated mass per grid cell (report, rows, columns), and the mass beyond the window."""
    corrected = correction.of(posterior)
    return corrected.raster().double().numpy(), corrected.log_outside.exp().double().numpy()


def _fix(mass: NDArray[np.float64], outside: float, window: Window, correction: Correction) -> Fix:
    x_m, y_m = geometric_median(mass, window)
    share = mass / mass.sum()
    rows, columns = share.sum(axis=1), share.sum(axis=0)
    mean_x, mean_y = columns @ window.x_centres_m, rows @ window.y_centres_m
    variance = columns @ (window.x_centres_m - mean_x) ** 2
    variance += rows @ (window.y_centres_m - mean_y) ** 2
    return Fix(x_m, y_m, float(np.sqrt(variance)), window, mass, outside, correction)
