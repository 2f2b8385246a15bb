"""The theorems: what is null at a singularity, with skips, and at the ghosts.

Counts come from the real matrices in float64: the Gauss–Newton matrix, and the Hessian with the
network's own softmax as targets, which is the same matrix. Layers are numbered from 0; the one with
a singularity, layer 1, receives a skip in a residual network.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import ggn, hessian
from landscape.degeneracy import degeneracy_budget
from landscape.training.losses import logits_of

pytestmark = pytest.mark.slow

LAYER = 1


def soft_loss(outputs, batch):
    return -jnp.mean(jnp.sum(batch[1] * jax.nn.log_softmax(outputs), -1))


@functools.cache
def functions(model):
    """Logits of a batch, and the loss; one pair for a model, so that nothing is compiled twice."""
    logits = logits_of(model)

    def outputs(params, state, batch):
        return logits(params, state, batch[0])

    return outputs, lambda params, state, batch: soft_loss(outputs(params, state, batch), batch)


def nullities(model, params, state, x):
    """Of the Gauss–Newton matrix and of the Hessian with the network's own targets."""
    outputs, loss = functions(model)
    params, state, x = jax.tree.map(jnp.asarray, (params, state, x))
    batch = (x, jax.nn.softmax(logits_of(model)(params, state, x)))
    found = []
    for op in (
        ggn(outputs, soft_loss, params, batch, state=state, check=False),
        hessian(loss, params, batch, state=state, check=False),
    ):
        values = np.abs(np.linalg.eigvalsh(op.to_dense()))
        values = np.sort(values / values.max())
        nullity = int((values < 1e-12).sum())
        # A gap between what is rounding and what is not.
        assert values[nullity] > 30 * values[nullity - 1]
        found.append(nullity)
    assert found[0] == found[1]
    return found[0]


def compared(planted, skip, plant, always=(), dead=()):
    """Nullity with the singularity less that without, and both budgets."""
    for seed in range(200):
        model, params, state, (x, y) = planted.network(skip, seed, always)
        changed = plant(params, x, planted.responses(model, params, state, x))
        before = planted.responses(model, params, state, x)[0]
        after = planted.responses(model, changed, state, x)[0]
        if planted.is_generic(before, (), always) and planted.is_generic(after, dead, always):
            break
    else:
        raise AssertionError("no generic network found")
    values = [nullities(model, p, state, x) for p in (params, changed)]
    budgets = [degeneracy_budget(model, p, (x, y), state=state) for p in (params, changed)]
    assert [b.total for b in budgets] == values
    return values[1] - values[0], *budgets


@pytest.fixture
def n(planted):
    return planted.width


def dead_unit(planted):
    return lambda params, x, _: planted.changed(params, LAYER, bias={2: -1e3})


def unread_unit(planted):
    return lambda params, x, _: planted.changed(params, LAYER, rows={2: 0.0})


def twins(planted):
    def plant(params, x, _):
        w, b = planted.column(params, LAYER, 3)
        return planted.changed(params, LAYER, columns={1: w}, bias={1: b})

    return plant


def dependent(planted):
    def plant(params, x, _):
        (w, b), (u, c) = (planted.column(params, LAYER, unit) for unit in (0, 1))
        return planted.changed(params, LAYER, columns={2: w + u}, bias={2: b + c})

    return plant


TRIPLE = tuple((LAYER, unit) for unit in (0, 1, 2))


def test_a_generic_plain_network_has_its_symmetries_alone(planted, n, x64):
    nothing, base, _ = compared(planted, "none", lambda params, x, _: params)
    assert nothing == 0
    assert base.total == planted.depth * n + n + 1
    assert base.counts["rescaling"] == planted.depth * n
    assert base.counts["softmax"] == n + 1
    assert base.counts["unexplained"] == 0


def test_elimination_frees_what_the_unit_reads_and_what_reads_it(planted, n, x64):
    added, base, budget = compared(planted, "none", dead_unit(planted), dead={(LAYER, 2)})
    # Its n + 1 incoming and n outgoing weights; its rescaling is one of them.
    assert added == 2 * n
    assert budget.counts["elimination"] == 2 * n + 1
    assert budget.counts["rescaling"] == base.counts["rescaling"] - 1
    assert "hidden/0: unit 2 never active" in budget.findings
    # With a skip the unit still carries its input: what reads it matters.
    with_skip, _, budget = compared(planted, "identity", dead_unit(planted), dead={(LAYER, 2)})
    assert with_skip == budget.counts["elimination"] == n + 1


def test_a_unit_that_nobody_reads(planted, n, x64):
    added, _, budget = compared(planted, "none", unread_unit(planted))
    assert added == n
    assert budget.counts["elimination"] == n + 1
    assert "hidden/0: unit 2 without effect on the logits" in budget.findings
    # With a skip it is still carried on. Two of its branches, with nobody between that reads it,
    # can trade by chance what both compute: that is another cause.
    with_skip, base, budget = compared(planted, "identity", unread_unit(planted))
    assert budget.counts["elimination"] == 0
    assert with_skip == budget.counts["compensation"] - base.counts["compensation"]


def test_overlap_frees_the_difference_of_outgoing_weights(planted, n, x64):
    added, _, budget = compared(planted, "none", twins(planted))
    assert added == budget.counts["overlap"] == n
    assert "hidden/0: 1 and 3 overlap" in budget.findings
    with_skip, _, budget = compared(planted, "identity", twins(planted))
    assert with_skip == budget.counts["overlap"] == 0


def test_dependence_frees_one_combination_for_each_target(planted, n, x64):
    added, base, budget = compared(planted, "none", dependent(planted), always=TRIPLE)
    assert budget.counts["dependence"] == n
    # Of the nine ways to mix three linear units, three are among those.
    assert base.counts["mixing"] == 6
    assert budget.counts["mixing"] == 3
    assert added == n - 3
    with_skip, _, budget = compared(planted, "identity", dependent(planted), always=TRIPLE)
    assert with_skip == budget.counts["dependence"] == 0


def test_skips_break_nothing_in_the_first_layer(planted, n, x64):
    def plant(params, x, _):
        return planted.changed(params, 0, bias={2: -1e3})

    for skip in ("none", "identity", "hyper"):
        added, _, budget = compared(planted, skip, plant, dead={(0, 2)})
        # What it reads is free everywhere, and what reads it through the next kernel.
        assert budget.counts["elimination"] == planted.features + 1 + n
        assert added >= planted.features + n


def test_at_the_ghost_of_elimination_a_unit_is_a_second_bias(planted, n, x64):
    def ghost(params, x, found):
        inputs = found[1][LAYER - 1]
        w = -np.eye(n)[2]
        return planted.changed(params, LAYER, columns={2: w}, bias={2: inputs[:, 2].max() + 0.5})

    added, base, budget = compared(planted, "identity", ghost, always=((LAYER, 2),))
    assert budget.counts["constant input"] - base.counts["constant input"] == n
    assert added >= n


def test_at_the_ghost_of_dependence_a_unit_is_the_sum_of_others(planted, n, x64):
    def ghost(params, x, found):
        (w, b), (u, c) = (planted.column(params, LAYER, unit) for unit in (0, 1))
        carried = np.eye(n)[0] + np.eye(n)[1] - np.eye(n)[2]
        # As far up as keeps the unit active.
        branch = found[0][LAYER][:, :2].sum(1) + found[1][LAYER - 1] @ carried
        more = max(0.0, 0.1 - branch.min())
        return planted.changed(params, LAYER, columns={2: w + u + carried}, bias={2: b + c + more})

    added, base, budget = compared(planted, "identity", ghost, always=TRIPLE)
    assert budget.counts["dependence"] - base.counts["dependence"] == n
    assert added >= n - 3


def test_at_the_ghost_of_overlap_two_units_are_one(planted, n, x64):
    def ghost(params, x, _):
        w, b = planted.column(params, LAYER, 3)
        return planted.changed(
            params, LAYER, columns={1: w + np.eye(n)[3] - np.eye(n)[1]}, bias={1: b}
        )

    always = ((LAYER, 1), (LAYER, 3))
    added, base, budget = compared(planted, "identity", ghost, always=always)
    assert budget.counts["overlap"] - base.counts["overlap"] == n
    assert added >= n - 1
