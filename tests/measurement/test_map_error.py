"""The twin's map error, fitted on reports from known places."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_world import (
    build_atlas,
    default_atlas,
    draw_dataset,
    draw_reports,
    made_up_city,
    population,
)

from ueloc_core.errors import ReportError, StoreError
from ueloc_core.measurement import map_error
from ueloc_core.measurement.city_reports import CityReports
from ueloc_core.measurement.levels import LevelLikelihood, LevelMaps, MapError
from ueloc_core.measurement.map_error import (
    FITTED,
    PLAIN,
    Survey,
    build_map_error,
    load_map_error,
)
from ueloc_core.measurement.timing import DelayMaps

pytestmark = pytest.mark.slow

COUNT = 300
MEASUREMENTS = {"scenarios": {"full": 1.0}, "shadowing": {"sigma_db": 2.0}}


@pytest.fixture(scope="module")
def world():
    """Reports at known places, the world's levels there, and maps of their serving sectors."""
    atlas = default_atlas()
    batch, x_m, y_m = draw_reports(atlas, COUNT, seed=21, **MEASUREMENTS)
    sampled = population(atlas, **MEASUREMENTS)
    city = atlas.city.model_copy(update={"measurements": sampled.model.settings})
    maps = sampled.places.levels_at(x_m, y_m)
    serving = sampled.places.serving_at(batch.sector[:, 0].numpy(), x_m, y_m)
    return city, batch, maps, serving


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch):
    monkeypatch.setattr(map_error, "_STEPS", 40)


def perturbed(maps, seed, *, core=0.0, common=0.0, site=0.0, tail_share=0.0, tail=15.0):
    """Maps off by errors of each sector, of a place, of a site there; and far off in some."""
    rng = np.random.default_rng(seed)
    level = maps.rsrp_dbm
    error = core * rng.standard_normal(level.shape)
    error = error + common * rng.standard_normal((len(level), 1, 1))
    sites = site * rng.standard_normal((len(level), int(maps.site.max()) + 1, 1))
    error = error + sites[:, maps.site.numpy()]
    error = error + (rng.random(level.shape) < tail_share) * tail * rng.standard_normal(level.shape)
    return replace(maps, rsrp_dbm=level + torch.from_numpy(error).float())


def fit(city, batch, maps):
    return map_error.fit([Survey(city, batch, maps, None)])


def fit_serving(city, batch, serving, fitted):
    nothing = torch.zeros(len(batch), 1, 1)
    maps = LevelMaps(nothing, nothing, nothing, torch.zeros(1))
    return map_error.fit_serving([Survey(city, batch, maps, serving)], fitted)


def share(logit):
    return 1 / (1 + np.exp(-logit))


def core_db(error, se_db=1.0):
    return float(np.hypot(error.core_db, error.core_per_se * se_db))


def test_planted_errors_are_found(world):
    """3 dB of each sector's own, and of a place's; twice what is left is far too much."""
    city, batch, maps, _ = world
    error, before, after = fit(city, batch, perturbed(maps, 22, core=3.0, common=4.0))
    assert after < before - 1
    assert core_db(error) == pytest.approx(3, abs=0.8)
    assert error.common_db == pytest.approx(4, abs=1.2)
    assert error.site_db < 2
    assert share(error.tail_logit) < 0.25


def test_errors_that_sectors_of_a_site_share_are_found(world):
    city, batch, maps, _ = world
    error, before, after = fit(city, batch, perturbed(maps, 23, core=1.0, site=5.0))
    assert after < before - 1
    assert error.site_db == pytest.approx(5, abs=1.2)
    assert error.common_db < 2.5
    assert core_db(error) < 2


def test_without_error_little_is_found(world):
    city, batch, maps, _ = world
    error, before, after = fit(city, batch, maps)
    assert after < before
    assert core_db(error) < 1.0
    assert error.common_db < 1.5
    assert error.site_db < 1.5
    assert error.total_db <= 2.0


def test_a_planted_tail_is_found(world):
    """One level in five is off by 15 dB."""
    city, batch, maps, _ = world
    wrong = perturbed(maps, 24, tail_share=0.2)
    error, _, _ = fit(city, batch, replace(wrong, se_db=torch.zeros_like(wrong.se_db)))
    found = float(torch.sigmoid(torch.tensor(error.tail_logit + 0.5 * error.tail_per_10db)))
    assert 0.08 < found < 0.45
    assert error.tail_db == pytest.approx(15, abs=6)
    assert core_db(error, 0.0) < 2.5


def test_levels_where_no_ray_arrived_are_found_from_silence_too(world):
    """Sectors that the twin does not map around -115 dBm: most are not heard, which is evidence."""
    city, batch, maps, _ = world
    levels = maps.rsrp_dbm.nan_to_num(-200.0)
    weak = (levels > -122) & (levels < -108)
    assert weak.float().mean() > 0.1
    error, _, _ = fit(city, batch, replace(maps, rsrp_dbm=levels.masked_fill(weak, np.nan)))
    assert error.unhit_dbm == pytest.approx(float(levels[weak].mean()), abs=3)
    assert error.unhit_db < 8


def test_a_fitted_error_locates_better_than_none(world):
    """Likelihood of fresh reports under the fitted error, and as if the maps were exact."""
    city, batch, maps, _ = world
    wrong, half = perturbed(maps, 25, core=3.0, common=3.0), COUNT // 2

    def some(chosen):
        layers = (wrong.rsrp_dbm[chosen], wrong.se_db[chosen], wrong.noise_db[chosen])
        return LevelMaps(*layers, wrong.site)

    error, _, _ = fit(city, batch[:half], some(slice(None, half)))
    fitted, exact = (
        float(
            LevelLikelihood(city.measurements, e)
            .direct(batch[half:], some(slice(half, None)))
            .mean()
        )
        for e in (error, MapError.none())
    )
    assert fitted > exact + 3


def test_planted_errors_of_delays_are_found(world):
    """The twin's first arrivals are off by 20 ns; those of a few places by 400 ns."""
    city, batch, _, serving = world
    rng = np.random.default_rng(26)
    first = serving.delays.first_arrival_ns
    late = torch.from_numpy(rng.normal(0, 20, first.shape)).float()
    far = torch.from_numpy((rng.random(first.shape) < 0.06) * rng.normal(0, 400, first.shape))
    for error_ns, core, tail in (
        (0 * late, 3.0, 0.02),
        (late, 20.0, 0.02),
        (late + far, 20.0, 0.1),
    ):
        moved = (first + error_ns.float()).clamp_min(0.0)
        delays = DelayMaps(moved, serving.delays.line_of_sight, serving.delays.straight_ns)
        found = fit_serving(city, batch, replace(serving, delays=delays), MapError.none())
        if core == 20.0:
            assert found.delay_core_ns == core
        else:
            assert found.delay_core_ns <= core
        assert found.delay_tail_share <= tail
    assert found.delay_tail_share >= 0.02
    assert found.delay_tail_ns == 400.0


def test_planted_errors_of_azimuths_are_found(world):
    city, batch, _, serving = world
    rng = np.random.default_rng(27)
    azimuth = serving.departures.azimuth_deg
    off = torch.from_numpy(rng.normal(0, 4, azimuth.shape)).float()
    departures = replace(serving.departures, azimuth_deg=(azimuth + off) % 360)
    found = fit_serving(city, batch, replace(serving, departures=departures), MapError.none())
    assert found.azimuth_core_deg == 4.0
    assert found.azimuth_tail_share <= 0.05
    right = fit_serving(city, batch, serving, MapError.none())
    assert right.azimuth_core_deg <= 1.0


def test_planted_errors_of_beams_are_found(world):
    city, batch, _, serving = world
    rng = np.random.default_rng(28)
    offset = serving.departures.beam_offset_db
    off = torch.from_numpy(rng.normal(0, 4.5, offset.shape)).float()
    departures = replace(serving.departures, beam_offset_db=offset + off)
    found = fit_serving(city, batch, replace(serving, departures=departures), MapError.none())
    assert 3.0 <= found.beam_db <= 6.0
    assert fit_serving(city, batch, serving, MapError.none()).beam_db <= 1.0


def test_what_no_report_tells_of_keeps_its_value(world):
    city, batch, _, serving = world
    few = batch[:10]
    start = replace(MapError.none(), delay_core_ns=7.0)
    assert fit_serving(city, few, serving.rows(slice(10)), start) == start


# -- several cities -----------------------------------------------------------------------


def in_three(city, batch, maps, serving):
    """The same reports as if three cities had sent them, of which one sent most."""
    whole = Survey(city, batch, maps, serving)
    return [whole.rows(torch.arange(a, b)) for a, b in ((0, 40), (40, COUNT - 60), (240, COUNT))]


def test_cities_together_are_fitted_as_one(world):
    """How reports are dealt out to cities does not matter."""
    city, batch, maps, serving = world
    wrong = perturbed(maps, 29, core=3.0, common=2.0)
    parts = in_three(city, batch, wrong, serving)
    whole, before, after = fit(city, batch, wrong)
    pooled, *nats = map_error.fit(parts)
    assert nats == pytest.approx([before, after], rel=1e-4)
    for name, value in whole.as_dict().items():
        assert pooled.as_dict()[name] == pytest.approx(value, rel=0.02, abs=0.02), name


def test_cities_together_choose_the_errors_of_delays_angles_and_beams(world):
    city, batch, maps, serving = world
    rng = np.random.default_rng(30)
    first = serving.delays.first_arrival_ns
    late = first + torch.from_numpy(rng.normal(0, 20, first.shape)).float()
    delays = DelayMaps(
        late.clamp_min(0.0), serving.delays.line_of_sight, serving.delays.straight_ns
    )
    parts = in_three(city, batch, maps, replace(serving, delays=delays))
    found = map_error.fit_serving(parts, MapError.none())
    assert found.delay_core_ns == 20.0
    assert found.azimuth_core_deg <= 1.0
    kept = map_error._telling(parts, lambda reports: reports.ta)
    told = [int((part.reports.ta != -1).sum()) for part in parts]
    assert sum(told) > 200  # of all cities by their share of what tells, 200 together
    shares = [len(part.reports) for part in kept]
    assert 200 <= sum(shares) <= 202
    np.testing.assert_allclose(shares, [200 * count / sum(told) for count in told], atol=1)


def test_one_city_that_errs_is_heard_by_its_share(world):
    """Half of the reports stand on maps off by 6 dB: neither what they nor what the others say."""
    city, batch, maps, serving = world
    halves = [torch.arange(0, COUNT // 2), torch.arange(COUNT // 2, COUNT)]
    good, bad = (
        Survey(city, batch, some, serving).rows(rows)
        for some, rows in zip((maps, perturbed(maps, 31, core=6.0)), halves, strict=True)
    )
    errors = [core_db(map_error.fit(some)[0]) for some in ([good], [good, bad], [bad])]
    assert errors[0] < errors[1] < errors[2]


# -- the stage ----------------------------------------------------------------------------


@pytest.fixture
def quickly(monkeypatch):
    for name, value in (
        ("_STEPS", 10), ("_MAX_REPORTS", 60), ("_EXPONENT_REPORTS", 12), ("_PLAIN_REPORTS", 6),
        ("_PLAIN_SIGMAS_DB", (2.0, 6.0)), ("_SERVING_REPORTS", 50),
    ):  # fmt: skip
        monkeypatch.setattr(map_error, name, value)


def of_one_city(atlas, reports):
    return atlas.city, [CityReports(atlas.city, atlas, reports)]


def training_set(count):
    atlas = default_atlas()
    reports = draw_dataset(atlas, count, seed=4)
    return atlas, reports.assign(split=("report", np.zeros(count, np.int8)))


def test_the_stage_writes_what_it_says(tmp_path, quickly):
    atlas, reports = training_set(60)
    metadata = build_map_error(*of_one_city(atlas, reports), tmp_path)
    stored = load_map_error(tmp_path)
    assert stored.as_dict() == {k: metadata[k] for k in stored.as_dict()}
    assert metadata["reports"] == 60
    assert metadata["cities"] == ["made_up"]
    assert metadata["nats_per_report_after"] < metadata["nats_per_report_before"]
    assert 0.3 <= stored.level_exponent <= 1
    # uniform over the outdoor ground would be about ln(79 000 m2) = 11.3 nats
    assert metadata["position_nll_nats"] < 9
    plain = load_map_error(tmp_path, PLAIN)
    assert plain.core_db in (2.0, 6.0)
    assert (plain.common_db, plain.site_db, plain.tail_logit) == (0.0, 0.0, -100.0)
    assert plain.unhit_dbm == stored.unhit_dbm


def test_too_few_reports_are_refused(tmp_path):
    atlas, reports = training_set(20)
    with pytest.raises(ReportError, match="20 training reports"):
        build_map_error(*of_one_city(atlas, reports), tmp_path)


def test_the_stage_draws_from_all_its_cities(tmp_path, quickly, monkeypatch):
    """In proportion to their training reports; a city without any is left out."""
    atlas, reports = training_set(90)
    other = build_atlas(made_up_city(name="other"), seed=3)
    few = draw_dataset(other, 30, seed=5).assign(split=("report", np.zeros(30, np.int8)))
    none = CityReports(atlas.city, atlas, reports.assign(split=reports.split + 1))
    sets = [none, CityReports(atlas.city, atlas, reports), CityReports(other.city, other, few)]
    seen = {}
    plain = map_error.fit

    def watch(surveys):
        seen.update({survey.city.name: len(survey.reports) for survey in surveys})
        return plain(surveys)

    monkeypatch.setattr(map_error, "fit", watch)
    metadata = build_map_error(made_up_city(name="third", seed=2), sets, tmp_path)
    assert metadata["cities"] == ["made_up", "made_up", "other"]
    assert metadata["reports"] == sum(seen.values()) == 60
    assert seen["made_up"] == pytest.approx(45, abs=12)
    assert load_map_error(tmp_path).as_dict() == {
        name: metadata[name] for name in load_map_error(tmp_path).as_dict()
    }
    with pytest.raises(ReportError, match=r"made_up, other.*30 training reports"):
        build_map_error(made_up_city(), [none, sets[2]], tmp_path)


@pytest.mark.parametrize("content", [None, "{", '{"core_db": 1, "unknown": 2}', "[1]"])
def test_a_bad_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / f"{FITTED}.json").write_text(content)
    with pytest.raises(StoreError, match="map_error.json"):
        load_map_error(tmp_path)


def test_it_survives_its_file(tmp_path):
    error = replace(MapError.none(), core_db=1.25, tail_logit=-2.5)
    (tmp_path / f"{FITTED}.json").write_text(json.dumps(error.as_dict()))
    assert load_map_error(tmp_path) == error
