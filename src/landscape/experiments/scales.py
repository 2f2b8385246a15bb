"""The sizes an experiment is run at: what is trained, on what, and where curvature is taken.

Adam, learning rate 5·10⁻⁴ and 100 epochs are the standard protocol (Orhan and Pitkow, ICLR 2018);
its batch of 500 is 1 % of CIFAR-100's 50,000 images, and every scale here keeps that share, so that
a smaller data set still gives the standard 10,000 updates. This is our protocol, stated in every
report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from landscape.data.registry import find_source
from landscape.data.sources import Source
from landscape.errors import InputError


@dataclasses.dataclass(frozen=True)
class Group:
    """Networks of one size on one form of the data.

    Attributes
    ----------
    name
        ``"wide"``, ``"pooled"``, …: unique within a scale.
    depth, width
        Of the networks.
    pooled
        Image side after average pooling; None keeps the image.
    num_images
        A fixed, stratified subset; None takes all.
    epochs, batch_size, learning_rate
        Of the training.
    seeds
        Networks per architecture.
    block
        Networks trained together in one program. Small ones gain on any device; wide ones keep a
        core busy by themselves (``benchmarks/families.py``).
    spectrum_epochs
        When curvature is taken.
    spectrum_images
        Examples the curvature is taken over, at the last of these epochs one for each entry;
        at the others the largest. None stands for all.
    num_steps
        Lanczos steps for each of the spectrum epochs, one probe.
    chunk_size
        Examples per chunk of a Hessian product, where all at once do not fit in the memory; None
        never makes chunks.
    float64
        Whether curvature is taken in float64: in float32 ε = 10⁻³ can lie below the noise floor of
        Hessians of norms above 10³, as small networks have that fit their data.
    measure_epochs
        When the distances from singularities and the gradients of activities are taken; by default
        after 0, 1 and 2 epochs and after every tenth part of the training.
    kept_epochs
        When networks are kept, so that curvature can be taken where the training loss has come to a
        level; none if it is not.
    """

    name: str
    depth: int
    width: int
    pooled: int | None
    num_images: int | None
    epochs: int
    batch_size: int
    learning_rate: float
    seeds: int
    block: int
    spectrum_epochs: tuple[int, ...]
    spectrum_images: tuple[int | None, ...]
    num_steps: tuple[int, ...]
    chunk_size: int | None = None
    float64: bool = False
    measure_epochs: tuple[int, ...] = ()
    kept_epochs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.measure_epochs:
            tenths = {round(part * self.epochs / 10) for part in range(11)}
            first = {epoch for epoch in (0, 1, 2) if epoch <= self.epochs}
            object.__setattr__(self, "measure_epochs", tuple(sorted(first | tenths)))


@dataclasses.dataclass(frozen=True)
class Scale:
    """A size, and which of its groups answers which question.

    Attributes
    ----------
    name
        ``smoke``, ``laptop`` or ``paper``.
    accuracy, fractions
        The group whose training accuracy, and the one whose spectra, are judged; may be the same.
    deviations
        What differs from the standard protocol, in words.
    """

    name: str
    accuracy: Group
    fractions: Group
    deviations: tuple[str, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups, each once."""
        return (self.accuracy,) if self.accuracy == self.fractions else (
            self.accuracy,
            self.fractions,
        )  # fmt: skip


SCALES = ("smoke", "laptop", "paper")
_RATE = 5e-4

# Images of the standard protocol's data set.
_STANDARD_IMAGES = 50_000

# When large networks are kept; small ones are after every epoch.
_KEPT = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)


def standard_dataset(scale: str) -> str:
    """The data set of a scale if none is named."""
    return "cifar100" if scale == "paper" else "digits"


def make_scale(
    name: str,
    dataset: str,
    seeds: int | None,
    *,
    depth: int = 20,
    epochs: int | None = None,
    spectra: bool = True,
    matched: bool = False,
) -> Scale:
    """The groups of an experiment.

    Parameters
    ----------
    name
        One of ``SCALES``.
    dataset
        Name of a data set.
    seeds
        Networks per architecture; None takes the scale's.
    depth
        Hidden layers; at the smoke scale 4 whatever is asked for.
    epochs
        Of the training; None takes the scale's.
    spectra
        Whether curvature is taken.
    matched
        Whether it is taken at matched training loss too.

    Raises
    ------
    InputError
        For an unknown scale, fewer than one seed, or ``paper`` on digits.
    DataError
        For an unknown data set.
    """
    if name not in SCALES:
        raise InputError(f"unknown scale {name!r}; choose one of {', '.join(SCALES)}")
    if seeds is not None and seeds < 1:
        raise InputError(f"--seeds must be at least 1; got {seeds}")
    if name == "paper" and dataset == "digits":
        raise InputError(
            "the paper scale needs 50,000 images; choose --dataset cifar100 or cifar10"
        )
    scale = {"smoke": _smoke, "laptop": _laptop, "paper": _paper}[name](find_source(dataset), depth)
    if dataset != "cifar100":
        other = (f"{dataset} instead of CIFAR-100", *scale.deviations)
        scale = dataclasses.replace(scale, deviations=other)
    changes: dict[str, Any] = {}
    if not spectra:
        changes = {"spectrum_epochs": (), "spectrum_images": (), "num_steps": ()}
    if not (spectra and matched):
        changes["kept_epochs"] = ()
    if not spectra:
        scale = dataclasses.replace(scale, fractions=scale.accuracy)
    if epochs is not None:
        changes |= {"epochs": epochs, "measure_epochs": (), "kept_epochs": ()}
    if seeds is not None:
        changes["seeds"] = seeds
    accuracy, fractions = (
        dataclasses.replace(g, **changes, block=min(g.block, seeds or g.seeds))
        for g in (scale.accuracy, scale.fractions)
    )
    return dataclasses.replace(scale, accuracy=accuracy, fractions=fractions)


def with_less(
    scale: Scale, *, block: int | None = None, steps: int | None = None, last_only: bool = False
) -> Scale:
    """The same with other blocks, and with fewer or shorter spectra; what differs is said.

    Parameters
    ----------
    scale
        As it would be.
    block
        Networks trained together in one program.
    steps
        Lanczos steps of a spectrum at most.
    last_only
        Whether spectra are taken at the last epoch only, over the most images; where the study asks
        for it at matched training loss too.

    Raises
    ------
    InputError
        For fewer than one network, or fewer than one step.
    """
    for name, count in (("block", block), ("steps", steps)):
        if count is not None and count < 1:
            raise InputError(f"--{name} must be at least 1; got {count}")

    def less(group: Group) -> Group:
        changes: dict[str, Any] = {}
        if block is not None:
            changes["block"] = min(block, group.seeds)
        epochs, counts, sizes = group.spectrum_epochs, group.num_steps, group.spectrum_images
        if last_only and epochs:
            largest = None if None in sizes else max(size for size in sizes if size is not None)
            epochs, counts, sizes = epochs[-1:], counts[-1:], (largest,)
        if steps is not None:
            counts = tuple(min(steps, count) for count in counts)
        return dataclasses.replace(
            group, **changes, spectrum_epochs=epochs, num_steps=counts, spectrum_images=sizes
        )

    accuracy, fractions = less(scale.accuracy), less(scale.fractions)
    said = list(scale.deviations)
    if last_only and scale.fractions.spectrum_epochs:
        besides = " and at matched training loss" if scale.fractions.kept_epochs else ""
        said.append(f"spectra at the last epoch{besides} only, over the most images")
    if fractions.num_steps != scale.fractions.num_steps[-len(fractions.num_steps) :]:
        said.append(f"{max(fractions.num_steps)} Lanczos steps at most")
    return dataclasses.replace(
        scale, accuracy=accuracy, fractions=fractions, deviations=tuple(said)
    )


def training_split(dataset: str, num_images: int | None) -> str:
    """The smallest part of the training images that is published apart and has enough of them.

    Parameters
    ----------
    dataset
        Its name.
    num_images
        How many are enough; None stands for all.
    """
    enough = [
        split
        for split in find_source(dataset).splits
        if split.name != "test" and num_images is not None and split.num_examples >= num_images
    ]
    return min(enough, key=lambda split: split.num_examples).name if enough else "train"


def scale_from_json(record: Mapping[str, Any]) -> Scale:
    """A scale from its JSON form, as a run folder records it."""
    return Scale(
        record["name"],
        group_from_json(record["accuracy"]),
        group_from_json(record["fractions"]),
        tuple(record["deviations"]),
    )


def group_from_json(record: Mapping[str, Any]) -> Group:
    """A group from its JSON form."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    return Group(**fields)


def _images(source: Source) -> int:
    """Of the training set."""
    return int(source.splits[0].num_examples)


def _fewer(count: int) -> list[str]:
    """What is to be said of a number of images, and of its batches."""
    if count == _STANDARD_IMAGES:
        return []
    return [
        f"{count:,} images instead of {_STANDARD_IMAGES:,}, batches of {round(count / 100)} (1 % "
        "of the images, as in the standard protocol)"
    ]


def _part(source: Source, count: int) -> list[str]:
    """Of what part of the training images the subset is, if not of all."""
    split = training_split(source.name, count)
    return [] if split == "train" else [f"the images of {split}, which is published apart"]


def _side(source: Source) -> tuple[int | None, list[str]]:
    """To what side large images are pooled for wide networks, and what is to be said of it."""
    side = source.image_shape[0]
    return (32, [f"images pooled from {side}×{side} to 32×32"]) if side > 32 else (None, [])


def _smoke(source: Source, depth: int) -> Scale:
    digits = source.name == "digits"
    group = Group(
        name="small", depth=4, width=8, pooled=None if digits else 8, num_images=200, epochs=10,
        batch_size=2, learning_rate=_RATE, seeds=2, block=2, spectrum_epochs=(0, 10),
        spectrum_images=(None,), num_steps=(150, 150), kept_epochs=tuple(range(11)),
    )  # fmt: skip
    pooled = "" if digits else " pooled to 8×8"
    return Scale(
        "smoke", group, group,
        (f"200 images{pooled}, 4 layers of 8 units, batches of 2 (1 % of the images), 10 epochs, "
         "2 seeds: this shows that everything works, not what is true",),
    )  # fmt: skip


def _laptop(source: Source, depth: int) -> Scale:
    every = tuple(range(101))
    if source.name == "digits":
        # Deeper networks are narrower, so that there are enough data for a verdict on fractions.
        width = 16 if depth <= 20 else 14
        group = Group(
            name="digits", depth=depth, width=width, pooled=None, num_images=None, epochs=100,
            batch_size=18, learning_rate=_RATE, seeds=5, block=5, spectrum_epochs=(0, 50, 100),
            spectrum_images=(None,), num_steps=(600, 600, 1000), float64=True, kept_epochs=every,
        )  # fmt: skip
        return Scale(
            "laptop", group, group,
            (f"width {width} instead of 128, batches of 18 (1 % of the "
             "images, as in the standard protocol)",),
        )  # fmt: skip
    count = min(10_000, _images(source))
    common = {"depth": depth, "num_images": count, "epochs": 100,
              "batch_size": round(count / 100), "learning_rate": _RATE, "seeds": 3}  # fmt: skip
    side, pooled_first = _side(source)
    wide = Group(
        name="wide", width=128, pooled=side, block=1, spectrum_epochs=(100,),
        spectrum_images=(500, 2_000), num_steps=(40,), **common,  # type: ignore[arg-type]
    )  # fmt: skip
    pooled = Group(
        name="pooled", width=32, pooled=8, block=3, spectrum_epochs=(0, 50, 100),
        spectrum_images=(None,), num_steps=(50, 100, 1500), kept_epochs=every,
        **common,  # type: ignore[arg-type]
    )  # fmt: skip
    return Scale(
        "laptop", wide, pooled,
        (*_fewer(count), *_part(source, count), *pooled_first,
         "fractions are judged on networks of width 32 on images pooled to 8×8, where there is "
         "enough data; those of the wide networks are shown against N, without a verdict"),
    )  # fmt: skip


def _paper(source: Source, depth: int) -> Scale:
    count, (side, pooled_first) = _images(source), _side(source)
    # A hundred networks together keep an accelerator busy.
    group = Group(
        name="wide", depth=depth, width=128, pooled=side, num_images=None, epochs=100,
        batch_size=round(count / 100), learning_rate=_RATE, seeds=5, block=100,
        spectrum_epochs=(0, 10, 30, 100), spectrum_images=(2_000, 10_000, None),
        num_steps=(400, 400, 400, 400), chunk_size=5_000, kept_epochs=_KEPT,
    )  # fmt: skip
    return Scale("paper", group, group, (*_fewer(count), *pooled_first))
