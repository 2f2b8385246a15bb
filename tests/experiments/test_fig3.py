import dataclasses

import numpy as np
import pytest
import xarray as xr

from landscape.errors import InputError
from landscape.experiments.claims import decide
from landscape.experiments.collect import WIDEST, at_matched_loss, data_ratio, resolved
from landscape.experiments.fig3 import STUDY, claims
from landscape.experiments.networks import (
    from_dataset,
    matched_places,
    prepare,
    spectrum_units,
    to_dataset,
    training_units,
)
from landscape.experiments.scales import make_scale
from landscape.experiments.variants import STANDARD
from landscape.spectra import LanczosSpectrum, degenerate_fraction

NAMES = list(STANDARD)


def planted(loss, fraction, *, spectrum_epochs=(0, 1, 2), accuracy=0.5, width=0.1, ratio=2.5):
    """Collected results with hand-made numbers.

    ``loss`` and ``fraction`` broadcast to (architecture, seed, spectrum epoch), ``accuracy`` to
    (architecture, seed, epoch).
    """
    epochs = np.arange(spectrum_epochs[-1] + 1)
    loss, fraction = np.asarray(loss, float), np.asarray(fraction, float)
    seeds = max(loss.shape[1], fraction.shape[1], np.shape(accuracy)[1] if np.ndim(accuracy) else 1)
    shape = (3, seeds, len(spectrum_epochs))
    history = np.full((3, seeds, len(epochs)), 9.0)
    history[..., list(spectrum_epochs)] = np.broadcast_to(loss, shape)
    fraction = np.broadcast_to(fraction, shape)[..., None].copy()
    where = ("architecture", "seed", "spectrum_epoch", "images")
    return xr.Dataset(
        {
            "loss": (("architecture", "seed", "epoch"), history),
            "accuracy": (
                ("architecture", "seed", "epoch"),
                np.broadcast_to(np.asarray(accuracy, float), history.shape),
            ),
            "degenerate": (where, fraction),
            "degenerate_lower": (where, fraction - width / 2),
            "degenerate_upper": (where, fraction + width / 2),
            **{
                f"matched_degenerate{end}": (("architecture", "seed"), fraction[:, :, -1, 0] + by)
                for end, by in (("", 0), ("_lower", -width / 2), ("_upper", width / 2))
            },
        },
        coords={
            "architecture": NAMES,
            "seed": np.arange(seeds),
            "epoch": epochs,
            "spectrum_epoch": list(spectrum_epochs),
            "images": [900],
        },
        attrs={"num_parameters": int(900 * 9 / ratio), "num_classes": 10, "num_examples": 900},
    )


def by_architecture(plain, residual, hyper, seeds=1):
    """Numbers of each architecture, the same for every seed: (architecture, seed, epoch)."""
    return np.repeat(np.array([plain, residual, hyper], float)[:, None], seeds, 1)


def matched(results):
    values = at_matched_loss(results)["estimate"]
    assert values.dims == ("architecture", "seed")
    return {name: values.sel(architecture=name).values for name in NAMES}


def trained(plain, residual, hyper):
    """What training records, loss by seed and epoch."""
    return {
        name: xr.Dataset(
            {"loss": (("seed", "epoch"), np.asarray(loss, float))},
            coords={"epoch": np.arange(np.shape(loss)[1])},
        )
        for name, loss in zip(NAMES, (plain, residual, hyper), strict=True)
    }


def matched_epochs(losses, kept=(0, 1, 2, 3)):
    group = dataclasses.replace(make_scale("smoke", "digits", None).accuracy, kept_epochs=kept)
    families = STUDY.families(prepare("digits", group), group, seed=0)
    places = matched_places(families, losses)
    assert all(place.images == 200 for some in places.values() for place in some)
    return {name: [(p.network, p.epoch) for p in some] for name, some in places.items()}


def test_each_network_is_taken_where_it_first_comes_to_its_seeds_highest_final_loss():
    losses = trained(
        # Of the first seed the plain network ends highest, at 1; of the second the residual one.
        plain=[[9, 4, 2, 1.0], [9, 1, 0.5, 0.3]],
        residual=[[9, 1.0, 3, 0.5], [9, 8, 7, 2]],
        hyper=[[0.9, 0.8, 0.7, 0.6], [9, 2.1, 2, 1]],
    )
    assert matched_epochs(losses) == {
        "plain": [(0, 3), (1, 1)], "residual": [(0, 1), (1, 3)], "hyper-residual": [(0, 0), (1, 2)],
    }  # fmt: skip


def test_only_epochs_that_networks_were_kept_at_count():
    losses = trained([[9, 4, 2, 1]], [[9, 0.5, 0.5, 0.5]], [[9, 1.5, 0.9, 0.5]])
    found = matched_epochs(losses, kept=(0, 2, 3))
    assert found == {"plain": [(0, 3)], "residual": [(0, 2)], "hyper-residual": [(0, 2)]}


def test_networks_whose_loss_is_not_finite_match_nothing_and_hold_no_other_back():
    losses = trained([[9, np.nan, np.nan, np.nan]], [[9, 3, 2, 1]], [[9, 3, 1, 0.5]])
    assert matched_epochs(losses) == {"plain": [], "residual": [(0, 3)], "hyper-residual": [(0, 2)]}


def test_fractions_with_a_wide_interval_or_below_the_noise_floor_are_not_resolved():
    results = planted(by_architecture([2, 1], [2, 1], [2, 1]), np.full((3, 1, 2), 0.5),
                      spectrum_epochs=(0, 1))  # fmt: skip
    assert resolved(results).isel(images=0).values.tolist() == [[[0.5, 0.5]]] * 3
    results["degenerate_upper"][0, 0, 1] = results["degenerate_lower"][0, 0, 1] + WIDEST + 0.01
    for name in ("degenerate", "degenerate_lower", "degenerate_upper"):
        results[name][1, 0, 1] = np.nan
    np.testing.assert_array_equal(
        resolved(results).isel(images=0).values[:, 0], [[0.5, np.nan], [0.5, np.nan], [0.5, 0.5]]
    )
    results["matched_degenerate_upper"][0, 0] += WIDEST
    assert np.isnan(matched(results)["plain"][0])
    assert matched(results)["residual"][0] == 0.5
    last = claims(results, results)[2]
    assert decide([last])[0].num_pairs == 0


def test_a_fraction_without_a_node_needs_a_narrow_interval():
    results = planted(by_architecture([2, 1], [2, 1], [2, 1]), np.zeros((3, 1, 2)),
                      spectrum_epochs=(0, 1))  # fmt: skip
    results["degenerate_lower"][:] = 0
    results["degenerate_upper"][:] = 0.375
    results["degenerate_upper"][0] = 0.04
    found = resolved(results).isel(images=0).values
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()


SEEDS = 5
WIGGLE = np.linspace(-0.01, 0.01, SEEDS)


def verdicts_of(accuracy, fraction, **options):
    """Verdicts where each architecture has one mean, with a wiggle that differs between them."""
    wiggle = np.stack([WIGGLE, WIGGLE[::-1], np.roll(WIGGLE, 2)])[..., None]
    ones = np.ones((1, 1, 3))
    loss = np.broadcast_to([2.0, 1.0, 0.5], (3, SEEDS, 3))
    results = planted(
        loss,
        (np.array(fraction)[:, None, None] + wiggle) * ones,
        accuracy=(np.array(accuracy)[:, None, None] + wiggle) * ones,
        **options,
    )
    return {verdict.claim.name: verdict for verdict in decide(claims(results, results))}


def test_claims_hold_where_the_order_is_the_papers():
    verdicts = verdicts_of(accuracy=(0.5, 0.7, 0.9), fraction=(0.8, 0.5, 0.2))
    assert len(verdicts) == 6
    assert {verdict.status for verdict in verdicts.values()} == {"holds"}
    assert verdicts["accuracy: residual > plain"].effect == pytest.approx(0.2)
    assert verdicts["accuracy: hyper-residual ≥ residual"].effect == pytest.approx(0.2)
    for where in ("at the last epoch", "at matched training loss"):
        assert verdicts[f"degenerate: plain > residual, {where}"].effect == pytest.approx(0.3)
        name = f"degenerate: residual > hyper-residual, {where}"
        assert verdicts[name].effect == pytest.approx(0.3)


def test_claims_fail_where_the_order_is_the_opposite():
    verdicts = verdicts_of(accuracy=(0.9, 0.7, 0.5), fraction=(0.2, 0.5, 0.8))
    assert {verdict.status for verdict in verdicts.values()} == {"fails"}


@pytest.mark.parametrize(
    ("accuracy", "fraction", "holding"),
    [
        ((0.5, 0.7, 0.7), (0.5, 0.5, 0.5), ["accuracy: residual > plain"]),
        ((0.5, 0.5, 0.7), (0.5, 0.5, 0.5), ["accuracy: hyper-residual ≥ residual"]),
        (
            (0.5, 0.5, 0.5),
            (0.7, 0.5, 0.5),
            [
                "degenerate: plain > residual, at the last epoch",
                "degenerate: plain > residual, at matched training loss",
            ],
        ),
        (
            (0.5, 0.5, 0.5),
            (0.7, 0.7, 0.5),
            [
                "degenerate: residual > hyper-residual, at the last epoch",
                "degenerate: residual > hyper-residual, at matched training loss",
            ],
        ),
    ],
)
def test_each_claim_pairs_its_own_two_architectures(accuracy, fraction, holding):
    verdicts = verdicts_of(accuracy, fraction)
    assert [name for name, verdict in verdicts.items() if verdict.status == "holds"] == holding
    others = {v.status for name, v in verdicts.items() if name not in holding}
    assert others == {"undecided"}


def test_the_initial_accuracy_does_not_count_in_the_mean_through_training():
    wiggle = np.stack([WIGGLE, WIGGLE[::-1], np.roll(WIGGLE, 2)])[..., None]
    accuracy = np.array([[0.99, 0.1, 0.3], [0.0, 0.4, 0.6], [0.0, 0.7, 0.9]])[:, None] + wiggle
    results = planted(np.full((3, SEEDS, 3), 1.0), np.full((3, 1, 3), 0.5), accuracy=accuracy)
    first, second = claims(results, results)[:2]
    assert decide([first])[0].effect == pytest.approx(0.3)
    assert decide([second])[0].effect == pytest.approx(0.3)


def test_accuracy_and_fractions_come_from_their_own_groups():
    one, other = np.full((3, 2, 3), 1.0), np.full((3, 1, 3), 0.5)
    accuracy = planted(one, other, accuracy=by_architecture([0.1] * 3, [0.2] * 3, [0.4] * 3, 2))
    fractions = planted(one, by_architecture([0.9] * 3, [0.5] * 3, [0.4] * 3))
    effects = [verdict.effect for verdict in decide(claims(accuracy, fractions))]
    assert effects == pytest.approx([0.1, 0.2, 0.4, 0.1, 0.4, 0.1])


def test_too_few_data_give_no_verdict_on_fractions_and_say_why():
    verdicts = verdicts_of(accuracy=(0.5, 0.7, 0.9), fraction=(0.8, 0.5, 0.2), ratio=1.3)
    for name, verdict in verdicts.items():
        if name.startswith("accuracy"):
            assert verdict.status == "holds"
        else:
            assert verdict.status == "no verdict"
            assert "N(C−1)/P = 1.30 < 2" in verdict.claim.obstacle


def test_the_data_ratio_is_taken_at_the_largest_number_of_examples():
    results = planted(np.ones((3, 1, 3)), np.ones((3, 1, 3)))
    results.attrs.update(num_parameters=1_000, num_classes=5)
    assert data_ratio(results) == pytest.approx(900 * 4 / 1_000)


def test_families_are_one_per_architecture_on_the_same_data():
    group = make_scale("smoke", "digits", None).accuracy
    data = prepare("digits", group)
    families = STUDY.families(data, group, seed=3)
    assert [family.architecture for family in families] == NAMES
    assert len({family.num_parameters for family in families}) == 1
    assert all(family.dataset is data and family.seed == 3 for family in families)
    assert len({str(family.inputs) for family in families}) == 3


def test_prepared_data_are_a_fixed_stratified_subset():
    group = make_scale("smoke", "digits", None).accuracy
    data, again = prepare("digits", group), prepare("digits", group)
    assert data.num_examples == group.num_images == 200
    assert data.digest == again.digest
    counts = np.bincount(data.labels, minlength=10)
    assert counts.max() - counts.min() <= 2


def test_unknown_data_are_refused():
    with pytest.raises(InputError, match="unknown data set 'mnist'"):
        prepare("mnist", make_scale("smoke", "digits", None).accuracy)


@pytest.mark.parametrize("wide", [True, False])
def test_spectra_are_taken_in_the_precision_of_their_group(wide, tmp_path):
    group = make_scale("smoke", "digits", None, epochs=1).accuracy
    group = dataclasses.replace(
        group, seeds=1, block=1, float64=wide, spectrum_epochs=(1,), num_steps=(20,)
    )
    family = STUDY.families(prepare("digits", group), group, 0)[0]
    (training,) = training_units(family)
    trained = training.compute(tmp_path, lambda: False)
    (unit,) = spectrum_units(family, trained)
    assert unit.inputs["float64"] == wide
    spectrum = from_dataset(unit.compute(tmp_path, lambda: False))
    assert spectrum.dtype == ("float64" if wide else "float32")
    assert (float(spectrum.noise_floor) < 1e-11) == wide


@pytest.mark.parametrize("probes", [1, 3])
def test_a_lanczos_spectrum_survives_the_round_trip_through_a_file(tmp_path, probes):
    rng = np.random.default_rng(0)
    spectrum = LanczosSpectrum(
        alphas=rng.normal(size=(probes, 6)),
        betas=rng.uniform(0.5, 1, size=(probes, 6)),
        num_steps=np.array([6] * (probes - 1) + [4]),
        probe_norms=rng.uniform(90, 110, probes),
        num_parameters=100,
        noise_floor=np.asarray(1e-7),
        reorthogonalize="full",
        dtype="float32",
        num_matvecs=6 * probes,
        deflated=np.zeros(0),
    )
    to_dataset(spectrum).to_netcdf(tmp_path / "spectrum.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "spectrum.nc", engine="h5netcdf") as dataset:
        back = from_dataset(dataset.load())
    for name in ("alphas", "betas", "num_steps", "probe_norms", "noise_floor"):
        np.testing.assert_array_equal(getattr(back, name), getattr(spectrum, name))
    assert (back.num_parameters, back.reorthogonalize, back.num_matvecs) == (
        100, "full", 6 * probes,
    )  # fmt: skip
    assert degenerate_fraction(back, 0.5).estimate == degenerate_fraction(spectrum, 0.5).estimate
