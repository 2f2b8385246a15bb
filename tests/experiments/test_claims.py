from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from landscape.errors import InputError
from landscape.experiments.claims import LEVEL, Claim, decide, holm

# Thousandths are exact in the independent implementation below, and leave room between levels.
THOUSANDTHS = st.lists(st.integers(0, 1000), min_size=1, max_size=8)


def claim(differences, name="a > b", obstacle=""):
    """A claim whose paired differences are the given ones."""
    differences = np.asarray(differences, float)
    return Claim(name, "a is larger", differences, np.zeros_like(differences), obstacle)


def around(mean, spread=0.1, count=6):
    """Differences with the given mean and no randomness."""
    return mean + spread * np.linspace(-1, 1, count)


def rejected_by_steps(p_values, level):
    """Holm's procedure as he wrote it: step down, stop at the first that is not significant."""
    rejected = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - step):
            break
        rejected.add(index)
    return rejected


def test_holm_agrees_with_numbers_worked_out_by_hand():
    # Sorted: 0.005·4 = 0.02, 0.01·3 = 0.03, 0.03·2 = 0.06, then 0.04·1 raised to 0.06.
    np.testing.assert_allclose(
        holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02], rtol=1e-12
    )


def test_holm_never_exceeds_one_and_leaves_a_single_value_alone():
    np.testing.assert_array_equal(holm(np.array([0.7, 0.9, 0.8])), [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(holm(np.array([0.2])), [0.2])
    assert holm(np.array([])).shape == (0,)


def test_holm_gives_tied_values_one_adjusted_value():
    np.testing.assert_allclose(holm(np.array([0.02, 0.01, 0.02])), [0.04, 0.03, 0.04])


@settings(derandomize=True, deadline=None)
@given(THOUSANDTHS, st.integers(0, 1000))
def test_holm_rejects_what_the_step_down_procedure_rejects(thousandths, level):
    # Half a thousandth of a level never equals a multiple of a thousandth: no ties to break.
    level = Fraction(2 * level + 1, 2000)
    exact = [Fraction(value, 1000) for value in thousandths]
    adjusted = holm(np.array([float(p) for p in exact]))
    unlimited = {i for i, p in enumerate(adjusted) if p <= float(level)}
    assert unlimited == (set(range(len(exact))) if level >= 1 else rejected_by_steps(exact, level))


@settings(derandomize=True, deadline=None)
@given(THOUSANDTHS, st.randoms(use_true_random=False))
def test_holm_does_not_depend_on_the_order_and_never_lowers_a_p_value(thousandths, random):
    p_values = np.array(thousandths) / 1000
    order = list(range(len(p_values)))
    random.shuffle(order)
    adjusted = holm(p_values)
    np.testing.assert_array_equal(holm(p_values[order]), adjusted[order])
    assert np.all(adjusted >= p_values)
    assert np.all(adjusted <= 1)


def test_planted_effects_hold_fail_and_stay_undecided():
    verdicts = decide([claim(around(1.0)), claim(around(-1.0)), claim(around(0.01))])
    assert [verdict.status for verdict in verdicts] == ["holds", "fails", "undecided"]
    assert [verdict.effect for verdict in verdicts] == pytest.approx([1.0, -1.0, 0.01])


def test_an_effect_that_is_significant_alone_is_undecided_among_many():
    borderline = claim(around(0.1, spread=0.1))
    alone = decide([borderline])[0]
    among = decide([borderline, *[claim(around(0.0))] * 9])[0]
    assert alone.p_value < LEVEL < among.p_value
    assert (alone.status, among.status) == ("holds", "undecided")
    assert among.p_value == pytest.approx(10 * alone.p_value)


@pytest.mark.parametrize("seed", range(5))
def test_effect_interval_and_p_value_are_those_of_scipy(seed):
    rng = np.random.default_rng(seed)
    larger, smaller = rng.normal(0.3, 1, 7), rng.normal(0, 1, 7)
    verdict = decide([Claim("a > b", "", larger, smaller)])[0]
    expected = stats.ttest_rel(larger, smaller)
    interval = expected.confidence_interval(0.95)
    assert verdict.effect == pytest.approx((larger - smaller).mean())
    assert verdict.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (verdict.lower, verdict.upper) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_one_verdict_is_a_statement_about_its_interval():
    # With one claim Holm changes nothing: the interval excludes zero exactly where p < 0.05.
    for effect in np.linspace(-0.2, 0.2, 41):
        verdict = decide([claim(around(effect))])[0]
        sides = {True: "holds", False: "undecided"}[verdict.lower > 0]
        assert verdict.status == ("fails" if verdict.upper < 0 else sides)


def test_pairs_with_a_missing_side_are_dropped():
    whole = around(0.2)
    larger = np.concatenate([whole, [np.nan, 5.0, np.inf]])
    smaller = np.concatenate([np.zeros_like(whole), [0.0, np.nan, 0.0]])
    with_gaps = decide([Claim("a > b", "", larger, smaller)])[0]
    without = decide([claim(whole)])[0]
    assert with_gaps.num_pairs == without.num_pairs == len(whole)
    assert (with_gaps.effect, with_gaps.p_value) == (without.effect, without.p_value)


@pytest.mark.parametrize(
    ("differences", "pairs"),
    [([], 0), ([np.nan, np.nan], 0), ([np.nan, 0.5], 1), ([0.5, np.nan, 0.5], 2)],
)
def test_fewer_than_three_pairs_give_no_verdict(differences, pairs):
    verdict = decide([claim(differences)])[0]
    assert (verdict.status, verdict.num_pairs) == ("no verdict", pairs)
    assert np.isnan(verdict.p_value)
    assert np.isnan([verdict.lower, verdict.upper]).all() == (pairs < 2)
    assert np.isnan(verdict.effect) if pairs == 0 else verdict.effect == 0.5


def test_an_obstacle_gives_no_verdict_but_still_shows_what_was_measured():
    verdict = decide([claim(around(1.0), obstacle="too few data")])[0]
    assert verdict.status == "no verdict"
    assert np.isnan(verdict.p_value)
    assert verdict.effect == pytest.approx(1.0)
    assert verdict.lower < 1.0 < verdict.upper


def test_claims_without_a_verdict_do_not_count_in_holms_correction():
    borderline = claim(around(0.1, spread=0.1))
    untestable = [claim(around(1.0), obstacle="too few data"), claim([1.0]), claim([np.nan] * 3)]
    assert decide([*untestable, borderline])[-1].p_value == decide([borderline])[0].p_value


def test_verdicts_come_in_the_order_of_the_claims():
    claims = [claim(around(effect), name=str(effect)) for effect in (0.0, 1.0, 0.5)]
    assert [verdict.claim for verdict in decide(claims)] == claims


def test_equal_differences_are_certain_unless_they_are_zero():
    up, down, none = decide([claim([0.25] * 3), claim([-0.25] * 3), claim([0.0] * 3)])
    assert (up.status, up.p_value, up.lower, up.upper) == ("holds", 0.0, 0.25, 0.25)
    assert (down.status, down.p_value) == ("fails", 0.0)
    assert (none.status, none.p_value) == ("undecided", 1.0)


def test_no_claims_give_no_verdicts():
    assert decide([]) == []


def test_sides_of_different_shapes_are_refused_by_name():
    with pytest.raises(InputError, match=r"claim 'a > b' pairs arrays of shapes \(2,\) and \(3,\)"):
        decide([Claim("a > b", "", np.zeros(2), np.zeros(3))])


def equal(differences, margin):
    differences = np.asarray(differences, float)
    return Claim("a ≈ b", "", differences, np.zeros_like(differences), margin=margin)


def test_equality_holds_within_the_margin_fails_outside_and_is_undecided_across_it():
    for effect, status in ((0.2, "holds"), (-0.2, "holds"), (3.0, "fails"), (-3.0, "fails")):
        assert decide([equal(around(effect), 1.0)])[0].status == status
    assert decide([equal(around(1.0), 1.0)])[0].status == "undecided"


@pytest.mark.parametrize("effect", np.linspace(-1.6, 1.6, 33))
def test_alone_it_is_a_statement_about_its_interval(effect):
    verdict = decide([equal(around(effect), 1.0)])[0]
    inside = verdict.lower > -1 and verdict.upper < 1
    outside = verdict.lower > 1 or verdict.upper < -1
    assert verdict.status == ("holds" if inside else "fails" if outside else "undecided")


def test_equal_values_are_equal_unless_they_differ_by_just_the_margin():
    inside, outside, border = decide([equal([d] * 3, 0.25) for d in (0.0, 0.5, 0.25)])
    assert (inside.status, outside.status, border.status) == ("holds", "fails", "undecided")


@pytest.mark.parametrize("margin", [0.0, -1.0, np.nan])
def test_a_margin_must_be_positive(margin):
    with pytest.raises(InputError, match="a margin must be positive"):
        decide([equal(around(0.0), margin)])


def test_groups_of_different_networks_are_compared_by_welch():
    rng = np.random.default_rng(0)
    larger, smaller = rng.normal(1.0, 0.5, 10), rng.normal(0.2, 2.0, 14)
    gaps = np.r_[larger, np.nan]
    verdict = decide([Claim("a > b", "", gaps, smaller, paired=False)])[0]
    truth = stats.ttest_ind(larger, smaller, equal_var=False)
    assert verdict.effect == pytest.approx(larger.mean() - smaller.mean())
    assert verdict.p_value == pytest.approx(truth.pvalue)
    interval = truth.confidence_interval()
    assert (verdict.lower, verdict.upper) == pytest.approx((interval.low, interval.high))
    assert (verdict.num_pairs, verdict.counted) == (10, "10 and 14")
    assert decide([Claim("a > b", "", larger, smaller[:10])])[0].counted == "10"


def test_groups_that_are_constant_or_too_small():
    constant = decide([Claim("a > b", "", np.ones(3), np.zeros(4), paired=False)])[0]
    assert (constant.status, constant.p_value) == ("holds", 0.0)
    small = decide([Claim("a > b", "", np.ones(5), np.zeros(2), paired=False)])[0]
    assert (small.status, small.num_pairs) == ("no verdict", 2)


def test_a_median_is_judged_by_signs_whatever_their_sizes():
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(0, 5, 16))
    means, medians = (
        decide([Claim("a > b", "", sizes, np.zeros(16), median=m)])[0] for m in (False, True)
    )
    assert (means.status, medians.status) == ("undecided", "holds")
    assert medians.p_value == pytest.approx(stats.binomtest(16, 16).pvalue)
    assert medians.effect == pytest.approx(np.median(sizes))
    assert decide([Claim("a > b", "", -sizes, np.zeros(16), median=True)])[0].status == "fails"
    mixed = np.where(np.arange(16) % 3 == 0, -sizes, sizes)
    assert decide([Claim("a > b", "", mixed, np.zeros(16), median=True)])[0].status == "undecided"
    alike = decide([Claim("a > b", "", np.ones(9), np.ones(9), median=True)])[0]
    assert (alike.status, alike.p_value) == ("undecided", 1.0)
    with pytest.raises(InputError, match="a median is judged of pairs"):
        decide([Claim("a > b", "", sizes, sizes, median=True, margin=1.0)])


@pytest.mark.parametrize("count", [6, 9, 16, 40])
def test_the_interval_of_a_median_covers_it(count):
    rng = np.random.default_rng(count)
    covered = 0
    for _ in range(500):
        values = rng.exponential(1.0, count)
        verdict = decide([Claim("a > b", "", values, np.zeros(count), median=True)])[0]
        covered += verdict.lower <= np.log(2) <= verdict.upper
    assert covered >= 460
