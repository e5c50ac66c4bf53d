"""Features that are taken away are gone, and nothing else is."""

import numpy as np
import pytest
from made_up_world import default_atlas, draw_dataset

from ueloc_core.errors import ReportError
from ueloc_core.measurement.dataset import to_batch
from ueloc_core.measurement.reduced_reports import FEATURE_VARIABLES, reduced
from ueloc_core.measurement.report_variables import FLAGS, MEASURED, VARIABLES, feature_values
from ueloc_core.measurement.reports import INT16_MISSING, MISSING
from ueloc_core.measurement.scenarios import FEATURES
from ueloc_core.measurement.schemas import ReportSchema


@pytest.fixture(scope="module")
def reports():
    return draw_dataset(default_atlas(), 40, seed=3, scenarios={"full": 1.0})


def test_every_measured_variable_belongs_to_one_feature():
    named = [name for names in FEATURE_VARIABLES.values() for name in names]
    assert tuple(FEATURE_VARIABLES) == FEATURES
    assert sorted(named) == sorted(set(MEASURED) - {"sector_id", "selected"})


@pytest.mark.parametrize("features", [("rsrp",), ("rsrp", "ta", "aoa", "beams"), FEATURES[:-1]])
def test_the_others_are_missing_everywhere(reports, features):
    found = reduced(reports, features)
    for feature in FEATURES:
        _, there = feature_values(found, feature)
        _, before = feature_values(reports, feature)
        assert before.any()  # there was something to take away
        np.testing.assert_array_equal(there, before & (feature in features))
        has_bit = (found.present.values & FLAGS[feature]) != 0
        assert has_bit.any() == (feature in features)
    ReportSchema.validate(found)


def test_what_is_kept_is_as_it_was(reports):
    found = reduced(reports, ("rsrp", "ta"))
    gone = {v for f, names in FEATURE_VARIABLES.items() if f not in ("rsrp", "ta") for v in names}
    for name in set(VARIABLES) - gone - {"present"}:
        np.testing.assert_array_equal(found[name].values, reports[name].values, err_msg=name)
        assert found[name].dtype == reports[name].dtype
    assert {name for name in gone if found[name].equals(reports[name])} == set()
    assert reduced(reports, FEATURES) is reports


def test_a_network_is_told_nothing_of_them(reports):
    batch = to_batch(reduced(reports, ("rsrp",)), default_atlas())
    for name in ("rsrq", "sinr", "cqi", "ri", "ta", "aoa", "throughput", "bler", "beam"):
        assert (getattr(batch, name) == MISSING).all(), name
    assert (batch.beam_level == MISSING).all()
    assert (batch.ul_sinr == INT16_MISSING).all()
    assert (batch.ta_offset == INT16_MISSING).all()
    whole = to_batch(reports, default_atlas())
    for name in ("sector", "rsrp", "scenario", "selected"):
        assert (getattr(batch, name) == getattr(whole, name)).all(), name


def test_what_makes_no_sense_is_refused(reports):
    with pytest.raises(ReportError, match="rsrp would be taken away"):
        reduced(reports, ("ta",))
    with pytest.raises(ReportError, match="sonar: no features.*Use some of rsrp"):
        reduced(reports, ("rsrp", "sonar"))
