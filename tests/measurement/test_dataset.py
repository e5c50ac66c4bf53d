"""Report data sets: the contract can fail in every rule, and nothing is lost on the way."""

from dataclasses import replace

import numpy as np
import pandera.errors
import pandera.xarray as px
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_reports import batch_and_truth
from made_up_world import default_atlas, made_up_city

from ueloc_core.errors import RadioError, ReportError, StoreError
from ueloc_core.measurement.batch import ReportBatch, missing_code
from ueloc_core.measurement.dataset import (
    Truth,
    complete,
    empty_reports,
    load_reports,
    open_reports,
    present_flags,
    to_batch,
    to_dataset,
    typed,
    write_reports,
)
from ueloc_core.measurement.report_variables import (
    FLAGS,
    MEASURED,
    NEEDED,
    RAY_TRACED,
    VARIABLES,
)
from ueloc_core.measurement.reports import INT16_MISSING, MISSING, SS_RSRP, decode_rsrp
from ueloc_core.measurement.scenarios import FEATURES, scenario_code
from ueloc_core.measurement.schemas import MeasurementSetSchema, ReportSchema

CITY = made_up_city()
FULL = scenario_code("full")
FIELDS = tuple(ReportBatch.__dataclass_fields__)


def drawn(count=300, seed=0):
    batch, truth = batch_and_truth(default_atlas(), count, seed)
    return to_dataset(CITY, default_atlas(), batch, truth)


@pytest.fixture(scope="module")
def drawn_once():
    return drawn()


@pytest.fixture
def reports(drawn_once):
    return drawn_once.copy(deep=True)


def same_batch(first, second):
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in FIELDS)


# --- batches


def test_what_is_not_given_is_missing():
    batch = ReportBatch.of(np.zeros((2, 8), int), np.full((2, 8), 50))
    assert batch.cqi.tolist() == [MISSING] * 2
    assert batch.ul_sinr.tolist() == batch.ta_offset.tolist() == [INT16_MISSING] * 2
    assert batch.selected.tolist() == [0, 0]
    assert batch.beam.shape == batch.beam_level.shape == (2, 4)
    assert all(getattr(batch, name).dtype == torch.int64 for name in FIELDS)


def test_a_field_of_another_shape_or_name_is_refused():
    sector = np.zeros((2, 8), int)
    with pytest.raises(ValueError, match="cqi has shape"):
        ReportBatch.of(sector, sector, cqi=[1])
    with pytest.raises(TypeError, match="no colour"):
        ReportBatch.of(sector, sector, colour=[1, 1])


def test_batches_are_cut_and_joined():
    batch, _ = batch_and_truth(default_atlas(), 60)
    parts = [batch[:7], batch[7:20], batch[20:]]
    assert same_batch(ReportBatch.cat(parts), batch)
    chosen = torch.tensor([3, 1, 3])
    assert same_batch(batch[chosen], ReportBatch.cat([batch[3:4], batch[1:2], batch[3:4]]))
    assert len(batch[chosen]) == 3


def test_levels_are_decoded_to_the_middle_of_their_bins():
    codes = np.arange(-1, SS_RSRP.last).reshape(-1, 1)
    batch = ReportBatch.of(np.where(codes < 0, -1, 3), codes)
    np.testing.assert_allclose(batch.level_dbm, decode_rsrp(codes))
    assert batch.level_dbm.isnan().sum() == (~batch.heard).sum() == 1


# --- to tensors and back


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_reports_become_a_data_set_and_come_back(seed):
    atlas = default_atlas()
    batch, truth = batch_and_truth(atlas, 40, seed)
    reports = to_dataset(CITY, atlas, batch, truth)
    ReportSchema.validate(reports)
    assert same_batch(to_batch(reports, atlas), batch)
    np.testing.assert_array_equal(reports.x_m, truth.x_m)
    np.testing.assert_array_equal(reports.time_s, truth.time_s)


def test_no_locator_reads_the_truth(reports):
    """The tensors are the same whatever the truth and the ray-tracing layer say."""
    atlas = default_atlas()
    read = [*MEASURED, "track", "time_s", "scenario"]
    assert not set(read) & {"x_m", "y_m", "speed_m_s", "heading_deg", *RAY_TRACED}
    assert same_batch(to_batch(reports[read], atlas), to_batch(reports, atlas))


def test_an_unknown_sector_is_named(reports):
    reports.sector_id[3, 0] = 987
    with pytest.raises(RadioError, match="987"):
        to_batch(reports, default_atlas())


def test_one_report_of_each_standing_terminal():
    batch, _ = batch_and_truth(default_atlas(), 20)
    count = len(batch)
    place = np.linspace(3.8e5, 3.81e5, count)
    reports = to_dataset(CITY, default_atlas(), batch, Truth.standing(place, place))
    ReportSchema.validate(reports)
    assert (reports.mobility == 0).all()
    assert len(np.unique(reports.track)) == count


def test_the_ray_tracing_layer_is_rounded_by_half_a_step_at_most():
    batch, truth = batch_and_truth(default_atlas(), 200)
    reports = to_dataset(CITY, default_atlas(), batch, truth)
    for name in RAY_TRACED:
        layer = VARIABLES[name].layer
        given, kept = np.asarray(truth.rt[name]), reports[name].values.astype(float)
        np.testing.assert_array_equal(np.isnan(given), np.isnan(kept))
        error = np.abs(given - kept)
        if layer.period:
            error = np.minimum(error, layer.period - error)
        assert np.nanmax(error) <= layer.step / 2 + 1e-5 * layer.highest
        assert np.nanmax(error) > layer.step / 4


def test_a_value_beyond_its_integers_is_refused():
    batch, truth = batch_and_truth(default_atlas(), 20)
    gain = np.array(truth.rt["rt_path_gain_db"])
    gain[0, 0] = -800.0
    with pytest.raises(ReportError, match="rt_path_gain_db = -800"):
        to_dataset(CITY, default_atlas(), batch, replace(truth, rt={"rt_path_gain_db": gain}))


# --- the store


def test_a_store_gives_back_what_it_was_given(reports, tmp_path):
    write_reports(reports, tmp_path)
    xr.testing.assert_identical(load_reports(tmp_path), reports)


def test_no_reports_make_a_store_too(tmp_path):
    nothing = empty_reports(CITY)
    ReportSchema.validate(nothing)
    write_reports(nothing, tmp_path)
    xr.testing.assert_identical(load_reports(tmp_path), nothing)


def test_the_chosen_variables_are_read(reports, tmp_path):
    write_reports(reports, tmp_path)
    chosen = ("rsrp_code", "rt_path_gain_db", "x_m")
    read = load_reports(tmp_path, chosen)
    xr.testing.assert_identical(read, reports[list(chosen)])
    with pytest.raises(StoreError, match="no colour"):
        load_reports(tmp_path, ("rsrp_code", "colour"))
    part = typed(open_reports(tmp_path, chosen).isel(report=slice(5, 9)).load())
    xr.testing.assert_identical(part, reports[list(chosen)].isel(report=slice(5, 9)))


def test_the_same_reports_give_the_same_bytes(reports, tmp_path):
    stored = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_reports(reports, tmp_path / name)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        stored.append({str(p.relative_to(tmp_path / name)): p.read_bytes() for p in files})
    assert stored[0] == stored[1]


def test_a_corrupt_chunk_names_its_store(reports, tmp_path):
    write_reports(reports, tmp_path)
    (tmp_path / "reports.zarr" / "rsrp_code" / "c" / "0" / "0").write_bytes(b"none")
    with pytest.raises(StoreError, match=r"reports\.zarr"):
        load_reports(tmp_path)
    load_reports(tmp_path, ("x_m",))


def test_every_variable_says_what_it_is(reports):
    for name, variable in reports.data_vars.items():
        assert variable.attrs["long_name"]
        assert variable.attrs["units"]
        whole = not np.issubdtype(variable.dtype, np.floating)
        assert ("missing_code" in variable.attrs) == whole, name
    assert reports.attrs["crs"] == CITY.crs_code
    assert reports.attrs["seed"] == CITY.seed


# --- user-made data sets


def minimal(reports):
    return xr.Dataset({name: (reports[name].dims, reports[name].values) for name in NEEDED})


def test_a_data_set_of_levels_alone_is_completed(reports):
    completed = complete(minimal(reports))
    ReportSchema.validate(completed)
    assert set(completed.data_vars) == set(VARIABLES)
    flags = present_flags(completed)
    assert flags["rsrp"].any()
    assert not any(there.any() for feature, there in flags.items() if feature != "rsrp")
    assert np.isnan(completed.x_m).all()


def test_completing_changes_nothing_that_is_complete(reports):
    xr.testing.assert_identical(complete(reports), reports)
    shuffled = reports[sorted(reports.data_vars)]
    shuffled["present"] = shuffled.present * 0
    xr.testing.assert_identical(complete(shuffled), reports)


def test_what_cannot_be_completed_is_refused(reports):
    with pytest.raises(ReportError, match="without rsrp_code"):
        complete(minimal(reports).drop_vars("rsrp_code"))
    with pytest.raises(ReportError, match="unknown variables colour"):
        complete(minimal(reports).assign(colour=reports.cqi))
    with pytest.raises(ReportError, match="cqi has dims"):
        complete(minimal(reports).assign(cqi=reports.rsrp_code))
    with pytest.raises(ReportError, match="cqi has values"):
        complete(minimal(reports).assign(cqi=reports.cqi.astype(float) + 0.5))
    with pytest.raises(ReportError, match="cqi has values"):
        complete(minimal(reports).assign(cqi=reports.cqi.astype(int) + 300))


def test_present_is_a_cf_bit_mask(reports):
    masks = reports.present.attrs["flag_masks"]
    assert masks == [1 << bit for bit in range(len(FEATURES))]
    assert reports.present.attrs["flag_meanings"].split() == list(FEATURES) == list(FLAGS)
    flags = present_flags(reports)
    np.testing.assert_array_equal(flags["sinr"], reports.sinr_code != -1)
    np.testing.assert_array_equal(flags["ta_offset"], reports.ta_offset_ns != INT16_MISSING)
    np.testing.assert_array_equal(flags["beams"], reports.beam_index[:, 0] != -1)
    serving_only = sum(m for m, f in zip(masks, FEATURES, strict=True) if flags[f].ndim == 1)
    assert not (reports.present[:, 1:] & serving_only).any()


def test_minus_one_is_a_value_of_the_wide_fields(reports):
    full = np.flatnonzero(reports.scenario == FULL)
    reports.ta_offset_ns[full] = -1
    completed = complete(reports)
    ReportSchema.validate(completed)
    assert present_flags(completed)["ta_offset"][full].all()
    assert missing_code("ta_offset") == INT16_MISSING


# --- each rule of the contract fails on a data set that breaks it alone


def first(mask):
    return int(np.flatnonzero(mask)[0])


def slots(reports):
    return (reports.sector_id.values > 0).sum(axis=1)


def no_serving(reports):
    row = first(slots(reports) == 1)
    for name in ("sector_id", "rsrp_code", "rsrq_code", "sinr_code", *RAY_TRACED):
        reports[name][row, 0] = VARIABLES[name].missing


def gap(reports):
    row = first(slots(reports) > 3)
    for name in ("sector_id", "rsrp_code", "rsrq_code", "sinr_code", *RAY_TRACED):
        reports[name][row, 2] = VARIABLES[name].missing
    reports.rsrp_code[row, 3:] = -1


def value_in_an_empty_slot(reports):
    row = first((slots(reports) < 8) & (reports.scenario == FULL))
    reports.rsrq_code[row, 7] = 60


def truth_in_an_empty_slot(reports):
    reports.rt_path_gain_db[first(slots(reports) < 8), 7] = -100.0


def sector_twice(reports):
    row = first(slots(reports) > 1)
    reports.sector_id[row, 1] = reports.sector_id[row, 0]


def rising_neighbours(reports):
    row = first(slots(reports) > 2)
    reports.rsrp_code[row, 2] = reports.rsrp_code[row, 1] + 1


def beams(reports):
    return (reports.beam_index.values >= 0).sum(axis=1)


def beam_twice(reports):
    row = first(beams(reports) > 1)
    reports.beam_index[row, 1] = reports.beam_index[row, 0]


def beam_without_code(reports):
    row = first(beams(reports) == 1)
    reports.beam_code[row, 0] = -1


def code_without_beam(reports):
    row = first(beams(reports) == 1)
    reports.beam_code[row, 1] = 3


def beams_out_of_order(reports):
    row = first(beams(reports) > 2)
    reports.beam_code[row, 1], reports.beam_code[row, 2] = 9, 4


def beam_after_none(reports):
    row = first(beams(reports) == 1)
    reports.beam_index[row, 2], reports.beam_code[row, 2] = 60, 5


def differential_too_large(reports):
    row = first(beams(reports) == 2)
    reports.beam_code[row, 1] = 16


def wrong_flag(reports):
    reports.present[4, 0] = reports.present[4, 0] ^ FLAGS["cqi"]


def beyond_the_scenario(reports):
    row = first(reports.scenario == scenario_code("nr_rsrp_only"))
    reports.ta_code[row] = 3


def sinr_of_an_lte_terminal(reports):
    row = first(reports.scenario == scenario_code("lte_legacy"))
    reports.sinr_code[row, 0] = 40


def five_lte_neighbours(reports):
    row = first((slots(reports) > 5) & (reports.scenario == scenario_code("nr_rsrp_only")))
    reports.scenario[reports.track == reports.track[row]] = scenario_code("lte_legacy")


def track_apart(reports):
    end = reports.sizes["report"] - 1
    reports.track[end], reports.time_s[end] = int(reports.track[0]), 0.0
    for name in ("mobility", "scenario"):
        reports[name][end] = int(reports[name][0])
    for name in set(MEASURED) - set(NEEDED) - {"selected"}:
        reports[name][end] = VARIABLES[name].missing
    reports.sector_id[end, 1:], reports.rsrp_code[end, 1:] = 0, -1
    for name in RAY_TRACED:
        reports[name][end, 1:] = np.nan


def later(reports):
    return first(reports.time_s > 0)


def late_start(reports):
    row = later(reports) - 1
    reports.time_s[row] = reports.time_s[row + 1] / 2


def standstill(reports):
    row = later(reports)
    reports.time_s[row] = reports.time_s[row - 1]


def mobility_changes(reports):
    row = later(reports)
    reports.mobility[row] = (reports.mobility[row] + 1) % 3


def scenario_changes(reports):
    row = first((reports.time_s > 0) & (reports.scenario == scenario_code("nr_rsrp_only")))
    reports.scenario[row] = FULL


def half_a_place(reports):
    reports.y_m[2] = np.nan


def negative_track(reports):
    reports.track[reports.track == reports.track[0]] = -1


BROKEN = {
    "slot 0 names": no_serving,
    "filled after an empty one": gap,
    "an empty slot has no value": value_in_an_empty_slot,
    "an empty slot has no value ": truth_in_an_empty_slot,
    "a sector at most once": sector_twice,
    "falling RSRP": rising_neighbours,
    "a beam at most once": beam_twice,
    "together": beam_without_code,
    "together ": code_without_beam,
    "strongest beam is the first": beams_out_of_order,
    "strongest beam is the first ": beam_after_none,
    "strongest beam is the first  ": differential_too_large,
    "agrees with the codes": wrong_flag,
    "scenario lacks": beyond_the_scenario,
    "scenario lacks ": sinr_of_an_lte_terminal,
    "scenario lacks  ": five_lte_neighbours,
    "stand together": track_apart,
    "start at 0 and rise": late_start,
    "start at 0 and rise ": standstill,
    "one kind of mobility": mobility_changes,
    "one scenario": scenario_changes,
    "unknown together": half_a_place,
    "has a track and a time": negative_track,
}


def failures(reports, schema=ReportSchema):
    try:
        schema.validate(reports, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        return [str(error) for error in errors.schema_errors]
    return []


@pytest.mark.parametrize(
    ("rule", "breaks"), BROKEN.items(), ids=lambda v: getattr(v, "__name__", "")
)
def test_each_rule_finds_what_breaks_it(reports, rule, breaks):
    assert failures(reports) == []
    breaks(reports)
    if breaks is not wrong_flag:
        reports = complete(reports)
    found = failures(reports)
    assert len(found) == 1
    assert rule.strip() in found[0]


@pytest.mark.parametrize("name", [n for n in VARIABLES if n != "present"])
@pytest.mark.parametrize("side", [-1, 1])
def test_each_range_has_two_ends(reports, name, side):
    """A value just outside fails (as far as the type holds one), and the ends themselves pass."""
    variable = VARIABLES[name]
    end = variable.lowest if side < 0 else variable.highest
    whole = not np.issubdtype(variable.dtype, np.floating)
    outside = end + side if whole else np.nextafter(variable.dtype(end), side * np.inf)
    if outside == variable.missing:
        outside += side
    contract = px.DatasetSchema({name: ReportSchema.data_vars[name]})
    values = np.full_like(reports[name].values, 0 if name == "time_s" else variable.missing)
    values.flat[0] = end
    contract.validate(reports[[name]].copy(data={name: values}))
    if whole and not np.iinfo(variable.dtype).min <= outside <= np.iinfo(variable.dtype).max:
        return
    values.flat[0] = outside
    with pytest.raises(pandera.errors.SchemaError, match=f"{name} is from"):
        contract.validate(reports[[name]].copy(data={name: values}))


@pytest.mark.parametrize("name", list(VARIABLES))
def test_no_variable_may_be_left_out_or_of_another_type(reports, name):
    assert any(name in text for text in failures(reports.drop_vars(name)))
    with np.errstate(over="ignore"):
        changed = reports.assign({name: reports[name].astype(np.float16)})
    assert any("got float16" in text for text in failures(changed))


def test_the_set_s_own_rules(reports):
    whole = reports.assign(split=("report", np.zeros(reports.sizes["report"], np.int8)))
    assert failures(whole, MeasurementSetSchema) == []
    split = whole.copy(deep=True)
    split["split"][later(split)] = 1
    assert any("one split" in text for text in failures(split, MeasurementSetSchema))
    nowhere = whole.copy(deep=True)
    for name in ("x_m", "y_m"):
        nowhere[name][nowhere.track == 0] = np.nan
    assert any("known place" in text for text in failures(nowhere, MeasurementSetSchema))
    nowhere["split"][nowhere.track == 0] = -1
    assert failures(nowhere, MeasurementSetSchema) == []
    beyond = whole.copy(deep=True)
    beyond["split"][:] = 4
    assert any("split" in text for text in failures(beyond, MeasurementSetSchema))
