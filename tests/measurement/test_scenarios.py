"""Scenarios: which features each reports, in arrays over scenario codes."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.errors import ReportError
from ueloc_core.measurement.scenarios import (
    FEATURES,
    SCENARIO,
    SCENARIOS,
    UNKNOWN_SCENARIO,
    features_of,
    max_neighbours,
    reported,
    scenario,
    scenario_code,
)
from ueloc_core.measurement.schemas import SLOTS
from ueloc_core.measurement.settings import MeasurementConfig, ScenarioName


def test_a_city_file_and_the_codes_know_the_same_scenarios():
    assert get_args(ScenarioName) == SCENARIOS == tuple(SCENARIO)
    assert [scenario_code(name) for name in SCENARIOS] == list(range(len(SCENARIOS)))
    assert UNKNOWN_SCENARIO not in range(len(SCENARIOS))
    assert MeasurementConfig(scenarios=dict.fromkeys(SCENARIOS, 1.0)).scenarios.keys() == set(
        SCENARIOS
    )


def test_each_scenario_adds_what_it_is_named_after():
    features = {name: set(features_of(name)) for name in SCENARIOS}
    assert features["nr_rsrp_only"] == {"rsrp"}
    assert features["lte_legacy"] == {"rsrp", "rsrq", "cqi", "ta"}
    assert features["nr_rsrp_ta"] - features["lte_legacy"] == {"sinr", "ri"}
    assert features["nr_beams"] - features["nr_rsrp_ta"] == {"beams"}
    assert features["full"] == set(FEATURES)
    for smaller, larger in (
        ("nr_rsrp_only", "lte_legacy"),
        ("lte_legacy", "nr_rsrp_ta"),
        ("nr_rsrp_ta", "nr_beams"),
        ("nr_beams", "full"),
    ):
        assert features[smaller] < features[larger]


def test_every_scenario_reports_the_level_that_defines_its_serving_sector():
    assert reported("rsrp").all()


@given(
    codes=st.lists(st.integers(0, len(SCENARIOS) - 1), min_size=1),
    feature=st.sampled_from(FEATURES),
)
def test_an_array_over_codes_says_what_the_names_say(codes, feature):
    there = reported(feature)[np.array(codes)]
    assert there.dtype == bool
    assert there.tolist() == [feature in features_of(SCENARIOS[c]) for c in codes]


def test_neighbours_fit_the_slots_and_lte_reports_fewer():
    most = max_neighbours()
    assert most.max() == SLOTS - 1
    assert (most < SLOTS - 1).tolist() == [name.startswith("lte") for name in SCENARIOS]


def test_features_keep_one_order():
    order = {feature: place for place, feature in enumerate(FEATURES)}
    assert len(order) == len(FEATURES)
    for one in SCENARIO.values():
        places = [order[f] for f in one.features]
        assert places == sorted(set(places))


@pytest.mark.parametrize("call", [features_of, scenario, scenario_code])
def test_an_unknown_scenario_is_refused_with_the_names_there_are(call):
    with pytest.raises(ReportError, match="no scenario 'lte'.*nr_rsrp_only"):
        call("lte")


def test_an_unknown_feature_is_refused():
    with pytest.raises(ReportError, match="'cell' is no feature.*throughput"):
        reported("cell")
