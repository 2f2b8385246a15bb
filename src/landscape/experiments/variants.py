"""The kinds of networks that experiments compare, by what sets each apart from a plain one.

After A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from landscape.models import MLP, RandomSkip
from landscape.training import BiasRegularization


@dataclasses.dataclass(frozen=True)
class Variant:
    """What sets a kind of networks apart.

    Attributes
    ----------
    skip
        As for ``MLP``.
    cancel_skip
        Whether the initial weights undo the skip: the malicious initialisation.
    norm
        Whether the layer in the middle is normalised over the batch.
    penalty
        Added to the loss that is descended, not to the one that is recorded or differentiated.
    """

    skip: str | RandomSkip = "none"
    cancel_skip: bool = False
    norm: bool = False
    penalty: BiasRegularization | None = None

    def model(self, depth: int, width: int, num_classes: int) -> MLP:
        """The network of a size."""
        return MLP(
            depth,
            width,
            num_classes,
            skip=self.skip,
            cancel_skip=self.cancel_skip,
            norm_after=max(1, depth // 2) if self.norm else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Names and numbers of whatever is not as in a plain network."""
        record: dict[str, Any] = {}
        plain = Variant()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != getattr(plain, field.name):
                parts = isinstance(value, RandomSkip | BiasRegularization)
                record[field.name] = dataclasses.asdict(value) if parts else value
        return record


PLAIN = Variant()
RESIDUAL = Variant(skip="identity")
HYPER_RESIDUAL = Variant(skip="hyper")
MALICIOUS = Variant(skip="identity", cancel_skip=True)
ORTHOGONAL = Variant(skip=RandomSkip("orthogonal"))

STANDARD = {"plain": PLAIN, "residual": RESIDUAL, "hyper-residual": HYPER_RESIDUAL}


def repeated(num_distinct: int) -> Variant:
    """A skip matrix of so many distinct orthonormal columns."""
    return Variant(skip=RandomSkip("repeated", num_distinct=num_distinct))


def unit_circle(tau: float) -> Variant:
    """A skip matrix with all eigenvalues on the unit circle; its singular values spread with τ."""
    return Variant(skip=RandomSkip("unit circle", tau=tau))


def biased(penalty: BiasRegularization, *, norm: bool = False) -> Variant:
    """A plain network whose biases are held near targets; with a normalised layer if asked."""
    return Variant(penalty=penalty, norm=norm)
