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


def picture(found):
    """In large type, since it is shown at half its size: what was found, said above each part."""
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 14, "lines.linewidth": 2.5})
    figure = pyplot.figure(figsize=(10, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1])
    left, right = above.subplots(1, 2)
    plot_spectrum(found.spectrum, eps=found.eps, color="#0072B2", ax=left)
    plot_fraction_of_eps(found.spectrum, eps=found.eps, color="#0072B2", ax=right)
    causes = plot_budgets(found.budget, ax=below.subplots())
    share = 100 * float(found.degenerate.estimate)
    null = 100 * found.budget.total / found.num_parameters
    left.set_title(f"{found.num_parameters:,} eigenvalues …", loc="left")
    left.set_xticks([-1e1, -1e-1, 0, 1e-1, 1e1], ["−10", "−0.1", "0", "0.1", "10"])
    right.set_title(f"… {share:.0f} % of them within 10⁻³ of zero", loc="left")
    causes.set_title(f"{null:.0f} % exactly null (Gauss–Newton matrix), because of …", loc="left")
    causes.set_xlabel("% of all directions", loc="center")
    causes.texts[-1].set_visible(False)
    handles, labels = causes.get_legend_handles_labels()
    causes.get_legend().remove()
    below.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize="medium"
    )
    return figure


if __name__ == "__main__":
    found = analyze(problem(), num_steps=1000)
    picture(found).savefig(Path(__file__).with_name("analyze.png"), dpi=120)
