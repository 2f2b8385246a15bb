import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import DiagonalOperator
from landscape.errors import InputError
from landscape.spectra import degenerate_fraction, dense_spectrum
from landscape.training import Callback, Watch


def test_a_watch_looks_when_its_time_has_come():
    watch = Watch(Callback("norm", (0, 3), lambda seen: {"w": seen.params["w"], "loss": seen.loss}))
    found = [watch(n, {"w": jnp.full(2, float(n))}, loss=n / 2) for n in range(5)]
    assert [one is not None for one in found] == [True, False, False, True, False]
    assert watch.numbers == [0, 3]
    np.testing.assert_array_equal(watch.records["norm/w"], [[0, 0], [3, 3]])
    np.testing.assert_array_equal(watch.records["norm/loss"], [0, 1.5])


def test_what_it_cannot_record_is_refused():
    watch = Watch(Callback("n", (0, 1), lambda seen: {"w": seen.params}))
    assert watch.records == {}
    watch(0, jnp.ones(2))
    with pytest.raises(InputError, match="has looked at 0 already"):
        watch(0, jnp.ones(2))
    with pytest.raises(InputError, match="must not change"):
        watch(1, jnp.ones(3))
    assert watch.numbers == [0]
    with pytest.raises(InputError, match="a Watch sees one at a time"):
        Watch(Callback("n", (0,), lambda seen: {}, together=True))


def test_a_result_is_no_number():
    share = degenerate_fraction(dense_spectrum(DiagonalOperator(jnp.ones(3))), 0.1)
    watch = Watch(Callback("mine", (0,), lambda at: {"share": share}))
    with pytest.raises(InputError, match=r"'share' is a Fraction: of a result give its numbers"):
        watch(0, jnp.ones(2))
