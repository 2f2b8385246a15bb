import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape.data import Dataset
from landscape.data.cifar import CIFAR10
from landscape.errors import InputError


def make(num_examples=40, side=8, channels=3, num_classes=4, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    inputs = rng.integers(0, 256, (num_examples, side, side, channels), dtype=np.uint8)
    labels = rng.integers(0, num_classes, num_examples)
    return Dataset(inputs, labels, num_classes, **kwargs)


# subset


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_subset_class_counts_are_within_one_of_exact_proportions(data):
    counts = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any))
    size = data.draw(st.integers(1, sum(counts)))
    seed = data.draw(st.integers(0, 2**32))
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    whole = Dataset(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, len(counts))

    found = np.bincount(whole.subset(size, seed).labels, minlength=len(counts))

    assert found.sum() == size
    # In integers: |found - size * count / total| < 1.
    assert (abs(found * len(labels) - size * np.array(counts)) < len(labels)).all()


def test_subset_gives_leftover_places_to_the_largest_remainders():
    labels = np.repeat([0, 1, 2], [5, 3, 2])  # quotas of 4: 2.0, 1.2, 0.8
    whole = Dataset(np.zeros((10, 1, 1, 1), np.uint8), labels, 3)
    assert np.bincount(whole.subset(4, 0).labels).tolist() == [2, 1, 1]


def test_subset_is_in_original_order_and_records_where_examples_stood():
    whole = make(100)
    part = whole.subset(30, seed=5)
    assert (np.diff(part.indices) > 0).all()
    np.testing.assert_array_equal(part.inputs, whole.inputs[part.indices])
    np.testing.assert_array_equal(part.labels, whole.labels[part.indices])


def test_subset_of_a_subset_records_indices_of_the_original():
    whole = make(100)
    part = whole.subset(50, seed=1).subset(20, seed=2)
    np.testing.assert_array_equal(part.inputs, whole.inputs[part.indices])


def test_subset_depends_on_the_seed_and_on_nothing_else():
    whole = make(100)
    first = whole.subset(30, seed=5)
    assert first.indices.tolist() == make(100).subset(30, np.int64(5)).indices.tolist()
    assert first.indices.tolist() != whole.subset(30, seed=6).indices.tolist()


def test_subset_of_a_fixed_seed_is_the_recorded_one():
    whole = Dataset(np.zeros((12, 1, 1, 1), np.uint8), np.arange(12) % 3, 3)
    assert whole.subset(6, seed=0).indices.tolist() == [1, 2, 3, 6, 7, 11]


def test_subset_reaches_every_example_about_equally_often():
    whole = Dataset(np.zeros((20, 1, 1, 1), np.uint8), np.arange(20) % 2, 2)
    repeats = 2000
    hits = np.zeros(20)
    for seed in range(repeats):
        hits[whole.subset(4, seed).indices] += 1
    # Each example is taken with probability 1/5; 5 standard errors of a binomial count.
    assert abs(hits - repeats / 5).max() < 5 * np.sqrt(repeats * 0.2 * 0.8)


def test_subset_of_all_examples_is_all_of_them():
    whole = make(30)
    np.testing.assert_array_equal(whole.subset(30, 3).indices, np.arange(30))


@pytest.mark.parametrize(
    ("size", "seed", "message"),
    [
        (0, 0, "size is 0, expected 1 to 40"),
        (41, 0, "size is 41, expected 1 to 40"),
        (2.5, 0, "size is 2.5, expected an integer"),
        (5, -1, "seed is -1"),
        (5, None, "seed is None, expected an integer"),
    ],
)
def test_subset_refuses_bad_sizes_and_seeds(size, seed, message):
    with pytest.raises(InputError, match=message):
        make().subset(size, seed)


# pooled


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_pooling_equals_a_float64_mean_exactly(size):
    whole = make(side=8)
    pooled = whole.pooled(size)
    block = 8 // size
    truth = whole.inputs.astype(np.float64).reshape(40, size, block, size, block, 3).mean((2, 4))
    # Sums and block sizes are small integers, powers of two: float64 holds the mean exactly.
    np.testing.assert_array_equal(pooled.inputs / block**2, truth)
    assert pooled.unit == whole.unit / block**2


def test_pooling_by_three_keeps_exact_sums():
    whole = make(side=6)
    pooled = whole.pooled(2)
    assert pooled.inputs[7, 1, 0, 2] == whole.inputs[7, 3:6, 0:3, 2].sum(dtype=int)
    assert round(1 / pooled.unit) == 255 * 9


def test_pooling_twice_equals_pooling_once():
    whole = make(side=8)
    once, twice = whole.pooled(2), whole.pooled(4).pooled(2)
    assert once.digest == twice.digest


@pytest.mark.parametrize(("size", "dtype"), [(2, np.uint16), (1, np.uint32)])
def test_pooling_white_images_does_not_overflow(size, dtype):
    white = Dataset(np.full((2, 32, 32, 3), 255, np.uint8), np.zeros(2, int), 1)
    pooled = white.pooled(size)
    assert pooled.inputs.dtype == dtype
    assert (pooled.inputs == 255 * (32 // size) ** 2).all()
    assert float(pooled.arrays()[0].min()) == 1.0


def test_pooling_non_square_images_takes_each_side_by_its_own_factor():
    inputs = np.arange(2 * 4 * 6, dtype=np.uint8).reshape(2, 4, 6, 1)
    pooled = Dataset(inputs, np.zeros(2, int), 1).pooled(2)
    assert pooled.inputs[1, 1, 0, 0] == inputs[1, 2:4, 0:3, 0].sum()


@pytest.mark.parametrize("size", [0, 3, 16, -2])
def test_pooling_refuses_sizes_that_do_not_divide(size):
    with pytest.raises(InputError, match=rf"8x8 cannot be pooled to {size}x{size}"):
        make(side=8).pooled(size)


# standardized


def test_standardized_data_has_mean_zero_and_variance_one_per_channel():
    inputs, _ = make(200).standardized().arrays()
    values = np.asarray(inputs, np.float64)
    np.testing.assert_allclose(values.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(values.std((0, 1, 2)), 1, atol=1e-5)


def test_shift_and_scale_equal_the_float64_mean_and_deviation():
    whole = make(5000, side=2)  # more than one block
    values = whole.inputs.astype(np.float64) / 255
    found = whole.standardized()
    np.testing.assert_allclose(found.shift, values.mean((0, 1, 2)), rtol=1e-7)
    np.testing.assert_allclose(found.scale, values.std((0, 1, 2)), rtol=1e-7)


def test_standardisation_by_a_reference_uses_the_reference():
    train, test = make(100, seed=1), make(20, seed=2)
    found = test.standardized(train)
    np.testing.assert_array_equal(found.shift, train.standardized().shift)
    np.testing.assert_array_equal(found.scale, train.standardized().scale)
    np.testing.assert_array_equal(found.inputs, test.inputs)


def test_standardising_twice_changes_nothing():
    once = make().standardized()
    assert once.standardized().digest == once.digest


def test_pooled_data_keeps_the_mean_and_lowers_the_variance():
    whole = make(200)
    fine, coarse = whole.standardized(), whole.pooled(2).standardized()
    np.testing.assert_allclose(coarse.shift, fine.shift, rtol=1e-6)
    assert (coarse.scale < fine.scale / 2).all()


def test_a_channel_without_variance_gets_scale_one():
    inputs = np.random.default_rng(0).integers(0, 256, (50, 3, 3, 2), dtype=np.uint8)
    inputs[..., 1] = 77
    found = Dataset(inputs, np.zeros(50, int), 1).standardized()
    assert found.scale[1] == 1
    assert found.scale[0] < 1
    assert abs(np.asarray(found.arrays()[0])[..., 1]).max() < 1e-7


def test_a_reference_with_other_channels_is_refused():
    with pytest.raises(InputError, match="the reference has 1 channels, expected 3"):
        make(channels=3).standardized(make(channels=1))


def test_a_reference_without_examples_is_refused():
    with pytest.raises(InputError, match="no examples"):
        make().standardized(make(0))


# arrays


def test_arrays_are_jax_float32_and_int32_in_the_documented_units():
    whole = make(unit=1 / 200, shift=np.array([0.1, 0.2, 0.3]), scale=np.array([1.0, 2.0, 4.0]))
    inputs, labels = whole.arrays()
    assert type(inputs).__module__.startswith("jax")
    assert (inputs.dtype, labels.dtype) == (np.float32, np.int32)
    truth = (whole.inputs / 200 - [0.1, 0.2, 0.3]) / [1.0, 2.0, 4.0]
    np.testing.assert_allclose(inputs, truth, atol=1e-6)
    np.testing.assert_array_equal(labels, whole.labels)


def test_arrays_run_from_exactly_zero_to_exactly_one_at_every_pooling():
    inputs = np.zeros((2, 32, 32, 1), np.uint8)
    inputs[1] = CIFAR10.max_value
    whole = Dataset(inputs, np.zeros(2, int), 1)
    for size in (32, 16, 8, 4, 2, 1):
        values = np.asarray(whole.pooled(size).arrays()[0])
        assert (values.min(), values.max()) == (0.0, 1.0)


# the object


def test_digest_changes_with_everything_that_arrays_depend_on():
    base = make()
    flipped = base.inputs.copy()
    flipped[3, 2, 1, 0] ^= 1
    relabelled = base.labels.copy()
    relabelled[0] = (relabelled[0] + 1) % 4
    others = [
        dataclasses.replace(base, inputs=flipped),
        dataclasses.replace(base, labels=relabelled),
        dataclasses.replace(base, inputs=base.inputs.reshape(40, 4, 16, 3)),
        dataclasses.replace(base, inputs=base.inputs.astype(np.uint16)),
        dataclasses.replace(base, unit=1 / 256),
        dataclasses.replace(base, name="other"),
        dataclasses.replace(base, split="test"),
        dataclasses.replace(base, label_kind="fine"),
        dataclasses.replace(base, num_classes=5),
        dataclasses.replace(base, shift=np.array([0, 0, 1e-7], np.float32)),
        dataclasses.replace(base, scale=np.array([1, 1, 1 + 1e-6], np.float32)),
        base.subset(39, 0),
    ]
    digests = [base.digest, *(other.digest for other in others)]
    assert len(set(digests)) == len(digests)
    assert base.digest == make().digest
    assert re.fullmatch("[0-9a-f]{64}", base.digest)


def test_digest_does_not_depend_on_the_memory_layout():
    base = make()
    other = dataclasses.replace(base, inputs=np.asfortranarray(base.inputs))
    assert other.digest == base.digest


def test_repr_says_what_it_is_in_one_line():
    whole = make(1500, name="cifar100", label_kind="coarse", unit=1 / 255)
    assert repr(whole) == (
        "Dataset('cifar100', split='train', 1,500 examples of 8x8x3 uint8, "
        "4 coarse classes, unit 1/255)"
    )
    assert repr(whole.standardized()).endswith("unit 1/255, standardized)")


def test_length_is_the_number_of_examples():
    assert len(make(17)) == make(17).num_examples == 17


def test_arrays_of_a_dataset_cannot_be_written_and_the_users_own_still_can():
    inputs = np.zeros((3, 2, 2, 1), np.uint8)
    whole = Dataset(inputs, np.zeros(3, int), 1)
    for name in ("inputs", "labels", "shift", "scale", "indices"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(whole, name)[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        whole.unit = 2.0
    inputs[0] = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": np.zeros((40, 8, 8, 3), np.float32)}, "inputs are float32, expected unsigned"),
        ({"inputs": np.zeros((40, 8, 8, 3), np.int64)}, "inputs are int64, expected unsigned"),
        ({"inputs": np.zeros((40, 64), np.uint8)}, r"shape \(40, 64\), expected \(N, H, W, C\)"),
        ({"labels": np.zeros(39, int)}, r"expected integers of shape \(40,\)"),
        ({"labels": np.zeros(40)}, "labels are float64"),
        ({"labels": np.full(40, 4)}, "labels run from 0 to 4, expected 0 to 3"),
        ({"labels": np.full(40, -1)}, "labels run from -1"),
        ({"class_names": ("a", "b")}, "2 class names for 4 classes"),
        ({"unit": 0.0}, "unit is 0.0"),
        ({"shift": np.zeros(2)}, "shift is .* expected 3 finite numbers"),
        ({"scale": np.zeros(3)}, "scale is .* expected positive"),
        ({"scale": np.full(3, np.nan)}, "scale is .* finite"),
        ({"indices": np.zeros(3, int)}, "indices have shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_at_the_door(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(make(), **changes)


def test_importing_the_room_imports_no_heavy_package():
    code = (
        "import sys, landscape.data;"
        "heavy = {'jax', 'sklearn', 'scipy', 'pooch', 'requests', 'rich', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
