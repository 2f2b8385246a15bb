import numpy as np
import pytest
import xarray as xr

from landscape.experiments.claims import Claim, decide
from landscape.experiments.collect import EPSILONS, FRACTIONS, RELATIVE
from landscape.experiments.fig3 import STUDY, claims
from landscape.experiments.networks import MEASURES
from landscape.experiments.pictures import fraction_curves
from landscape.experiments.scales import make_scale
from landscape.experiments.sentences import at_matched_levels, counted, failures, relative_orders
from landscape.experiments.study_page import make_page
from landscape.experiments.variants import STANDARD
from landscape.report import Picture, Table

SCALE = make_scale("laptop", "cifar100", None)
ENVIRONMENT = {"landscape": "9.9", "python": "3.99", "cores": 2, "devices": ["cpu"]}


def planted(group, num_parameters, images):
    """Smooth made-up results of a group, with every axis that a page reads."""
    rng = np.random.default_rng(0)
    epochs, spectra = np.arange(group.epochs + 1), list(group.spectrum_epochs)
    networks = (len(STANDARD), group.seeds)
    measured = (*networks, len(group.measure_epochs))
    shape = (*networks, len(spectra), len(images))
    where = ("architecture", "seed", "spectrum_epoch", "images")
    level = np.array([0.6, 0.4, 0.2])[:, None, None, None] + rng.normal(0, 0.01, shape)
    values = {name: level for name in FRACTIONS if name.startswith(("degenerate", "negative"))}
    for kind in ("degenerate", "negative"):
        values[f"{kind}_lower"] = level - 0.05
        values[f"{kind}_upper"] = level + 0.05
        values[f"{kind}_stderr"] = np.full(shape, 0.004)
    values["norm"], values["noise_floor"] = np.full(shape, 30.0), np.full(shape, 4e-6)
    values["mixture"], values["mixture_fits"] = np.full(shape, 0.3), np.ones(shape)
    values["negative_mixture"] = np.full(shape, 0.1)
    matched = {
        f"matched_degenerate{end}": level[:, :, -1, 0] + by
        for end, by in (("", 0), ("_lower", -0.05), ("_upper", 0.05))
    } | {"matched_epoch": np.full(networks, 7.0), "matched_loss": np.full(networks, 0.5)}
    matched["matched_norm"] = np.broadcast_to([[100.0], [230.0], [90.0]], networks)
    grid = 1e-3 * np.sinh(np.linspace(-11, 11, 101))
    history = np.linspace(0.1, 0.9, len(epochs)) + 0.01 * rng.normal(size=(*networks, 1))
    return xr.Dataset(
        {
            "loss": (("architecture", "seed", "epoch"), 2 - history),
            "accuracy": (("architecture", "seed", "epoch"), history),
            **{name: (where, np.array(array)) for name, array in values.items()},
            **{
                name: ((*where, axis), np.broadcast_to(rising + shift, (*shape, len(rising))))
                for part, shift in (("", 0), ("_lower", -0.1), ("_upper", 0.1))
                for name, axis, rising in (
                    (f"curve{part}", "eps", np.linspace(0.2, 1, len(EPSILONS))),
                    (f"relative_curve{part}", "relative", np.linspace(0.1, 1, len(RELATIVE))),
                )
            },
            **{name: (("architecture", "seed"), array) for name, array in matched.items()},
            "density": ((*where, "eigenvalue"), np.full((*shape, len(grid)), 0.05)),
            **{
                name: (("architecture", "seed", "measure_epoch"), rng.random(measured))
                for name in MEASURES
            },
        },
        coords={
            "architecture": list(STANDARD), "seed": np.arange(group.seeds), "epoch": epochs,
            "spectrum_epoch": spectra, "images": images, "eps": EPSILONS, "relative": RELATIVE,
            "eigenvalue": grid, "measure_epoch": list(group.measure_epochs),
        },
        attrs={"num_parameters": num_parameters, "num_classes": 20, "num_examples": 10_000},
    )  # fmt: skip


@pytest.fixture(scope="module")
def two_groups(tmp_path_factory):
    """A page where accuracy and fractions are judged on different networks."""
    wide = planted(SCALE.accuracy, 709_652, [500, 2_000])
    pooled = planted(SCALE.fractions, 26_900, [10_000])
    # One hyper-residual network below the noise floor, all plain ones at the first epoch.
    for name in FRACTIONS[:8]:
        pooled[name][2, 0, -1] = np.nan
        pooled[name][0, :, 0] = np.nan
    results = {SCALE.accuracy.name: wide, SCALE.fractions.name: pooled}
    verdicts = decide(claims(wide, pooled))
    figures = tmp_path_factory.mktemp("figures")
    page = make_page(STUDY, SCALE, "cifar100", results, verdicts, figures, [ENVIRONMENT], 90.0)
    return page, verdicts, figures


def tables(page):
    return [part for part in page.parts if isinstance(part, Table)]


def test_every_figure_is_kept_as_png_and_pdf_and_shown(two_groups):
    page, _, figures = two_groups
    pictures = [part.png for part in page.parts if isinstance(part, Picture)]
    kept = sorted(path.read_bytes() for path in figures.glob("*.png"))
    assert sorted(pictures) == kept
    assert len(kept) == 5
    assert {path.stem for path in figures.glob("*.pdf")} == {
        path.stem for path in figures.glob("*.png")
    }


def test_the_lead_counts_the_verdicts(two_groups):
    page, verdicts, _ = two_groups
    holding = sum(verdict.status == "holds" for verdict in verdicts)
    assert f"Of {len(verdicts)} claims, {holding} hold" in page.lead[0]
    assert "those of the pooled ones" in page.lead[1]
    assert "N = 10,000" in page.lead[-1]
    assert "P = 26,900" in page.lead[-1]
    assert "N(C−1)/P = 7.06, enough data" in page.lead[-1]


def test_every_claim_has_a_row(two_groups):
    page, verdicts, _ = two_groups
    rows = tables(page)[0].rows
    assert [row[0] for row in rows] == [verdict.claim.name for verdict in verdicts]
    assert [row[-1].split(" (")[0] for row in rows] == [verdict.status for verdict in verdicts]
    for row, verdict in zip(rows, verdicts, strict=True):
        left, right = verdict.sides
        assert left - right == pytest.approx(verdict.effect)
        told = [f"{100 * left:.2f}", f"{100 * right:.2f}", f"{100 * verdict.effect:+.2f}"]
        assert list(row[1:4]) == told
        certified = verdict.claim.name.startswith("degenerate")
        assert (row[5] == "—") != certified
        if certified:
            # Each side is known to within 5 points.
            low, high = verdict.certified
            assert (low, high) == pytest.approx((verdict.effect - 0.1, verdict.effect + 0.1))


def test_a_claim_that_fails_is_told_in_words():
    def failing(larger, smaller, **options):
        (verdict,) = decide([Claim("a > b", "", np.array(larger), np.array(smaller), **options)])
        assert verdict.status == "fails"
        return failures([verdict])

    assert failing([0.1, 0.11, 0.12], [0.5, 0.51, 0.52]) == [
        "“a > b” fails: 11.0 % stands against 51.0 %, the other way round."
    ]
    slopes = {"unit": "decades per layer"}
    assert failing([-0.2, -0.21, -0.19], [0.0] * 3, **slopes) == [
        "“a > b” fails: -0.2 decades per layer is measured, on the other side of 0."
    ]
    assert failing([-0.2, -0.21, -0.19], [0.0] * 3, margin=0.02, **slopes) == [
        "“a > b” fails: -0.2 decades per layer is measured, beyond 0.02."
    ]
    assert failing([0.1, 0.11, 0.12], [0.5, 0.51, 0.53], margin=0.01) == [
        "“a > b” fails: 11.0 % stands against 51.3 %, and their difference is larger than the "
        "margin."
    ]
    assert failures(decide([Claim("a > b", "", np.ones(3), np.zeros(3))])) == []


def test_counts_are_grammatical():
    told = counted(["holds", "undecided", "fails", "fails", "no verdict"])
    assert told == "Of 5 claims, 1 holds, 2 fail, 1 is undecided, 1 gets no verdict"
    assert counted(["holds"] * 2) == "Of 2 claims, 2 hold, 0 fail, 0 are undecided"


def test_every_row_of_a_table_fills_its_columns(two_groups):
    for table in tables(two_groups[0]):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert "nan" not in " ".join(cell for row in table.rows for cell in row)


def test_the_wide_networks_are_shown_against_n_without_a_verdict(two_groups):
    page, verdicts, _ = two_groups
    shown = [
        part
        for part in page.parts
        if isinstance(part, Picture) and "gainst the number" in part.title
    ]
    assert len(shown) == 1
    assert "No verdict" in shown[0].caption
    sizes = {row[2] for row in tables(page)[-1].rows}
    assert sizes == {"500", "2,000"}
    assert all("2,000" not in verdict.claim.name for verdict in verdicts)


def test_what_is_resolved_at_no_n_is_not_drawn(tmp_path):
    wide = planted(SCALE.accuracy, 709_652, [500, 2_000])
    wide["degenerate_upper"] = wide["degenerate_lower"] + 0.9
    pooled = planted(SCALE.fractions, 26_900, [10_000])
    results = {SCALE.accuracy.name: wide, SCALE.fractions.name: pooled}
    verdicts = decide(claims(wide, pooled))
    page = make_page(STUDY, SCALE, "cifar100", results, verdicts, tmp_path, [ENVIRONMENT], 90.0)
    assert not any("gainst the number" in part.title for part in page.parts)
    assert "No share is resolved" in tables(page)[-1].note
    assert tables(page)[-1].title == "Fractions of the wide networks"
    assert "No verdict" in tables(page)[-1].note


def test_networks_below_the_noise_floor_are_left_out_of_means_and_said(two_groups):
    rows = tables(two_groups[0])[2].rows
    first = next(row for row in rows if row[:2] == ("plain", "0"))
    assert first[3] == "below the noise floor"
    last = next(row for row in rows if row[:2] == ("hyper-residual", "100"))
    assert "(2 of 3)" in last[3]


def test_the_protocol_and_its_deviations_are_stated(two_groups):
    footer = " ".join(two_groups[0].footer)
    for deviation in SCALE.deviations:
        assert deviation in footer
    for words in ("landscape 9.9", "2 cores", "1.5 minutes", "ICLR 2018", "Holm"):
        assert words in footer


@pytest.mark.parametrize("known", [True, False])
def test_curves_of_which_nothing_is_resolved_are_left_out(known):
    axes = ("architecture", "seed", "spectrum_epoch", "images")
    eps, relative = np.logspace(-6, 2, 9), np.logspace(-8, 0, 9)
    lower = 1.0 if known else 0.0
    data = {"noise_floor": (axes, np.full((1, 2, 1, 1), 1e-5))}
    for name, grid in (("curve", "eps"), ("relative_curve", "relative")):
        for end, value in (("", 1.0), ("_lower", lower), ("_upper", 1.0)):
            data[name + end] = ((*axes, grid), np.full((1, 2, 1, 1, 9), value))
    for end, value in (("", 1.0), ("_lower", lower), ("_upper", 1.0)):
        data["degenerate" + end] = (axes, np.full((1, 2, 1, 1), value))
    coords = {"architecture": ["plain"], "seed": [0, 1], "spectrum_epoch": [1], "images": [9]}
    whole = xr.Dataset(data, coords={**coords, "eps": eps, "relative": relative})
    assert len(fraction_curves(whole)) == known


@pytest.mark.parametrize(("shift", "told"), [(0.2, 1), (0.005, 0), (-0.2, 0)])
def test_an_order_that_norms_turn_round_is_told(shift, told):
    axes = ("architecture", "seed", "spectrum_epoch", "images", "relative")
    names = ["plain", "residual"]
    middle = np.full((2, 3, 1, 1, 4), 0.6)
    middle[1] += shift
    data = {
        f"relative_curve{end}": (axes, middle + width)
        for end, width in (("", 0.0), ("_lower", -0.001), ("_upper", 0.001))
    }
    coords = {"architecture": names, "seed": range(3), "spectrum_epoch": [1], "images": [9]}
    whole = xr.Dataset(data, coords={**coords, "relative": np.logspace(-6, -3, 4)})
    more, less = np.array([0.5, 0.51, 0.52]), np.array([0.3, 0.3, 0.31])
    name = "degenerate: plain > residual, at the last epoch"
    found = relative_orders(whole, decide([Claim(name, "", more, less, unit="points")]))
    assert len(found) == told
    if told:
        assert "plain networks have 60.0 % (certified [59.9, 60.1])" in found[0]
        assert "residual ones 80.0 %" in found[0]


@pytest.mark.parametrize("level", [0.5, 2.95])
def test_what_is_compared_at_matched_loss_is_told(level):
    results = planted(SCALE.fractions, 26_900, [10_000])
    results["loss"][:, 0, -1] = level
    more, less = np.array([0.5, 0.51, 0.52]), np.array([0.3, 0.3, 0.31])

    def told(name, more=more, less=less):
        return at_matched_levels(results, decide([Claim(name, "", more, less, unit="points")]))

    name = "degenerate: plain > residual, at matched training loss"
    *untrained, norms = told(name)
    assert "‖H‖ is 100 against 230" in norms
    # ln 20 is 2.996.
    assert len(untrained) == (level > 2.9)
    if untrained:
        at_seven = 100 * results["accuracy"].sel(epoch=7).values[:, 0]
        assert "1 of 3 seeds" in untrained[0]
        assert f"from {at_seven.min():.0f} to {at_seven.max():.0f} %" in untrained[0]
    # Norms that are near one another, claims that are undecided, and other claims.
    name = "degenerate: plain > hyper-residual, at matched training loss"
    assert len(told(name)) == len(untrained)
    assert told(name, less=more + np.array([0.1, -0.1, 0])) == []
    assert told("degenerate: plain > residual, at the last epoch") == []
