"""Budgets of networks with singularities planted in random combinations, in float64."""

import functools
import importlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from landscape.degeneracy import (
    blocks,
    check_directions,
    degeneracy_budget,
    hidden_layers,
    null_directions,
)
from landscape.errors import InputError, ResourceError
from landscape.models import MLP, ResNet

# Of each architecture. LANDSCAPE_PLANTED=70, as CI has it, takes more than 200 in all.
PLANTED = int(os.environ.get("LANDSCAPE_PLANTED", "20"))
RUNS = settings(
    max_examples=PLANTED,
    deadline=None,
    derandomize=True,
    # A failing network is told by its seed; to look for a smaller one takes minutes.
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
COUNTED = ("elimination", "constant input", "overlap", "dependence")


def plant(planted, draw, skip):
    """A generic network with planted singularities, and what they add by cause."""
    seed = draw(st.integers(0, 10**6))
    depth, n = planted.depth, planted.width
    kinds = [
        [draw(st.sampled_from(["none", "none", "dead", "twin", "near"])) for _ in range(2)]
        for _ in range(depth)
    ]
    distance = draw(st.sampled_from([1e-3, 1e-5, 1e-7]))
    constants = draw(st.integers(0, 2))
    # In a layer of some networks unit 0 is the sum of 2 and 3, all three always active.
    summed = draw(st.sampled_from([None, None, *range(depth)]))
    if summed is not None:
        kinds[summed][0] = "sum"
    if summed == 0:
        # Three linear units of two inputs would be dependent whatever their weights.
        constants = min(constants, 1)
    always = [] if summed is None else [(summed, unit) for unit in (0, 2, 3)]
    for attempt in range(400):
        model, params, state, (x, y) = planted.network(skip, seed + 10**6 * attempt)
        x[:, :constants] = np.array([0.0, 1.5])[:constants]
        dead = set()
        changed = params
        # Units 0 and 1 are dead, or twins of 2 and 3; unit 4 is left alone.
        rng = np.random.default_rng(seed + attempt)
        for layer, pair in enumerate(kinds):
            if summed is not None and layer > summed:
                # What it reads has moved: as many examples are to be active as before.
                z = planted.responses(model, changed, state, x)[0][layer]
                moved = {
                    unit: planted.column(changed, layer, unit)[1]
                    + 1e-3
                    - np.quantile(z[:, unit], 1 - rng.uniform(0.4, 0.7))
                    for unit in range(n)
                }
                changed = planted.changed(changed, layer, bias=moved)
            if layer == summed:
                z = planted.responses(model, changed, state, x)[0][layer]
                (w, b), (u, c) = (planted.column(changed, layer, unit) for unit in (2, 3))
                b, c = b + 1 - z[:, 2].min(), c + 1 - z[:, 3].min()
                changed = planted.changed(
                    changed, layer, columns={0: w + u}, bias={0: b + c, 2: b, 3: c}
                )
                always = [(layer, unit) for unit in (0, 2, 3)]
                # A twin of one that is always active is so too.
                always += [(layer, 1)] * (pair[1] in ("twin", "near"))
            for unit, kind in enumerate(pair):
                w, b = planted.column(changed, layer, unit + 2)
                if kind == "dead":
                    changed = planted.changed(changed, layer, bias={unit: -1e3})
                    dead.add((layer, unit))
                elif kind in ("twin", "near"):
                    shift = distance if kind == "near" else 0.0
                    changed = planted.changed(
                        changed, layer, columns={unit: w + shift}, bias={unit: b}
                    )
        found = planted.responses(model, changed, state, x)[0]
        if planted.is_generic(found, dead, always) and moves_enough(model, changed, state, x):
            break
    else:
        return None
    expected = dict.fromkeys((*COUNTED, "rescaling", "softmax"), 0)
    for layer in range(depth + 1):
        width = planted.classes if layer == depth else n
        fan_in = planted.features if layer == 0 else n
        gone = 0 if layer == depth else kinds[layer].count("dead")
        live = width - gone
        expected["elimination"] += gone * (fan_in + 1)
        if layer == 0:
            expected["constant input"] += live * constants
            continue
        # Under a skip a unit is zero, or a twin, if it has been so in every layer before.
        reach = layer if skip != "none" else 1
        for unit in range(2):
            before = {kinds[l][unit] for l in range(layer - reach, layer)}
            if skip != "hyper" or layer <= 2:
                expected["elimination"] += live * (before == {"dead"})
                expected["overlap"] += live * (before == {"twin"})
        if reach == 1 or layer == 1:
            expected["dependence"] += live * (layer - 1 == summed)
    last = kinds[-1]
    if skip == "none":
        expected["rescaling"] = depth * n - len(dead)
        expected["softmax"] = n + 1 - sum(last.count(kind) for kind in ("dead", "twin", "sum"))
    else:
        expected["rescaling"] = n if skip == "identity" else 1
        expected["softmax"] = n + 1
    expected["always active"] = summed is not None
    expected["near"] = any("near" in pair for pair in kinds)
    few = draw(st.sampled_from([None, None, 25]))
    expected["seed"] = seed + 10**6 * attempt
    return model, changed, state, (x, y), expected, few


def moves_enough(model, params, state, x):
    """Whether every unit moves the logits on no example or on several.

    On a single one all that it reads is constant.
    """
    marked = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full_like(leaf, path[-1].key == "bias"), params
    )
    rows = np.asarray(dense_jacobian(model)(params, state, x))
    moved = (rows[..., ravel_pytree(marked)[0] > 0] != 0).any(1).sum(0)
    return not np.any((moved > 0) & (moved < 8))


def counted_without(planted, skip, seed, known):
    """Counts of the generic network that another was planted in; each is counted once."""
    if (skip, seed) not in known:
        model, params, state, batch = planted.network(skip, seed)
        known[skip, seed] = degeneracy_budget(model, params, batch, state=state).counts
    return known[skip, seed]


@functools.cache
def dense_jacobian(model):
    """Centered rows, (N, C, P): JAX's own, of the model as it is."""

    def rows(params, state, x):
        flat, unflatten = ravel_pytree(params)
        found = jax.jacobian(lambda v: model.apply({"params": unflatten(v), **state}, x))(flat)
        return found - found.mean(1, keepdims=True)

    return jax.jit(rows)


def exact_nullity(model, params, state, x):
    """By numpy's singular values."""
    rows = np.asarray(dense_jacobian(model)(params, state, x))
    return rows.shape[-1] - np.linalg.matrix_rank(rows.reshape(-1, rows.shape[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("skip", ["none", "identity", "hyper"])
def test_planted_causes_are_counted_and_add_up(skip, planted, x64):
    seen, remainders, known = [], [], {}

    @RUNS
    @given(st.data())
    def check(data):
        made = plant(planted, data.draw, skip)
        if made is None:
            return
        model, params, state, batch, expected, few = made
        budget = degeneracy_budget(model, params, batch, state=state)
        counts = budget.counts
        assert sum(counts.values()) == budget.total == exact_nullity(model, params, state, batch[0])
        if few is not None:
            part = (batch[0][:few], batch[1][:few])
            fewer = degeneracy_budget(model, params, part, state=state, reference=batch)
            assert fewer.total == exact_nullity(model, params, state, part[0])
            assert fewer.counts == {**counts, "few data": fewer.total - budget.total}
        assert counts["unexplained"] >= 0
        assert all(count >= 0 for count in counts.values())
        # Nothing across layers was counted that the singular values do not know of, unless some
        # nearly vanish: then it is told.
        assert not budget.left_out or (expected["near"] and "not counted" in repr(budget))
        without = counted_without(planted, skip, expected["seed"], known)
        for cause in ("elimination", "constant input", "overlap"):
            assert counts[cause] - without[cause] == expected[cause], (cause, counts)
        # Three linear units may depend on others besides, by chance.
        assert counts["dependence"] - without["dependence"] >= expected["dependence"]
        if skip == "none" and not expected["always active"]:
            assert counts["rescaling"] == expected["rescaling"]
            assert counts["softmax"] == expected["softmax"]
        if not expected["always active"]:
            remainders.append(counts["unexplained"])
        seen.append(sum(expected[cause] > 0 for cause in COUNTED))

    check()
    # Several of them with more than one cause.
    assert len(seen) > 0.85 * PLANTED
    assert sum(count > 1 for count in seen) > PLANTED / 7
    # Without skips nothing is left, with them a little in some, if no unit is always active.
    allowed = {"none": 0, "identity": 0.1, "hyper": 0.25}[skip]
    assert np.mean(np.array(remainders) > 0) <= allowed


@pytest.mark.parametrize("skip", ["none", "identity", "hyper"])
@pytest.mark.parametrize("distance", [1e-5, 1e-8, 1e-10, 1e-12, 1e-15])
def test_near_duplicates_count_as_what_their_singular_values_are(skip, distance, planted, x64):
    model, params, state, (x, y) = planted.network(skip, 1)
    for layer in range(planted.depth):
        w, b = planted.column(params, layer, 2)
        near = w + distance * np.cos(np.arange(len(w)))
        params = planted.changed(params, layer, columns={0: near}, bias={0: b})
    budget = degeneracy_budget(model, params, (x, y), state=state)
    counts = budget.counts
    assert sum(counts.values()) == budget.total == exact_nullity(model, params, state, x)
    assert min(counts.values()) >= 0
    assert budget.explained <= 1
    if distance >= 1e-8:
        assert counts["overlap"] == counts["unexplained"] == 0
    elif distance <= 1e-15:
        # The twins of the first layers, for every unit that reads them.
        assert counts["overlap"] > planted.width
        assert counts["unexplained"] == 0
    else:
        # Somewhere between: what is missed is told.
        told = ["nearly hold within single layers", "no gap at the cut"]
        missed = counts["unexplained"] > 0
        assert not missed or any(text in note for text in told for note in budget.notes)


@pytest.mark.parametrize("skip", ["none", "identity", "hyper"])
def test_a_unit_that_is_active_on_few_examples_makes_no_layer_dependent(skip, planted, x64):
    model, params, state, (x, y) = planted.network(skip, 4)
    before = degeneracy_budget(model, params, (x, y), state=state).counts
    z = planted.responses(model, params, state, x)[0][1][:, 2]
    _, bias = planted.column(params, 1, 2)
    # Active on three.
    raised = bias - np.sort(z)[-4:-2].mean()
    changed = planted.changed(params, 1, bias={2: raised})
    budget = degeneracy_budget(model, changed, (x, y), state=state)
    counts = budget.counts
    assert counts["conditional"] >= planted.width + 1 - 3 > before["conditional"]
    for cause in ("elimination", "constant input", "overlap", "dependence"):
        assert counts[cause] == before[cause], cause
    assert any("unit 2 read is dependent on the examples" in told for told in budget.findings)


def test_what_moves_all_logits_alike_is_eliminated(planted, x64):
    model, params, state, batch = planted.network("none", 3)
    before = degeneracy_budget(model, params, batch, state=state).counts
    for row in (0.1, 0.3):
        # The mean of three such numbers may differ from them by rounding.
        rows = {1: np.full(planted.classes, row)}
        changed = planted.changed(params, planted.depth - 1, rows=rows)
        budget = degeneracy_budget(model, changed, batch, state=state)
        incoming = planted.width + 1
        assert budget.counts["elimination"] == before["elimination"] + incoming
        assert budget.counts["dependence"] == before["dependence"]
        told = f"hidden/{planted.depth - 2}: unit 1 without effect on the logits"
        assert any(line.startswith(told) for line in budget.findings)


@pytest.mark.parametrize("skip", ["identity", "hyper", np.eye(5)[::-1].copy()])
def test_skips_that_reach_no_layer_are_none(skip, planted, x64):
    model = MLP(1, planted.width, planted.classes, skip=skip)
    plain, params, state, (x, y) = planted.network("none", 2, depth=1)
    fixed = {k: v for k, v in model.init(jax.random.key(0), jnp.asarray(x)).items() if k == "fixed"}
    with_skip = degeneracy_budget(model, params, (x, y), state=fixed)
    assert with_skip.counts == degeneracy_budget(plain, params, (x, y), state=state).counts


def test_the_second_layer_of_a_hyper_residual_network_has_the_identity(planted, x64):
    model, params, state, batch = planted.network("hyper", 0, depth=2)
    residual = MLP(2, planted.width, planted.classes, skip="identity")
    found = degeneracy_budget(model, params, batch, state=state)
    assert found.counts == degeneracy_budget(residual, params, batch).counts
    assert found.counts["rescaling"] == planted.width


@pytest.mark.slow
def test_few_data_are_told_apart(planted, x64):
    model, params, state, (x, y) = planted.network("none", 5)
    whole = degeneracy_budget(model, params, (x, y), state=state)
    few = degeneracy_budget(model, params, (x[:12], y[:12]), state=state, reference=(x, y))
    assert few.counts["few data"] == few.total - whole.total > 0
    assert few.total == exact_nullity(model, params, state, x[:12]) >= 103 - 12 * 2
    assert {**few.counts, "few data": 0} == whole.counts
    assert few.num_examples == 12
    assert any("N (C − 1) = 24 equations for 103" in note for note in few.notes)
    with pytest.raises(InputError, match="3 of its 12 examples are not in it"):
        degeneracy_budget(model, params, (x[:12], y[:12]), state=state, reference=(x[3:], y[3:]))


@pytest.mark.slow
@pytest.mark.parametrize("skip", ["none", "identity"])
def test_directions_are_null_for_the_real_matrices(skip, planted, x64):
    always = ((1, 0), (1, 1), (2, 4))
    for seed in range(400):
        model, params, state, (x, y) = planted.network(skip, seed, always)
        params = planted.changed(params, 0, bias={2: -1e3})
        w, b = planted.column(params, 0, 3)
        params = planted.changed(params, 0, columns={4: w}, bias={4: b})
        x[:, 0] = 2.0
        before = planted.responses(model, params, state, x)[0]
        if planted.is_generic(before, {(0, 2)}, always):
            break
    else:
        raise AssertionError("no generic network found")
    families = null_directions(model, params, (x, y), state=state)
    causes = {family.cause: len(family) for family in families}
    assert causes["elimination"] == planted.features + 1 + planted.width
    assert causes["overlap"] == planted.width
    assert causes["constant input"] == planted.width - 1
    assert causes["translation"] == 3
    assert (causes.get("mixing", 0) >= 2) == (skip == "none")
    assert causes["softmax"] == planted.width + 1
    for family in families:
        dense = family.vectors.toarray()
        np.testing.assert_allclose(np.linalg.norm(dense, axis=1), 1)
        if family.cause != "compensation":
            assert np.linalg.matrix_rank(dense) == len(family)
    checks = check_directions(families, model, params, (x, y), state=state)
    for check in checks:
        assert check.gauss_newton_norms.max() < 1e-9 * check.scale
        # Away from zero residuals only dead units and the softmax are null for the Hessian.
        if check.cause == "softmax":
            assert check.hessian_norms.max() < 1e-9 * check.scale
        else:
            assert check.hessian_norms.max() < 30 * check.gradient_norm
        if check.cause == "rescaling" and skip == "none":
            assert check.hessian_norms.max() > 1e-3 * check.gradient_norm
    assert "‖Gd‖ ≤" in repr(checks[0])
    # Budget and directions agree on what belongs to one unit.
    budget = degeneracy_budget(model, params, (x, y), state=state)
    for cause in ("elimination", "overlap", "constant input"):
        assert budget.counts[cause] == causes[cause]


@pytest.mark.slow
@pytest.mark.parametrize("skip", ["none", "identity"])
@pytest.mark.parametrize("sketched", [False, True])
def test_a_structural_budget_bounds_the_exact_one(skip, sketched, planted, x64, monkeypatch):
    always = ((1, 0), (1, 1), (2, 4))
    model, params, state, (x, y) = planted.network(skip, 11, always)
    params = planted.changed(params, 0, bias={2: -1e3})
    exact = degeneracy_budget(model, params, (x, y), state=state)
    assert exact.method == "exact"
    assert exact.upper == exact.total
    if sketched:
        # Fewer rows than N·C, so that the images are mixed.
        monkeypatch.setattr(blocks, "_MORE", 1)
    rtol = 1e-3
    found = degeneracy_budget(
        model, params, (x, y), state=state, method="structural", rtol=rtol, num_probes=1
    )
    assert found.method == "structural"
    for cause in (*COUNTED, "rescaling", "translation", "mixing", "softmax"):
        assert found.counts[cause] == exact.counts[cause], cause
    assert found.counts["unexplained"] == found.counts["few data"] == 0
    assert found.total == sum(found.counts.values()) <= exact.total <= found.upper
    values = exact.rank.singular_values
    assert found.upper >= exact.num_parameters - (values > rtol * values[0]).sum()
    assert found.explained == found.total / found.upper
    assert f"at least {found.total} of" in repr(found)
    few = degeneracy_budget(model, params, (x[:20], y[:20]), state=state, method="structural")
    assert few.total >= exact.num_parameters - 20 * 2
    assert few.counts["few data"] > 0


def test_images_tell_what_row_spaces_tell(x64):
    rng = np.random.default_rng(0)
    rows, effects = rng.normal(size=(40, 1, 5)), rng.normal(size=(40, 3, 1, 4))
    rows[:, :, 3] = 2 * rows[:, :, 1]
    effects[..., 2] = 0
    block = blocks.make_block(blocks.LayerRows(rows, effects), 1e-12, 1.0)
    # Five weights of a target that moves nothing, and the twin once for each of the others.
    assert block.nullity == 5 + 3
    vectors = rng.normal(size=(12, 20))
    # In the kernel: a weight of target 2; twice the one twin less the other.
    vectors[0], vectors[1] = 0, 0
    vectors[0, 2], vectors[1, [4, 12]] = 1, [2, -1]
    vectors[2] = vectors[3] + vectors[0]
    for number in (6, 12, 500):
        action = blocks.make_action(rows[:, 0], effects[:, :, 0], number)
        images, spaces = action.coordinates(vectors), block.coordinates(vectors)
        assert np.abs(images[:2]).max() < 1e-14
        np.testing.assert_allclose(images[2], images[3], atol=1e-14)
        for count in (4, 6) if number == 6 else (4, 6, 12):
            assert np.linalg.matrix_rank(images[:count]) == np.linalg.matrix_rank(spaces[:count])


def test_a_budget_can_be_read(planted, x64):
    model, params, state, batch = planted.network("none", 3)
    params = planted.changed(params, 1, bias={0: -1e3, 3: -1e3})
    w, b = planted.column(params, 2, 1)
    near = {4: w + 1e-2 * np.linalg.norm(w) * np.eye(len(w))[2]}
    params = planted.changed(params, 2, columns=near, bias={4: b})
    cosine = np.append(w, b) @ np.append(near[4], b)
    cosine /= np.linalg.norm(np.append(w, b)) * np.linalg.norm(np.append(near[4], b))
    budget = degeneracy_budget(model, params, batch, state=state, eps=1e-6)
    assert f"hidden/1: 1 and 4 nearly overlap, cosine {cosine:.4f}" in repr(budget)
    text, page = repr(budget), budget._repr_html_()
    assert f"{budget.total} of 103 directions are null" in text
    assert "hidden/0: units 0, 3 never active" in text
    assert "elimination" in text
    assert "hidden/0: units 0, 3 never active" in page
    still = planted.changed(params, 0, bias={1: 50.0})
    x = batch[0].copy()
    x[:, 2] = 1.5
    told = degeneracy_budget(model, still, (x, batch[1]), state=state).findings
    assert told[0] == "inputs: number 2 constant"
    assert any(
        line.startswith("input: ") and "unit 1 active on all examples" in line for line in told
    )
    assert "unexplained" not in page
    assert float(budget.nearly_flat.estimate) > 0.1
    assert "of the Hessian's eigenvalues" in text
    assert sum(share for _, _, share in budget.rows()) == pytest.approx(budget.total / 103)
    assert sum(budget.by_layer["elimination"]) == budget.counts["elimination"]
    assert len(budget.layer_names) == len(budget.by_layer["elimination"]) == planted.depth + 1


@pytest.mark.slow
@pytest.mark.parametrize("skip", ["identity"])
def test_channels_of_a_convolutional_network(skip, x64):
    model = ResNet(8, 3, width=2, skip=skip)
    x = jax.random.normal(jax.random.key(0), (40, 8, 8, 1), jnp.float64)
    variables = jax.jit(model.init)(jax.random.key(1), x)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    # A channel that no block passes on.
    norm = params["block_1"]["first_norm"]
    norm["bias"] = norm["bias"].at[1].set(-1e3)
    batch = (x, jnp.zeros(40, int))
    budget = degeneracy_budget(model, params, batch, state=state)
    counts = budget.counts
    assert sum(counts.values()) == budget.total == exact_nullity(model, params, state, x)
    assert all(count >= 0 for count in counts.values())
    # Its own filter of 3·3·2 weights, and 3·3 weights of each of the four filters that read it.
    assert counts["elimination"] == 18 + 4 * 9
    assert "block_1/first: unit 1 without effect on the logits" in budget.findings


def test_refusals(planted):
    model = MLP(2, 3, 2)
    x = jnp.ones((4, 5))
    params = model.init(jax.random.key(0), x)["params"]
    with pytest.raises(InputError, match="batch must be"):
        degeneracy_budget(model, params, x)
    with pytest.raises(InputError, match=r"as many labels; got shapes \(4, 5\) and \(3,\)"):
        degeneracy_budget(model, params, (x, jnp.zeros(3, int)))
    one = MLP(2, 3, 1)
    single = one.init(jax.random.key(0), x)["params"]
    with pytest.raises(InputError, match=r"softmax over C ≥ 2 classes.*gives \(4, 1\)"):
        degeneracy_budget(one, single, (x, jnp.zeros(4, int)))
    with pytest.raises(InputError, match="a Linen or NNX module, or a function of parameters"):
        degeneracy_budget("MLP", params, (x, jnp.zeros(4, int)))
    assert len(hidden_layers(model, params)) == 2
    batch = (x, jnp.zeros(4, int))
    with pytest.raises(InputError, match="method must be one of auto, exact, structural"):
        degeneracy_budget(model, params, batch, method="guess")
    with pytest.raises(InputError, match="compared by exact totals"):
        degeneracy_budget(model, params, batch, method="structural", reference=batch)


def test_examples_that_do_not_fit_are_refused_with_how_many_would(planted, monkeypatch):
    model, params, state, batch = planted.network("none", 1)
    monkeypatch.setattr("landscape.degeneracy.effects.host_memory", lambda: 50_000)
    with pytest.raises(ResourceError, match=r"on 120 examples takes .*: take at most \d+ examples"):
        degeneracy_budget(model, params, batch, state=state)


def test_directions_of_some_causes_and_within_memory(planted, monkeypatch):
    model, params, state, batch = planted.network("none", 1)
    params = planted.changed(params, 0, bias={2: -1e3})
    whole = {f.cause: f for f in null_directions(model, params, batch, state=state)}
    wanted = ["softmax", "elimination"]
    some = null_directions(model, params, batch, state=state, causes=wanted)
    assert [family.cause for family in some] == ["elimination", "softmax"]
    for family in some:
        assert family.labels == whole[family.cause].labels
        assert (family.vectors != whole[family.cause].vectors).nnz == 0
    with pytest.raises(InputError, match=r"causes must be of elimination, .*; got symmetry"):
        null_directions(model, params, batch, state=state, causes=["symmetry"])
    module = importlib.import_module("landscape.degeneracy.null_directions")
    monkeypatch.setattr(module, "host_memory", lambda: 5_000)
    with pytest.raises(ResourceError, match=r"take more than 50% .*\(\w+, .*\): name fewer causes"):
        null_directions(model, params, batch, state=state)


def test_what_is_null_for_want_of_equations_is_of_few_data(planted, x64):
    model, params, state, (x, y) = planted.network("none", 5)
    budget = degeneracy_budget(model, params, (x[:20], y[:20]), state=state)
    counts = budget.counts
    assert sum(counts.values()) == budget.total == exact_nullity(model, params, state, x[:20])
    # 103 parameters and 40 equations.
    assert budget.total >= 63
    assert counts["unexplained"] <= budget.total - 63
    assert counts["few data"] > 0
    assert (
        f"{budget.explained - counts['few data'] / budget.total:.1%} one besides few data"
        in str(budget)
    )


def test_the_cut_can_be_chosen_and_what_is_nearly_null_is_told(planted):
    model, params, state, batch = planted.network("none", 11)
    params = planted.changed(params, 0, bias={2: -1e3})
    usual = degeneracy_budget(model, params, batch, state=state)
    assert usual.nearly_null == 0
    assert "nearly null" not in repr(usual)
    relative = usual.rank.singular_values / usual.rank.singular_values[0]
    rtol = float(np.sqrt(relative[usual.rank.rank - 3] * relative[usual.rank.rank - 4]))
    coarse = degeneracy_budget(model, params, batch, state=state, rtol=rtol)
    assert coarse.rank.rtol == rtol
    assert coarse.total == usual.total + 3 == sum(coarse.counts.values())
    assert coarse.nearly_null == 3
    assert "3 of them are nearly null" in repr(coarse)
    assert coarse.to_xarray().attrs["nearly_null"] == 3
