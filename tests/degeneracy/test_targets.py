"""Null directions of a target's incoming weights, by reason, on rows made by hand."""

import numpy as np
import pytest

from landscape.degeneracy.targets import (
    count_targets,
    leading_columns,
    matrix_rank,
    target_directions,
)


def rows(seed=0, examples=30, sources=6):
    return np.random.default_rng(seed).normal(size=(examples, sources))


def count(x, moves=None, *, bias=True, is_input=False):
    moves = np.ones((len(x), 1), bool) if moves is None else moves
    found = count_targets(x, moves, bias=bias, is_input=is_input)
    names = ("elimination", "constant", "overlap", "dependence")
    assert found.few[0] == found.conditional[0] == 0
    assert (found.total == x.shape[1] + bias - found.rank).all()
    return tuple(int(getattr(found, name)[0]) for name in names)


def test_generic_sources_have_no_null_direction():
    assert count(rows()) == count(rows(), bias=False) == (0, 0, 0, 0)


def test_each_reason_by_itself():
    x = rows()
    x[:, 1] = 0
    assert count(x) == (1, 0, 0, 0)
    assert count(x, is_input=True) == (0, 1, 0, 0)
    x = rows()
    x[:, 2] = 3.5
    assert count(x) == (0, 1, 0, 0)
    # Without a bias a constant is a source as another.
    assert count(x, bias=False) == (0, 0, 0, 0)
    x = rows()
    x[:, 3], x[:, 4] = -2 * x[:, 0], 0.1 * x[:, 0]
    assert count(x) == (0, 0, 2, 0)
    x = rows()
    x[:, 5] = x[:, 0] + x[:, 1] + 1
    assert count(x) == (0, 0, 0, 1)
    # The constant is in the relation: without a bias there is none.
    assert count(x, bias=False) == (0, 0, 0, 0)


def test_reasons_add_up_to_the_nullity():
    x = rows(sources=9)
    x[:, 0] = 0
    x[:, 1] = 2.0
    x[:, 3] = 5 * x[:, 2]
    x[:, 5] = x[:, 2] - x[:, 4]
    assert count(x) == (1, 1, 1, 1)


def test_only_examples_that_a_target_moves_count():
    x = rows()
    moves = np.zeros((30, 3), bool)
    moves[:4, 1] = True
    moves[:, 2] = True
    x[:4, 5] = 0
    found = count_targets(x, moves, bias=True, is_input=False)
    assert found.silent.tolist() == [True, False, False]
    # A silent target, four generic rows of seven columns, all rows.
    assert found.total.tolist() == [7, 3, 0]
    assert found.elimination.tolist() == [7, 0, 0]
    # What holds on its own examples alone says nothing of the sources.
    assert found.conditional.tolist() == [0, 3, 0]
    assert not found.dependence.any()


def test_what_holds_for_all_targets_keeps_its_name_for_one_that_moves_few_examples():
    x = rows()
    x[:, 1], x[:, 3] = 0, 2 * x[:, 0]
    x[:, 5] = x[:, 0] + x[:, 2] + 1
    moves = np.ones((30, 2), bool)
    moves[3:, 1] = False
    weights = np.where(moves, 0.5, 0.0)
    for cut, where in ((None, moves), (1e-12, weights)):
        found = count_targets(x, where, bias=True, is_input=False, cut=cut)
        for field in ("elimination", "overlap", "dependence"):
            assert getattr(found, field).tolist() == [1, 1], field
        assert found.conditional.tolist() == [0, 1]
        assert found.total.tolist() == [3, 4]


def test_more_sources_than_examples_are_for_want_of_data():
    x = rows(examples=4, sources=9)
    x[:, 2] = 0
    found = count_targets(x, np.ones((4, 3), bool), bias=True, is_input=False)
    assert found.few.tolist() == [5, 5, 5]
    assert found.elimination.tolist() == [1, 1, 1]
    assert not found.dependence.any()
    # A relation among the few that there are is one.
    x[:, 3] = x[:, 4] + x[:, 5]
    x[3] = x[2]
    found = count_targets(x, np.ones((4, 1), bool), bias=True, is_input=False)
    assert (found.few[0], found.dependence[0], found.rank[0]) == (5, 1, 3)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (12, 12)])
def test_ranks_are_those_of_every_subset(shape):
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape)
    moves = rng.random((shape[0], 5)) < 0.4
    found = count_targets(x, moves, bias=True, is_input=False)
    for target in range(5):
        part = np.c_[x, np.ones(len(x))][moves[:, target]]
        assert found.rank[target] == np.linalg.matrix_rank(part)


def test_columns_are_the_same_up_to_their_length_and_sign():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(50, 4))
    columns = np.c_[x, -3 * x[:, 1], 1e-6 * x[:, 1], x[:, 0] + 1e-6 * x[:, 2]]
    assert leading_columns(columns).tolist() == [0, 1, 2, 3, 1, 1, 6]
    assert set(leading_columns(np.repeat(x[:, :1], 20, 1))) == {0}
    assert len(leading_columns(np.zeros((5, 0)))) == 0


def test_directions_are_null_independent_and_as_many_as_counted():
    x = rows(sources=12)
    x[:, 0] = 0
    x[:, 1], x[:, 2] = 2.0, -1.0
    x[:, 4], x[:, 5] = 5 * x[:, 3], -x[:, 3]
    x[:, 7] = x[:, 3] - x[:, 6] + 2
    for bias in (True, False):
        for moves in (np.ones(30, bool), np.arange(30) < 7, np.zeros(30, bool)):
            made = list(target_directions(x, moves, bias=bias, is_input=False))
            counts = count_targets(x, moves[:, None], bias=bias, is_input=False)
            for name, field in (
                ("elimination", "elimination"),
                ("constant input", "constant"),
                ("overlap", "overlap"),
                ("few data", "few"),
                ("dependence", "dependence"),
                ("conditional", "conditional"),
            ):
                found = sum(reason == name for reason, _ in made)
                assert found == getattr(counts, field)[0], (name, bias, moves.sum())
            vectors = np.array([vector for _, vector in made])
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
            assert np.linalg.matrix_rank(vectors) == len(made) == counts.total[0]
            augmented = np.c_[x, np.ones(30)] if bias else x
            np.testing.assert_allclose(augmented[moves] @ vectors.T, 0, atol=1e-13)
    several = np.stack([np.arange(30) < 5, np.ones(30, bool)], 1)
    made = list(
        target_directions(x, several[:, 0], bias=True, is_input=False, of_any=several[:, 1])
    )
    counts = count_targets(x, several, bias=True, is_input=False)
    reasons = [reason for reason, _ in made]
    assert reasons.count("conditional") == counts.conditional[0] > 0
    assert reasons.count("dependence") == counts.dependence[0] == 1
    vectors = np.array([vector for _, vector in made])
    assert np.linalg.matrix_rank(vectors) == len(made) == counts.total[0]
    np.testing.assert_allclose(np.c_[x, np.ones(30)][:5] @ vectors.T, 0, atol=1e-13)


def test_a_rank_near_the_short_way():
    rng = np.random.default_rng(3)
    left = np.linalg.qr(rng.normal(size=(30, 4)))[0]
    right = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    for smallest in (1.0, 1e-4, 1e-5, 1e-8, 1e-12, 1e-16, 0.0):
        matrix = left * np.array([1, 1, 1, smallest]) @ right
        assert matrix_rank(matrix) == np.linalg.matrix_rank(matrix)
