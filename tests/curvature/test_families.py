import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import DiagonalOperator, ggn, hessian, noise_floor, stack
from landscape.errors import InputError
from landscape.models import MLP
from landscape.spectra import degenerate_fraction, dense_spectrum, lanczos_run, slq
from landscape.spectra.lanczos import advance_compiled
from landscape.training import softmax_cross_entropy

MODEL = MLP(3, 4, 3, activation="tanh", skip="identity")
LOSS = softmax_cross_entropy(MODEL)
X = jax.random.normal(jax.random.key(0), (20, 5))
BATCH = (X, jnp.arange(20) % 3)


def networks(count=3, chunk_size=None, dtype=jnp.float32):
    for seed in range(count):
        inputs = jnp.asarray(X, dtype)
        params = MODEL.init(jax.random.key(seed), inputs)["params"]
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        yield hessian(LOSS, params, (inputs, BATCH[1]), state={}, chunk_size=chunk_size)


@pytest.mark.slow
@pytest.mark.parametrize(("chunk_size", "num_probes"), [(None, 2), (7, 1)])
def test_a_family_has_the_spectra_of_its_members(chunk_size, num_probes, x64):
    members = list(networks(chunk_size=chunk_size, dtype=jnp.float64))
    family = stack(members)
    options = {"num_steps": 20, "num_probes": num_probes, "reorthogonalize": "full"}
    together = slq(family, jax.random.key(1), **options)
    assert together.alphas.shape == (3, num_probes, 20)
    for index, member in enumerate(members):
        alone = slq(member, jax.random.key(1), **options)
        np.testing.assert_allclose(together.alphas[index], alone.alphas, rtol=1e-8, atol=1e-10)
        np.testing.assert_array_equal(together.probe_norms[index], alone.probe_norms)
        fraction = degenerate_fraction(together, 0.01)
        expected = degenerate_fraction(alone, 0.01)
        assert fraction.estimate[index] == pytest.approx(float(expected.estimate), abs=1e-9)
        assert fraction.upper[index] == pytest.approx(float(expected.upper), abs=1e-6)


def test_what_members_share_is_kept_once():
    family = stack(list(networks()))
    assert sum(leaf.shape == X.shape for leaf in family.shared) == 1
    sizes = [leaf.size for leaf in family.stacked]
    assert sum(sizes) == 3 * family.shape[0]


def test_members_come_back_as_they_were():
    members = list(networks())
    family = stack(members)
    v = jax.random.normal(jax.random.key(3), (family.shape[0],))
    for member, found in zip(members, family.members(), strict=True):
        np.testing.assert_array_equal(member.matvec(v), found.matvec(v))


@pytest.mark.slow
def test_noise_floors_and_dense_spectra_of_a_family_are_those_of_its_members():
    members = list(networks(2))
    family = stack(members)
    floors = noise_floor(family, jax.random.key(0))
    # Rounding, of sums that are taken in another order.
    apart = [noise_floor(member, jax.random.key(0)) for member in members]
    assert (np.abs(np.log(floors / np.array(apart))) < np.log(4)).all()
    spectrum = dense_spectrum(family)
    assert spectrum.nodes.shape == (2, family.shape[0])
    np.testing.assert_array_equal(spectrum.nodes[1], dense_spectrum(members[1]).nodes)
    assert spectrum.num_matvecs == 2 * family.shape[0]
    assert slq(family, jax.random.key(0), num_steps=3, noise_floor=floors).noise_floor.shape == (2,)


def test_another_family_of_the_same_shapes_does_not_recompile():
    def run(seed):
        members = [DiagonalOperator(jnp.arange(29.0) + seed + i) for i in range(2)]
        return lanczos_run(stack(members), jax.random.key(0), capacity=8).advance(8)

    run(0)
    before = advance_compiled._cache_size()
    run(5)
    assert advance_compiled._cache_size() == before


@pytest.mark.slow
def test_families_add_up_with_penalties_and_scale(x64):
    members = list(networks(2, dtype=jnp.float64))
    decay = DiagonalOperator(jnp.full(members[0].shape[0], 0.5))
    options = {"num_steps": 10, "reorthogonalize": "none"}
    together = slq(3 * (stack(members) + decay), jax.random.key(1), **options)
    alone = slq(3 * (members[1] + decay), jax.random.key(1), **options)
    np.testing.assert_allclose(together.alphas[1], alone.alphas, rtol=1e-8)


def test_scaled_members_that_recompute_are_not_stored():
    members = [2.0 * op for op in networks(2, chunk_size=5)]
    assert stack(members).recomputes
    assert (stack(members) + members[0]).recomputes
    assert not stack([2.0 * op for op in networks(2)]).recomputes


@pytest.mark.slow
def test_vmap_over_checkpoints_needs_no_family(x64):
    members = list(networks(3, dtype=jnp.float64))
    v = jax.random.normal(jax.random.key(3), (members[0].shape[0],))
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(m.params for m in members))
    batch = members[0].batch
    images = jax.vmap(lambda p: hessian(LOSS, p, batch, state={}).matvec(v))(params)
    for member, image in zip(members, images, strict=True):
        np.testing.assert_allclose(member.matvec(v), image, rtol=1e-9, atol=1e-12)


def test_operators_of_different_kinds_are_not_stacked():
    first, second = networks(2)
    with pytest.raises(InputError, match="at least one"):
        stack([])
    cases = (
        (
            hessian(LOSS, second.params, second.batch, state={}, chunk_size=5),
            "chunk_size: None and 5",
        ),
        (
            hessian(LOSS, second.params, (X[:9], BATCH[1][:9]), state={}),
            r"batch/0: \(.*\) .* \(9, ",
        ),
        (
            hessian(lambda *a: 2 * LOSS(*a), second.params, BATCH, state={}),
            "loss: .* and <lambda> as of",
        ),
        (ggn(lambda p, b: b[0] @ p, lambda z, b: (z**2).mean(), jnp.ones(5), BATCH), "Newton"),
    )
    for other, told in cases:
        with pytest.raises(InputError, match=f"of one kind.*{told}"):
            stack([first, other])
    with pytest.raises(InputError, match="cannot be stacked"):
        stack([stack([first])])
    with pytest.raises(InputError, match=r"members\(\)"):
        stack([first]).matvec(jnp.ones(first.shape[0]))


def test_types_and_shapes_of_a_family_are_looked_up_once(monkeypatch):
    family = stack([DiagonalOperator(jnp.arange(3.0) + shift) for shift in range(4)])
    assert jax.jit(lambda x: x * family.shape[0])(1) == 3
    monkeypatch.setattr(type(family), "member", None)
    assert (family.shape, family.dtype, family.batch_shape) == ((3, 3), np.float32, (4,))
    again = jax.tree.map(lambda leaf: leaf, family)
    with pytest.raises(TypeError):
        print(again.shape)


def test_a_family_has_no_single_matrix():
    # Its rows were once dealt out among the members.
    family = stack([DiagonalOperator(jnp.arange(4.0)), DiagonalOperator(10 + jnp.arange(4.0))])
    for op in (family, 2 * family, family + DiagonalOperator(jnp.ones(4))):
        for size in (2, 128):
            with pytest.raises(InputError, match="no single product"):
                op.to_dense(block_size=size)


def test_noise_floors_of_scaled_and_summed_families_are_those_of_their_members():
    family = stack([DiagonalOperator(jnp.arange(4.0)), DiagonalOperator(10 * jnp.arange(4.0))])
    key = jax.random.key(0)
    for op in (2 * family, family + DiagonalOperator(jnp.ones(4))):
        floors = noise_floor(op, key)
        assert floors.shape == (2,)
        assert floors.tolist() == [noise_floor(member, key) for member in op.members()]


def test_members_are_asked_for_by_their_numbers():
    family = stack([DiagonalOperator(jnp.arange(4.0)), DiagonalOperator(jnp.ones(4))])
    assert family.member(-1).diagonal.tolist() == [1.0] * 4
    with pytest.raises(InputError, match="no member number 2"):
        family.member(2)
    with pytest.raises(InputError, match="no members"):
        list(DiagonalOperator(jnp.ones(4)).members())


@pytest.mark.parametrize("what", [[1, 2], DiagonalOperator(jnp.ones(3))])
def test_what_is_no_list_of_operators_is_not_stacked(what, unchecked):
    with pytest.raises(InputError, match="list of operators"):
        stack(what)


def test_a_floor_for_each_member_or_one_for_all(unchecked):
    family = stack([DiagonalOperator(jnp.arange(4.0)), DiagonalOperator(jnp.ones(4))])
    assert slq(family, jax.random.key(0), num_steps=2, noise_floor=np.ones(2)).noise_floor[0] == 1
    for wrong in (np.ones(3), "x"):
        with pytest.raises(InputError, match="noise_floor must be a number"):
            slq(family, jax.random.key(0), num_steps=2, noise_floor=wrong)
