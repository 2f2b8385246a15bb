"""One problem from every side: the numbers are those of the routines, and agree with dense ones."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.analysis import analyze
from landscape.analysis import analyze as analyze_function
from landscape.curvature import Problem, hessian
from landscape.data import load
from landscape.degeneracy import degeneracy_budget
from landscape.errors import InputError, StoppedError
from landscape.models import MLP
from landscape.spectra import degenerate_fraction, dense_spectrum, negative_fraction
from landscape.training import softmax_cross_entropy

MODEL = MLP(3, 6, 10)


def classifier(num_images=60, model=MODEL, **options):
    data = load("digits").subset(num_images, seed=0).pooled(4).standardized()
    inputs, labels = data.arrays()
    params = model.init(jax.random.key(0), inputs[:1])["params"]
    # A unit of the second layer that is never active.
    params["hidden"]["bias"] = params["hidden"]["bias"].at[0, 3].set(-1e3)
    given = {"model": model, "name": "digits"} | options
    return Problem(softmax_cross_entropy(model), params, (inputs, labels), {}, **given)


@pytest.fixture(scope="module")
def small():
    return analyze(classifier())


def test_its_numbers_are_those_of_the_dense_hessian(small):
    problem = classifier()
    spectrum = dense_spectrum(problem.hessian(), noise_floor=small.noise_floor)
    values = spectrum.nodes
    assert small.degenerate.estimate == degenerate_fraction(spectrum, 1e-3).estimate
    assert small.negative.estimate == negative_fraction(spectrum, 1e-3).estimate
    largest = np.r_[values[::-1][:5], values[:2][::-1]]
    np.testing.assert_allclose(small.pairs.values, largest, atol=2e-3 * abs(values).max())
    low, high = small.trace.confidence_interval(0.9999)
    assert low - 1e-3 <= values.sum() <= high + 1e-3
    inputs, labels = problem.batch
    assert small.loss == pytest.approx(float(problem.loss(problem.params, {}, (inputs, labels))))


def test_causes_are_those_of_the_budget_and_name_the_dead_unit(small):
    problem = classifier()
    budget = degeneracy_budget(MODEL, problem.params, problem.batch, state={})
    assert small.budget.counts == budget.counts
    assert small.measures.elimination.never_active[1][3]
    text = str(small.page().to_html())
    assert "never active" in text
    assert "elimination" in text
    assert small.refused == ""


def test_it_prints_and_writes_itself(small):
    assert repr(small).startswith("Analysis('digits', P = ")
    page = small.page()
    titles = [part.title for part in page.parts]
    assert titles == [
        "Spectrum of the Hessian",
        "How near the singularities",
        "Null directions of the Gauss–Newton matrix, by cause",
        "Layer by layer",
        "Spectrum",
    ]
    assert small.picture("pdf").startswith(b"%PDF")
    record = json.loads(json.dumps(small.to_json(), allow_nan=False))
    assert record["budget"]["total"] == small.budget.total
    assert record["degenerate"]["estimate"] == small.degenerate.estimate
    assert len(record["eigenvalues"]["values"]) == 7


@pytest.mark.slow
def test_large_problems_are_taken_by_lanczos(monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules[analyze_function.__module__], "DENSE", 10)
    problem = classifier()
    found = analyze(problem, causes=False, num_steps=120)
    exact = dense_spectrum(problem.hessian()).nodes
    share = (abs(exact) <= 1e-3).mean()
    low, high = found.degenerate.confidence_interval()
    assert low <= share <= high
    assert found.degenerate.certified
    assert (found.measures, found.budget, found.refused) == (None, None, "")


@pytest.mark.slow
def test_any_loss_will_do_and_what_is_missing_is_said():
    def loss(params, batch):
        return jnp.mean((jnp.tanh(batch["x"] @ params["w"]) - batch["y"]) ** 2)

    batch = {"x": jax.random.normal(jax.random.key(0), (20, 3)), "y": jnp.ones(20)}
    problem = Problem(loss, {"w": jnp.ones(3)}, batch)
    found = analyze(problem)
    exact = np.linalg.eigvalsh(hessian(loss, problem.params, batch).to_dense())[::-1]
    np.testing.assert_allclose(found.pairs.values, exact, rtol=1e-3, atol=1e-5)
    assert found.trace.method == "exact"
    assert "names no model" in found.refused
    assert found.refused in found.page().lead


@pytest.mark.slow
def test_a_model_that_is_not_understood_is_said_and_the_rest_is_there():
    def twice(params, x):
        return (x @ params["w"]) @ params["w"]

    def loss(params, batch):
        log = jax.nn.log_softmax(twice(params, batch[0]))
        return -jnp.take_along_axis(log, batch[1][:, None], 1).mean()

    batch = (jax.random.normal(jax.random.key(0), (9, 2)), jnp.zeros(9, int))
    found = analyze(Problem(loss, {"w": jnp.eye(2) + 0.1}, batch, model=twice))
    assert found.budget is None
    assert "Causes: " in found.refused
    assert np.isfinite(found.pairs.values).all()


def test_batches_that_are_no_pair_have_no_causes():
    problem = Problem(
        lambda w, batch: ((batch["x"] @ w) ** 2).mean(), jnp.ones(2), {"x": jnp.eye(2)},
        model=lambda w, x: x @ w,
    )  # fmt: skip
    assert "(inputs, labels)" in analyze(problem).refused


@pytest.mark.slow
def test_an_epsilon_below_the_noise_floor_gives_no_share():
    found = analyze(classifier(), eps=1e-12, causes=False)
    assert found.degenerate is None
    assert "below the noise floor" in repr(found)
    assert found.to_json()["degenerate"] is None
    assert "below the noise floor" in found.page().to_html()


@pytest.mark.slow
def test_streams_are_analysed_without_their_length():
    problem = classifier()
    inputs, labels = problem.batch

    class Stream:
        def __iter__(self):
            return iter([(inputs[:40], labels[:40]), (inputs[40:], labels[40:])])

    streamed = Problem(problem.loss, problem.params, Stream(), {}, name="stream")
    found, whole = analyze(streamed, causes=False), analyze(problem, causes=False)
    assert found.degenerate.estimate == pytest.approx(float(whole.degenerate.estimate), abs=0.02)
    assert (found.num_examples, np.isnan(found.loss)) == (0, True)
    assert found.to_json()["num_examples"] is None


@pytest.mark.parametrize("eps", [0.0, -1.0, np.nan])
def test_a_band_without_width_is_refused(eps):
    with pytest.raises(InputError, match="eps must be positive"):
        analyze(classifier(), eps=eps)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": lambda p, s, b: ((MODEL.apply({"params": p}, b[0]) - 1) ** 2).mean()}, "another"),
        ({"weight": lambda batch: len(batch[0])}, "has a weight"),
        ({"batch": "floats"}, "labels are integers"),
    ],
)
def test_causes_of_another_loss_than_the_models_cross_entropy_are_not_counted(change, message):
    problem = classifier()
    if change.get("batch"):
        inputs, labels = problem.batch
        change = {"batch": (inputs, labels.astype(float)), "loss": change_of_labels(problem.loss)}
    found = analyze(dataclasses.replace(problem, **change))
    assert (found.measures, found.budget) == (None, None)
    assert message in found.refused


def change_of_labels(loss):
    return lambda params, state, batch: loss(params, state, (batch[0], batch[1].astype(int)))


@pytest.mark.slow
def test_a_model_that_breaks_when_it_is_taken_apart_costs_the_causes_alone():
    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.remat(nn.Dense)(3)(nn.relu(nn.Dense(4)(x)))

    model, x = Odd(), jax.random.normal(jax.random.key(0), (9, 2))
    params = model.init(jax.random.key(1), x)["params"]
    batch = (x, jnp.zeros(9, int))
    found = analyze(Problem(softmax_cross_entropy(model), params, batch, {}, model=model))
    assert found.budget is None
    assert "Causes: " in found.refused
    assert np.isfinite(found.pairs.values).all()


def test_a_signal_is_not_taken_for_a_model_that_breaks(monkeypatch):
    import sys

    def stop(*arguments, **options):
        raise StoppedError("stopped by SIGTERM")

    monkeypatch.setattr(sys.modules[analyze_function.__module__], "degeneracy_budget", stop)
    with pytest.raises(StoppedError):
        analyze(classifier())
