"""What terminals report, and the errors of their reports: sections of a city file."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ueloc_core.city_sections import NonNegative, Positive, Probability, Section

ScenarioName = Literal["lte_legacy", "nr_rsrp_only", "nr_rsrp_ta", "nr_beams", "full"]
_ONE_SCENARIO: dict[ScenarioName, float] = {"nr_rsrp_ta": 1.0}
Sigma = Annotated[float, Field(ge=0, le=30)]


class TracksConfig(Section):
    """The population of terminals: how many, how they move, and when they report.

    ``tracks_per_hectare`` terminals start on each hectare of outdoor ground. Static ones stand
    anywhere outdoors; pedestrians and vehicles move on the street graph. Each sends 1 to
    ``reports_per_track`` reports at irregular times, ``interval_s`` apart on average.
    ``indoor_share`` of the static terminals stand inside buildings.
    """

    tracks_per_hectare: Positive = 200.0
    reports_per_track: Annotated[int, Field(ge=1, le=16)] = 4
    interval_s: Positive = 1.0
    static_share: Probability = 0.4
    pedestrian_share: Probability = 0.4
    indoor_share: Probability = 0.0

    @model_validator(mode="after")
    def _shares_fit(self) -> "TracksConfig":
        if self.static_share + self.pedestrian_share > 1 + 1e-9:
            raise ValueError(
                f"measurements.tracks: static_share = {self.static_share:g} and pedestrian_share "
                f"= {self.pedestrian_share:g} add up to more than 1; vehicles are the rest"
            )
        return self


class ShadowingConfig(Section):
    """Shadowing that no map of buildings holds (trees, vehicles, people).

    A Gaussian field for each site [dB] with correlation ``exp(-d / correlation_m)``, 1 between
    the sectors of a site and ``inter_site`` between sites (ITU-R M.2135-1, A.1.3.1.1; the
    default distance is that of UMi without line of sight, TR 38.901 V17.0.0, table 7.5-6).
    """

    sigma_db: Sigma = 4.0
    correlation_m: Positive = 13.0
    inter_site: Annotated[float, Field(ge=0, le=0.95)] = 0.5


class TerminalConfig(Section):
    """What differs from terminal to terminal, and the accuracy of all.

    ``gain_sigma_db`` is the offset of all levels of a terminal (body loss, antenna, absolute
    accuracy), ``clock_sigma_ns`` that of its transmit timing, one way; ``level_sigma_db`` is
    the relative accuracy of one level; ``power_dbm`` its largest transmit power.
    """

    gain_sigma_db: Sigma = 2.0
    clock_sigma_ns: NonNegative = 20.0
    level_sigma_db: Annotated[float, Field(ge=0.3, le=20)] = 1.0
    power_dbm: Annotated[float, Field(ge=-40, le=35)] = 23.0


class FadingConfig(Section):
    """Fast fading left after averaging over ``resource_blocks`` and ``averaged_samples``.

    The defaults are the 20 resource blocks of an SS block (TS 38.211, 7.4.3.1) and four samples
    of a layer-3 filter that are far enough apart to fade independently.
    """

    resource_blocks: Annotated[int, Field(ge=1, le=275)] = 20
    averaged_samples: Annotated[int, Field(ge=1, le=100)] = 4


class TimingConfig(Section):
    """Arrival times: noise follows from bandwidth and SNR, late first paths from obstruction.

    With probability ``late_share_nlos`` (``late_share_los`` in sight) the first path is missed
    and a later one is taken; the excess is exponential with mean ``late_mean_ns`` [ns].
    """

    late_share_los: Probability = 0.02
    late_share_nlos: Probability = 0.2
    late_mean_ns: Positive = 60.0
    floor_ns: Annotated[float, Field(ge=0.5, le=100)] = 3.0


class DirectionConfig(Section):
    """UL-AoA of an array with ``columns`` columns half a wavelength apart.

    ``outlier_share`` of the angles are wrong and uniform over the circle; ``floor_deg`` is the
    array's calibration error; the departure spread of the map counts with ``spread_share``.
    """

    columns: Annotated[int, Field(ge=2, le=64)] = 8
    floor_deg: Annotated[float, Field(ge=0.1, le=30)] = 1.0
    spread_share: NonNegative = 0.5
    outlier_share: Annotated[float, Field(gt=0, lt=1)] = 0.02


class BeamsConfig(Section):
    """L1-RSRP of the beams of the serving sector's panel (``antenna``), the strongest first.

    ``count`` CSI-RS beams over ``width_deg``, tilted by ``tilt_deg`` below the panel's normal;
    each fades by ``sigma_db`` against the sector's own level; ``reported`` are reported.
    """

    antenna: Annotated[str, Field(min_length=1)] = "panel8x8"
    count: Annotated[int, Field(ge=2, le=64)] = 8
    reported: Annotated[int, Field(ge=1, le=4)] = 4
    width_deg: Annotated[float, Field(gt=0, le=180)] = 120.0
    tilt_deg: Annotated[float, Field(ge=-30, le=30)] = 0.0
    sigma_db: Annotated[float, Field(ge=0.5, le=20)] = 2.5


class QualityConfig(Section):
    """Ratios and rates, given the levels.

    ``interference_sigma_db`` is the deviation of the interference that all of them share (load
    that differs from the city's, up to full load); the others are each field's own.
    """

    interference_sigma_db: Annotated[float, Field(ge=0.5, le=20)] = 3.0
    sigma_db: Annotated[float, Field(ge=0.5, le=20)] = 1.0
    rank_sigma_db: Annotated[float, Field(ge=0.5, le=20)] = 4.0
    uplink_sigma_db: Annotated[float, Field(ge=0.5, le=20)] = 2.0
    throughput_sigma: Annotated[float, Field(ge=0.05, le=3)] = 0.5


class MeasurementConfig(Section):
    """What terminals report, and the errors of their reports.

    ``scenarios`` gives the share of terminals that report each set of fields
    (`ueloc_core.measurement.scenarios`). Sectors under ``detection_threshold_dbm``, or more than
    ``neighbour_offset_db`` under the serving one, are not reported; others are lost with
    ``dropout_probability``, as is any other field. The serving sector changes when a detected
    one is ``handover_offset_db`` better (event A3 of TS 38.331, 5.5.4.4).
    """

    scenarios: dict[ScenarioName, Positive] = Field(default_factory=lambda: _ONE_SCENARIO)
    max_neighbours: Annotated[int, Field(ge=0, le=7)] = 7
    detection_threshold_dbm: Annotated[float, Field(ge=-156, le=-31)] = -120.0
    neighbour_offset_db: Annotated[float, Field(ge=3, le=125)] = 40.0
    handover_offset_db: Annotated[float, Field(ge=0, le=15)] = 3.0
    dropout_probability: Annotated[float, Field(ge=0, lt=1)] = 0.05
    tracks: TracksConfig = TracksConfig()
    shadowing: ShadowingConfig = ShadowingConfig()
    terminal: TerminalConfig = TerminalConfig()
    fading: FadingConfig = FadingConfig()
    quality: QualityConfig = QualityConfig()
    timing: TimingConfig = TimingConfig()
    direction: DirectionConfig = DirectionConfig()
    beams: BeamsConfig = BeamsConfig()

    @model_validator(mode="after")
    def _some_scenario(self) -> "MeasurementConfig":
        if not self.scenarios:
            raise ValueError("measurements.scenarios names no scenario")
        return self
