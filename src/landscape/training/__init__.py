"""Training as one compiled program an epoch, many seeds at once, records and exact resumption."""

from landscape.training.config import TrainConfig
from landscape.training.fit import Callback, Snapshot, TrainingRun, fit, fit_many
from landscape.training.losses import softmax_cross_entropy

__all__ = [
    "Callback",
    "Snapshot",
    "TrainConfig",
    "TrainingRun",
    "fit",
    "fit_many",
    "softmax_cross_entropy",
]
