import numpy as np
import pytest

from landscape.data import Dataset
from landscape.errors import InputError
from landscape.experiments.networks import Family, spectrum_places
from landscape.experiments.scales import (
    SCALES,
    Scale,
    make_scale,
    standard_dataset,
    with_less,
)
from landscape.experiments.variants import STANDARD

# Examples, image shape and classes of what is loaded by name.
DATA = {
    "digits": (1_797, (8, 8, 1), 10),
    "cifar10": (50_000, (32, 32, 3), 10),
    "cifar100": (50_000, (32, 32, 3), 20),
    "svhn": (73_257, (32, 32, 3), 10),
    "stl10": (5_000, (96, 96, 3), 10),
}
RUNNABLE = [
    (scale, dataset)
    for scale in SCALES
    for dataset in DATA
    if (scale, dataset) != ("paper", "digits")
]


def num_parameters(group, dataset, architecture="plain"):
    """P of a group's networks, from the shape of its data alone."""
    _, shape, num_classes = DATA[dataset]
    if group.pooled is not None:
        shape = (group.pooled, group.pooled, shape[-1])
    blank = Dataset(
        np.zeros((num_classes, *shape), np.uint8),
        np.arange(num_classes, dtype=np.int32),
        num_classes=num_classes,
    )
    return Family(architecture, group, blank, 0).num_parameters


def data_ratio(group, dataset):
    """N(C−1)/P at the largest N."""
    total, _, num_classes = DATA[dataset]
    images = total if group.num_images is None else group.num_images
    largest = max(images if n is None else min(n, images) for n in group.spectrum_images)
    return largest * (num_classes - 1) / num_parameters(group, dataset)


@pytest.mark.parametrize("architecture", STANDARD)
def test_all_architectures_have_the_same_number_of_parameters(architecture):
    group = make_scale("laptop", "digits", None).accuracy
    assert num_parameters(group, "digits", architecture) == 6_378


def test_networks_have_the_sizes_of_the_protocol():
    digits = make_scale("laptop", "digits", None)
    assert digits.accuracy == digits.fractions
    assert (digits.accuracy.depth, digits.accuracy.width) == (20, 16)
    laptop = make_scale("laptop", "cifar100", None)
    assert (laptop.accuracy.depth, laptop.accuracy.width) == (20, 128)
    assert (laptop.fractions.depth, laptop.fractions.width, laptop.fractions.pooled) == (20, 32, 8)
    assert num_parameters(laptop.accuracy, "cifar100") == 709_652
    assert num_parameters(laptop.fractions, "cifar100") == pytest.approx(27_000, rel=0.01)
    paper = make_scale("paper", "cifar100", None)
    assert num_parameters(paper.accuracy, "cifar100") == 709_652


@pytest.mark.parametrize(
    ("scale", "dataset"),
    [("smoke", "digits"), ("laptop", "digits"), ("laptop", "cifar10"), ("laptop", "cifar100")],
)
def test_there_are_enough_data_where_a_verdict_on_fractions_is_meant(scale, dataset):
    assert data_ratio(make_scale(scale, dataset, None).fractions, dataset) >= 2


def test_there_are_too_few_data_where_the_protocol_says_so():
    assert data_ratio(make_scale("laptop", "cifar100", None).accuracy, "cifar100") < 1
    paper = make_scale("paper", "cifar100", None)
    assert data_ratio(paper.fractions, "cifar100") == pytest.approx(1.34, abs=0.01)


@pytest.mark.parametrize(("scale", "dataset"), RUNNABLE)
def test_every_group_is_consistent(scale, dataset):
    found = make_scale(scale, dataset, None)
    assert isinstance(found, Scale)
    assert found.name == scale
    for group in found.groups:
        images = group.num_images or DATA[dataset][0]
        assert group.learning_rate == 5e-4
        # 1 % of the images, so that 100 epochs are the standard 10,000 updates.
        assert group.batch_size == pytest.approx(images / 100, abs=0.5)
        assert len(group.num_steps) == len(group.spectrum_epochs)
        assert list(group.spectrum_epochs) == sorted(set(group.spectrum_epochs))
        assert group.spectrum_epochs[-1] == group.epochs
        assert 1 <= group.block <= group.seeds
        assert all(n is None or n <= images for n in group.spectrum_images) or scale == "paper"
        assert group.pooled is None or DATA[dataset][1][0] % group.pooled == 0


@pytest.mark.parametrize(("scale", "least"), [("smoke", 2), ("laptop", 3), ("paper", 5)])
def test_there_are_as_many_seeds_as_the_protocol_asks_for(scale, least):
    assert all(g.seeds >= least for g in make_scale(scale, "cifar100", None).groups)
    assert make_scale("laptop", "digits", None).accuracy.seeds >= 5


def test_the_laptop_scale_takes_the_protocols_subset_of_cifar():
    scale = make_scale("laptop", "cifar100", None)
    assert [group.num_images for group in scale.groups] == [10_000, 10_000]
    assert max(scale.accuracy.spectrum_images) == 2_000
    assert scale.fractions.spectrum_images == (None,)


def test_what_differs_from_the_standard_protocol_is_said():
    for scale, dataset in RUNNABLE:
        deviations = make_scale(scale, dataset, None).deviations
        assert bool(deviations) == ((scale, dataset) != ("paper", "cifar100"))
        assert (f"{dataset} instead of CIFAR-100" in deviations) == (dataset != "cifar100")
    for dataset, count in (("svhn", "73,257"), ("stl10", "5,000")):
        told = " ".join(make_scale("paper", dataset, None).deviations)
        assert f"{count} images instead of 50,000" in told
        assert ("pooled from 96×96 to 32×32" in told) == (dataset == "stl10")
    assert "200 images" in " ".join(make_scale("smoke", "digits", None).deviations)
    assert "10,000 images" in " ".join(make_scale("laptop", "cifar100", None).deviations)


def test_the_number_of_seeds_can_be_chosen_and_blocks_stay_within_it():
    scale = make_scale("laptop", "cifar100", 2)
    assert [group.seeds for group in scale.groups] == [2, 2]
    assert all(group.block <= 2 for group in scale.groups)
    one = make_scale("smoke", "digits", 1)
    # Still one group, trained once.
    assert len(one.groups) == 1


def test_more_seeds_do_not_change_how_the_first_ones_are_blocked():
    assert make_scale("smoke", "digits", 9).accuracy.block == (
        make_scale("smoke", "digits", None).accuracy.block
    )


def test_spectra_are_taken_over_every_size_at_the_last_epoch_and_the_largest_before():
    group = make_scale("laptop", "cifar100", 1).accuracy
    data = Dataset(np.zeros((2_000, 1, 1, 1), np.uint8), np.zeros(2_000, np.int32), num_classes=20)
    places = spectrum_places(Family("plain", group, data, 0))
    last = {place.images for place in places if place.epoch == group.epochs}
    assert last == {500, 2_000}
    assert {place.images for place in places if place.epoch != group.epochs} <= {2_000}


@pytest.mark.parametrize("seeds", [0, -3])
def test_fewer_than_one_seed_is_refused(seeds):
    with pytest.raises(InputError, match=f"--seeds must be at least 1; got {seeds}"):
        make_scale("smoke", "digits", seeds)


def test_networks_are_kept_for_matched_loss_where_that_is_asked_for():
    assert make_scale("laptop", "digits", None).accuracy.kept_epochs == ()
    kept = make_scale("laptop", "digits", None, matched=True).accuracy.kept_epochs
    assert kept == tuple(range(101))
    paper = make_scale("paper", "cifar100", None, matched=True).accuracy
    assert (paper.kept_epochs[0], paper.kept_epochs[-1]) == (0, 100)
    assert (
        make_scale("laptop", "digits", None, matched=True, spectra=False).groups[0].kept_epochs
        == ()
    )


def test_the_paper_scale_trains_its_networks_together_on_its_own_data_set():
    assert standard_dataset("paper") == "cifar100"
    assert standard_dataset("smoke") == standard_dataset("laptop") == "digits"
    assert make_scale("paper", "cifar100", 100).accuracy.block == 100


def test_an_unknown_scale_is_refused_with_the_choices():
    with pytest.raises(
        InputError, match="unknown scale 'huge'; choose one of smoke, laptop, paper"
    ):
        make_scale("huge", "digits", None)


def test_the_paper_scale_is_refused_on_the_digits():
    with pytest.raises(InputError, match=r"needs 50,000 images; choose --dataset cifar100"):
        make_scale("paper", "digits", None)


def test_spectra_can_be_fewer_and_shorter_and_it_is_said():
    scale = make_scale("paper", "cifar100", 100, depth=30)
    less = with_less(scale, block=50, steps=64, last_only=True)
    group = less.accuracy
    assert (group.block, group.seeds) == (50, 100)
    assert (group.spectrum_epochs, group.spectrum_images, group.num_steps) == (
        (100,),
        (None,),
        (64,),
    )
    assert group.epochs == scale.accuracy.epochs
    assert group.measure_epochs == scale.accuracy.measure_epochs
    assert less.deviations == (
        *scale.deviations,
        "spectra at the last epoch only, over the most images",
        "64 Lanczos steps at most",
    )
    assert with_less(scale) == scale
    # More steps than there are change nothing, and a block is no larger than what there is.
    more = with_less(make_scale("laptop", "cifar100", 2), block=9, steps=10_000)
    assert more.deviations == make_scale("laptop", "cifar100", 2).deviations
    assert (more.accuracy.block, more.fractions.block) == (2, 2)
    assert with_less(
        make_scale("laptop", "cifar100", 2), last_only=True
    ).accuracy.spectrum_images == (2_000,)


@pytest.mark.parametrize("name", ["block", "steps"])
def test_less_than_one_is_refused(name):
    with pytest.raises(InputError, match=f"--{name} must be at least 1; got 0"):
        with_less(make_scale("smoke", "digits", None), **{name: 0})
