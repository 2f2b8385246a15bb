"""The network of the README's picture, and the picture: ``python docs/images/example.py``.

landscape analyze docs/images/example.py:problem --num-steps 1000 --out runs/example
"""

from pathlib import Path

import jax

from landscape.analysis import analyze
from landscape.curvature import Problem
from landscape.data import load
from landscape.models import MLP
from landscape.plots import plot_budgets, plot_fraction_of_eps, plot_spectrum
from landscape.training import TrainConfig, fit, softmax_cross_entropy


def problem():
    """A plain network of 10 layers of 12 units, 100 epochs on the digits."""
    data = load("digits").subset(1000, seed=0).standardized()
    model = MLP(10, 12, 10)
    run = fit(model, data, TrainConfig(100, 50, 5e-4), jax.random.key(0))
    name = "a plain 10×12 network on the digits"
    return Problem(
        softmax_cross_entropy(model), run.params, data.arrays(), run.state, model=model, name=name
    )


def picture(found) -> "Figure":  # noqa: F821
    """In large type, since it is shown at half its size: what was found, said above each part."""
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 13, "lines.linewidth": 2})
    figure = pyplot.figure(figsize=(9.5, 7), layout="constrained")
    axes = figure.subplot_mosaic("dc;bb", height_ratios=[4, 2.6])
    plot_spectrum(found.spectrum, eps=found.eps, color="#0072B2", ax=axes["d"])
    plot_fraction_of_eps(found.spectrum, eps=found.eps, color="#0072B2", ax=axes["c"])
    plot_budgets(found.budget, ax=axes["b"])
    share = 100 * float(found.degenerate.estimate)
    null = 100 * found.budget.total / found.num_parameters
    axes["d"].set_title(f"{found.num_parameters:,} eigenvalues of the Hessian", loc="left")
    axes["c"].set_title(f"{share:.0f} % of them within 10⁻³ of zero", loc="left")
    axes["b"].set_title(f"{null:.0f} % exactly null for Gauss–Newton, and why", loc="left", pad=14)
    axes["b"].set_xlabel("% of all directions")
    axes["b"].legend(
        *axes["b"].get_legend_handles_labels(),
        frameon=False, fontsize="small", ncols=2, loc="upper left", bbox_to_anchor=(1, 1.15),
        columnspacing=0.8, handlelength=1.4,
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    found = analyze(problem(), num_steps=1000)
    picture(found).savefig(Path(__file__).with_name("analyze.png"), dpi=120)
