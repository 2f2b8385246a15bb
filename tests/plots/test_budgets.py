import numpy as np

from landscape.degeneracy import Budget, Rank
from landscape.degeneracy.budget import CAUSES
from landscape.plots import plot_budgets
from landscape.plots.budgets import _LOOKS


def budget(beyond=0, **counts):
    counts = {name.replace("_", " "): count for name, count in counts.items()}
    total = sum(counts.values())
    one, nothing = np.asarray(100 - total), np.asarray(0.0)
    rank = Rank(
        one, one, one, (200, 100), 1e-12, nothing, nothing, nothing, np.zeros(0), "exact",
        np.asarray("gap"),
    )  # fmt: skip
    return Budget(
        counts=dict.fromkeys(CAUSES, 0) | counts,
        total=total,
        upper=total + beyond,
        num_parameters=100,
        num_examples=20,
        by_layer={},
        layer_names=(),
        findings=(),
        rank=rank,
        method="structural" if beyond else "exact",
        nearly_flat=None,
        eps=None,
    )


def test_bars_add_up_to_the_null_share_in_the_order_of_the_chain():
    made = {
        "plain": budget(elimination=30, rescaling=5, unexplained=1),
        "residual": budget(elimination=10, compensation=4, few_data=6),
    }
    ax = plot_budgets(made)
    bars = [(round(b.get_y() + b.get_height() / 2), b.get_x(), b.get_width()) for b in ax.patches]
    assert bars == [(0, 0, 30), (0, 30, 5), (0, 35, 1), (1, 0, 10), (1, 10, 4), (1, 14, 6)]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["elimination", "rescaling", "compensation", "unexplained", "few data"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["plain", "residual"]
    texts = [text.get_text() for text in ax.texts]
    assert [text for text in texts if text.isdigit()] == ["30", "5", "10", "4", "6"]
    assert texts.count("N (C − 1)/P = 1.8") == 2
    assert "Gauss–Newton matrix (% of P)" in ax.get_xlabel()


def test_what_is_nearly_null_follows_what_is_surely_null():
    ax = plot_budgets({"exact": budget(overlap=10), "large": budget(overlap=20, beyond=30)})
    bars = [(round(b.get_y() + b.get_height() / 2), b.get_x(), b.get_width()) for b in ax.patches]
    assert bars == [(0, 0, 10), (1, 0, 20), (1, 20, 30)]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["overlap", "null or σ ≤ 1e-12 σ₁"]


def test_every_cause_has_a_look_of_its_own():
    assert tuple(_LOOKS) == CAUSES
    assert len(set(_LOOKS.values())) == len(CAUSES)


def test_axes_that_are_given_are_used_and_returned():
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    assert plot_budgets({"one": budget(softmax=3)}, ax=ax) is ax
