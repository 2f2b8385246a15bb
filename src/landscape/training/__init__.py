"""Training as one compiled program an epoch, many seeds at once, records and exact resumption."""

from landscape.training.config import TrainConfig
from landscape.training.fit import fit, fit_many
from landscape.training.history import Callback, Snapshot, TrainingRun
from landscape.training.losses import softmax_cross_entropy
from landscape.training.penalties import BiasRegularization, penalized
from landscape.training.watching import Watch

__all__ = [
    "BiasRegularization",
    "Callback",
    "Snapshot",
    "TrainConfig",
    "TrainingRun",
    "Watch",
    "fit",
    "fit_many",
    "penalized",
    "softmax_cross_entropy",
]
