"""Units of the low-dimensional experiments."""

import numpy as np

from landscape.experiments.flows import Chain


def test_chains_are_followed_as_long_as_a_clock_tells_times_apart(tmp_path):
    found = Chain((2, 10, 50))(tmp_path, lambda: False)
    closed, followed = found["closed"].values, found["followed"].values
    # Without skips 50 weights of 0.3 take 10²³.
    assert closed[0, 2] > 1e20
    np.testing.assert_array_equal(np.isnan(followed), [[False, False, True], [False] * 3])
    known = np.isfinite(followed)
    np.testing.assert_allclose(followed[known], closed[known], rtol=1e-2)
