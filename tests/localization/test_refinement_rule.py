"""When refinement may act: shares counted by hand, and rules that never act on thin evidence."""

import numpy as np
import pytest
import torch

from ueloc_core.errors import ReportError, StoreError
from ueloc_core.localization.refinement_rule import (
    RefinedFixes,
    RefinementOutcome,
    RefinementRule,
    RefinementTrial,
    fit_rule,
)


def fixes(before_m, after_m, gain_nats, spread_m):
    """Fixes on a line east of a terminal at the origin; each is moved."""
    before, after, gain, spread = (
        torch.as_tensor(np.asarray(v, dtype=np.float32))
        for v in (before_m, after_m, gain_nats, spread_m)
    )
    zero = torch.zeros(len(before))
    found = RefinedFixes(
        torch.stack([after, zero], 1), torch.stack([before, zero], 1), zero >= 0, zero, gain, spread
    )
    return found.where(gain > 0)


def trial(*columns, temperature=0.5):
    found = fixes(*columns)
    return RefinementTrial(temperature, found, torch.zeros(len(found), 2))


# -- outcomes -----------------------------------------------------------------------------


def test_shares_by_hand():
    """Of ten fixes five are moved: three helped, one hurt, one moved by half a metre."""
    before = [10.0, 20.0, 30.0, 10.0, 10.0, *[5.0] * 5]
    after = [5.0, 5.0, 3.0, 14.0, 10.5, *[5.0] * 5]
    found = fixes(before, after, [1.0] * 5 + [0.0] * 5, [1.0] * 10).outcome(torch.zeros(10, 2))
    assert found.acted_share == 0.5
    assert found.helped_share == pytest.approx(0.3)
    assert found.worse_share == pytest.approx(0.1)
    assert found.worse_share_acted == pytest.approx(0.2)
    assert found.median_gain == pytest.approx(0.5)
    assert found.mean_before_m == pytest.approx(10.5)
    assert found.mean_after_m == pytest.approx((5 + 5 + 3 + 14 + 10.5 + 25) / 10)


def test_fixes_that_are_not_moved_do_not_change():
    acted = np.array([False, False])
    found = RefinementOutcome.of(acted, np.array([3.0, 4.0]), np.array([0.0, 100.0]))
    assert found.mean_after_m == found.mean_before_m
    assert (found.acted_share, found.worse_share, found.median_gain) == (0, 0, 0)
    assert not found.qualifies


@pytest.mark.parametrize(
    ("fixes_seen", "worse", "may"),
    [(44, 0, False), (45, 0, True), (300, 9, True), (300, 10, False)],
)
def test_the_share_that_gets_worse_is_bounded_with_confidence(fixes_seen, worse, may):
    """Under 5% by the upper end of a one-sided 90% interval: none of 45, nine of 300."""
    before = np.full(fixes_seen, 50.0)
    after = np.where(np.arange(fixes_seen) < worse, 60.0, np.linspace(5.0, 15.0, fixes_seen))
    found = RefinementOutcome.of(np.ones(fixes_seen, dtype=bool), before, after)
    assert found.qualifies is may


def test_a_gain_that_chance_explains_is_none():
    rng = np.random.default_rng(1)
    before = np.full(400, 50.0)
    chance = before - rng.normal(0.0, 0.9, 400)  # none is worse by much
    sure = before - np.abs(rng.normal(5.0, 0.9, 400))
    acted = np.ones(400, dtype=bool)
    assert not RefinementOutcome.of(acted, before, chance).qualifies
    assert RefinementOutcome.of(acted, before, sure).qualifies


# -- rules --------------------------------------------------------------------------------


def test_it_learns_where_refinement_helps():
    """Wide posteriors with a large gain get better, the others worse: the rule tells them apart."""
    rng = np.random.default_rng(2)
    count = 400
    wide = np.arange(count) < 100
    spread = np.where(wide, rng.uniform(60, 90, count), rng.uniform(5, 50, count))
    gain = rng.uniform(0.1, 10, count)
    helps = wide & (gain > 2)
    after = np.where(helps, 8.0, 45.0)
    rule = fit_rule([trial(np.full(count, 40.0), after, gain, spread)])
    assert rule.acts
    assert rule.temperature == 0.5
    moved = fixes(np.full(count, 40.0), after, gain, spread).under(rule)
    assert moved.acted.numpy()[helps].mean() > 0.7
    assert moved.acted.numpy()[~helps].mean() < 0.05
    assert "400 calibration reports" in rule.note


def test_the_better_temperature_is_taken():
    rng = np.random.default_rng(3)
    before, spread, gain = np.full(300, 40.0), rng.uniform(20, 60, 300), np.full(300, 5.0)
    trials = [
        trial(before, np.full(300, after), gain, spread, temperature=t)
        for t, after in ((0.1, 30.0), (0.5, 10.0), (1.0, 20.0))
    ]
    assert fit_rule(trials).temperature == 0.5


@pytest.mark.parametrize(
    ("after_m", "why"),
    [(45.0, "it only hurts"), (39.5, "it gains a percent alone"), (40.0, "nothing changes")],
)
def test_it_never_acts_where_nothing_qualifies(after_m, why):
    count = 300
    spread = np.linspace(10, 50, count)
    rule = fit_rule([trial(np.full(count, 40.0), np.full(count, after_m), np.ones(count), spread)])
    assert not rule.acts, why
    assert "none of" in rule.note
    found = fixes(np.full(count, 40.0), np.full(count, 1.0), np.ones(count), spread).under(rule)
    assert not found.acted.any()
    torch.testing.assert_close(found.point_m, found.unrefined_m)


def test_more_harm_than_five_percent_is_not_bought_by_a_better_mean():
    """Half of the fixes gain 30 m, a tenth lose 10 m, at any spread and gain."""
    rng = np.random.default_rng(4)
    count = 500
    kind = rng.uniform(size=count)
    after = np.where(kind < 0.1, 50.0, np.where(kind < 0.6, 10.0, 40.0))
    rule = fit_rule([trial(np.full(count, 40.0), after, np.full(count, 3.0), np.full(count, 30.0))])
    assert not rule.acts


def test_a_rule_has_to_hold_where_it_was_not_chosen():
    """What helps every other report and hurts the rest is no rule."""
    count = 400
    even = np.arange(count) % 2 == 0
    columns = np.full(count, 5.0), np.linspace(20, 60, count)
    rule = fit_rule([trial(np.full(count, 40.0), np.where(even, 10.0, 44.0), *columns)])
    assert not rule.acts
    assert fit_rule([trial(np.full(count, 40.0), np.full(count, 10.0), *columns)]).acts


def test_unknown_positions_and_no_reports_are_named():
    columns = [np.ones(3)] * 4
    unknown = trial(*columns)
    with pytest.raises(ReportError, match="known positions"):
        fit_rule([RefinementTrial(0.5, unknown.fixes, torch.full((3, 2), torch.nan))])
    with pytest.raises(ReportError, match="known positions"):
        fit_rule([])


def test_a_rule_is_read_as_it_was_written(tmp_path):
    rule = RefinementRule(True, 0.3, 41.5, 2.0, "on 400 calibration reports")
    rule.save(tmp_path)
    assert RefinementRule.load(tmp_path) == rule
    (tmp_path / "refinement.json").write_text('{"acts": true}')
    with pytest.raises(StoreError, match=r"refinement\.json"):
        RefinementRule.load(tmp_path)
    with pytest.raises(StoreError, match=r"refinement\.json"):
        RefinementRule.load(tmp_path / "nowhere")
