"""A data set as arrays, and the exact operations that make a smaller one of it.

Notation: N examples of H x W pixels and C channels. ``inputs`` are the published unsigned
integers, kept as integers; what a model sees is

    x = (unit * inputs - shift) / scale,

with ``unit`` mapping the integers to [0, 1] and ``shift``, ``scale`` one number per channel.
Subsets and pooling stay in integers, so that they are exact and do not depend on the machine.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from landscape.errors import InputError

if TYPE_CHECKING:
    import jax

# Examples per block where integers are widened: bounds the memory, changes no result.
_BLOCK = 2048


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """N labelled examples, as unsigned integers.

    Attributes
    ----------
    inputs : array of unsigned integers, shape (N, H, W, C)
        As published: uint8. After pooling: exact sums, in uint16 or uint32.
    labels : array of int32, shape (N,)
        From 0 to ``num_classes - 1``.
    num_classes : int
        Number of classes, whether or not each of them occurs.
    class_names : tuple of str
        Their names; empty where they have none.
    name, split : str
        What it was loaded as.
    label_kind : str or None
        Which labels these are ("coarse", "fine"), where a data set has several.
    unit : float
        ``unit * inputs`` lies in [0, 1]. Default: 1 over the largest value of the dtype.
    shift, scale : array of float32, shape (C,)
        Standardisation per channel, in units of ``unit * inputs``. Default: 0 and 1.
    indices : array of int64, shape (N,)
        Where each example stands in the split that was loaded. Default: 0 to N - 1.

    Raises
    ------
    InputError
        If shapes, dtypes or labels do not fit together.

    Notes
    -----
    The arrays are read-only views. Methods return a new data set and leave this one as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from landscape.data import Dataset
    >>> images = np.arange(64, dtype=np.uint8).reshape(4, 4, 4, 1)
    >>> labels = np.array([0, 1, 0, 1], np.int32)
    >>> data = Dataset(images, labels, num_classes=2, name="stripes")
    >>> data
    Dataset('stripes', split='train', 4 examples of 4x4x1 uint8, 2 classes, unit 1/255)
    >>> data.pooled(2).inputs[0, :, :, 0]
    array([[10, 18],
           [42, 50]], dtype=uint16)
    """

    inputs: NDArray[np.unsignedinteger]
    labels: NDArray[np.int32]
    num_classes: int
    class_names: tuple[str, ...] = ()
    name: str = "custom"
    split: str = "train"
    label_kind: str | None = None
    # The defaults of these four depend on the inputs; None is replaced when the object is made.
    unit: float = field(default=None)  # type: ignore[assignment]
    shift: NDArray[np.float32] = field(default=None)  # type: ignore[arg-type]
    scale: NDArray[np.float32] = field(default=None)  # type: ignore[arg-type]
    indices: NDArray[np.int64] = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        inputs = _checked_inputs(self.inputs)
        num_examples, channels = inputs.shape[0], inputs.shape[3]
        unit = 1 / np.iinfo(inputs.dtype).max if self.unit is None else float(self.unit)
        if not 0 < unit < math.inf:
            raise InputError(f"unit is {unit}, expected a positive number")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise InputError(f"{len(self.class_names)} class names for {self.num_classes} classes")
        shift = _checked_channels("shift", self.shift, channels, 0.0)
        scale = _checked_channels("scale", self.scale, channels, 1.0)
        if not (scale > 0).all():
            raise InputError(f"scale is {scale}, expected positive numbers")
        indices = np.arange(num_examples) if self.indices is None else np.asarray(self.indices)
        if indices.shape != (num_examples,) or indices.dtype.kind not in "iu":
            raise InputError(f"indices have shape {indices.shape}, expected ({num_examples},)")
        checked = {
            "inputs": inputs,
            "labels": _checked_labels(self.labels, num_examples, self.num_classes),
            "shift": shift,
            "scale": scale,
            "indices": indices.astype(np.int64, copy=False),
        }
        for name, array in checked.items():
            view = array.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        object.__setattr__(self, "unit", unit)
        object.__setattr__(self, "class_names", tuple(self.class_names))

    def __len__(self) -> int:
        return self.num_examples

    def __repr__(self) -> str:
        height, width, channels = self.inputs.shape[1:]
        kind = f"{self.label_kind} " if self.label_kind else ""
        standardized = (self.shift != 0).any() or (self.scale != 1).any()
        return (
            f"Dataset({self.name!r}, split={self.split!r}, "
            f"{self.num_examples:,} examples of {height}x{width}x{channels} {self.inputs.dtype}, "
            f"{self.num_classes} {kind}classes, unit 1/{1 / self.unit:.12g}"
            f"{', standardized' if standardized else ''})"
        )

    @property
    def num_examples(self) -> int:
        """N, the number of examples."""
        return int(self.inputs.shape[0])

    @cached_property
    def digest(self) -> str:
        """Sha256, in hex, over everything that a computation on this data can depend on.

        Covers name, split, kind of labels, number of classes, the bytes, shapes and dtypes of
        inputs and labels, unit, shift and scale. Equal digests mean equal :meth:`arrays`.
        """
        header = (
            self.name,
            self.split,
            self.label_kind,
            self.num_classes,
            self.inputs.dtype.name,
            self.inputs.shape,
            self.unit.hex(),
            tuple(float(value).hex() for value in (*self.shift, *self.scale)),
        )
        digest = hashlib.sha256(repr(header).encode())
        digest.update(np.ascontiguousarray(self.inputs).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def subset(self, size: int, seed: int) -> Dataset:
        """Return a stratified random subset, the same one for the same seed on any machine.

        Parameters
        ----------
        size : int
            Number of examples, from 1 to N.
        seed : int
            Non-negative.

        Returns
        -------
        Dataset
            In the original order; ``indices`` records which examples they are. Each class's
            count differs from ``size * (its share of N)`` by less than one.

        Raises
        ------
        InputError
            If the size or the seed is out of range.

        Notes
        -----
        Counts by the method of the largest remainder (Hamilton), ties to the lower class. Within
        a class the examples with the smallest keys are taken; a key is a raw 64-bit output of
        PCG64, whose stream NumPy keeps fixed (NEP 19), unlike that of its ``permutation``.

        Examples
        --------
        >>> from landscape.data import load
        >>> few = load("digits").subset(200, seed=0)
        >>> len(few), len(set(few.labels.tolist()))
        (200, 10)
        """
        size, seed = _integer("size", size), _integer("seed", seed)
        if not 1 <= size <= self.num_examples:
            raise InputError(f"size is {size}, expected 1 to {self.num_examples} (all examples)")
        if seed < 0:
            raise InputError(f"seed is {seed}, expected a non-negative integer")
        quotas = _largest_remainder(np.bincount(self.labels, minlength=self.num_classes), size)
        keys = np.random.PCG64(seed).random_raw(self.num_examples)
        by_class = np.lexsort((keys, self.labels))
        starts = np.searchsorted(self.labels[by_class], np.arange(self.num_classes))
        taken = [by_class[s : s + q] for s, q in zip(starts, quotas, strict=True)]
        chosen = np.sort(np.concatenate(taken))
        return replace(
            self,
            inputs=self.inputs[chosen],
            labels=self.labels[chosen],
            indices=self.indices[chosen],
        )

    def pooled(self, size: int) -> Dataset:
        """Return the images averaged over blocks down to ``size x size`` pixels, exactly.

        Parameters
        ----------
        size : int
            New height and width; has to divide both.

        Returns
        -------
        Dataset
            The inputs are the integer sums over k1 x k2 blocks, in uint16 (in uint32 where sums
            can pass 65,535), and ``unit`` carries the 1/(k1 k2). Shift and scale are kept.

        Raises
        ------
        InputError
            If the size does not divide height and width.

        Examples
        --------
        >>> from landscape.data import load
        >>> small = load("digits").pooled(4)
        >>> small.inputs.shape, 1 / small.unit
        ((1797, 4, 4, 1), 64.0)
        """
        size = _integer("size", size)
        num_examples, height, width, channels = self.inputs.shape
        if size < 1 or height % size or width % size:
            raise InputError(
                f"images of {height}x{width} cannot be pooled to {size}x{size}: "
                "the size has to divide both"
            )
        rows, columns = height // size, width // size
        if rows * columns == 1:
            return self
        largest = round(1 / self.unit) * rows * columns
        dtype = next((d for d in (np.uint16, np.uint32) if largest <= np.iinfo(d).max), np.uint64)
        blocks = self.inputs.reshape(num_examples, size, rows, size, columns, channels)
        sums = blocks.sum(axis=(2, 4), dtype=dtype)
        return replace(self, inputs=sums, unit=self.unit / (rows * columns))

    def standardized(self, reference: Dataset | None = None) -> Dataset:
        """Return the data set with mean 0 and variance 1 in each channel.

        Parameters
        ----------
        reference : Dataset, optional
            The data whose mean and standard deviation are used (for test data: the training
            data). Default: this data set itself.

        Returns
        -------
        Dataset
            With ``shift`` the mean and ``scale`` the standard deviation (divisor N H W) of
            ``unit * inputs`` over examples and pixels. A channel without variance gets scale 1.

        Raises
        ------
        InputError
            If the reference has another number of channels, or no examples.

        Notes
        -----
        The sums are accumulated in integers and are exact, so zero variance is recognised
        exactly; only the final values are rounded, through float64, to float32.

        Examples
        --------
        >>> from landscape.data import load
        >>> inputs, labels = load("digits").standardized().arrays()
        >>> bool(abs(inputs.mean()) < 1e-5), bool(abs(inputs.std() - 1) < 1e-5)
        (True, True)
        """
        source = self if reference is None else reference
        channels = self.inputs.shape[3]
        if source.inputs.shape[3] != channels:
            raise InputError(
                f"the reference has {source.inputs.shape[3]} channels, expected {channels}"
            )
        count = math.prod(source.inputs.shape[:3])
        if count == 0:
            raise InputError("the reference has no examples to take a mean of")
        first, second = _exact_moments(source.inputs)
        shift = [source.unit * (total / count) for total in first]
        scale = []
        for total, squares in zip(first, second, strict=True):
            variance = count * squares - total * total
            scale.append(source.unit * math.sqrt(variance) / count if variance else 1.0)
        return replace(self, shift=np.array(shift, np.float32), scale=np.array(scale, np.float32))

    def arrays(self) -> tuple[jax.Array, jax.Array]:
        """Return what a model sees, on jax's default device.

        Returns
        -------
        inputs : jax.Array of float32, shape (N, H, W, C)
            ``(unit * inputs - shift) / scale``, computed on the host.
        labels : jax.Array of int32, shape (N,)

        Examples
        --------
        >>> from landscape.data import load
        >>> inputs, labels = load("digits").arrays()
        >>> inputs.shape, inputs.dtype, float(inputs.max())
        ((1797, 8, 8, 1), dtype('float32'), 1.0)
        """
        import jax.numpy as jnp

        values = self.inputs.astype(np.float32)
        values *= np.float32(self.unit)
        values -= self.shift
        values /= self.scale
        return jnp.asarray(values), jnp.array(self.labels)


def _checked_inputs(inputs: NDArray) -> NDArray[np.unsignedinteger]:
    array = np.asarray(inputs)
    if array.dtype.kind != "u":
        raise InputError(
            f"inputs are {array.dtype}, expected unsigned integers such as uint8 "
            "(their scale goes into unit, shift and scale)"
        )
    if array.ndim != 4:
        raise InputError(f"inputs have shape {array.shape}, expected (N, H, W, C)")
    return array


def _checked_labels(labels: NDArray, num_examples: int, num_classes: int) -> NDArray[np.int32]:
    array = np.asarray(labels)
    if array.shape != (num_examples,) or array.dtype.kind not in "iu":
        raise InputError(
            f"labels are {array.dtype} of shape {array.shape}, "
            f"expected integers of shape ({num_examples},), one per input"
        )
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if low < 0 or high >= num_classes:
        raise InputError(
            f"labels run from {low} to {high}, expected 0 to {num_classes - 1} "
            f"for {num_classes} classes"
        )
    return array.astype(np.int32, copy=False)


def _checked_channels(
    name: str, values: NDArray | None, channels: int, default: float
) -> NDArray[np.float32]:
    if values is None:
        return np.full(channels, default, np.float32)
    array = np.asarray(values, np.float32)
    if array.shape != (channels,) or not np.isfinite(array).all():
        raise InputError(f"{name} is {array}, expected {channels} finite numbers, one per channel")
    return array


def _integer(name: str, value: int) -> int:
    try:
        return index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}, expected an integer") from None


def _largest_remainder(counts: NDArray[np.integer], size: int) -> list[int]:
    # Python integers: size * count must not overflow, and remainders compare exactly.
    total = int(counts.sum())
    shares = [divmod(size * int(count), total) for count in counts]
    quotas = [whole for whole, _ in shares]
    order = sorted(range(len(shares)), key=lambda c: (-shares[c][1], c))
    for c in order[: size - sum(quotas)]:
        quotas[c] += 1
    return quotas


def _exact_moments(inputs: NDArray[np.unsignedinteger]) -> tuple[list[int], list[int]]:
    # Sums and sums of squares per channel. A block's sums fit 64 bits for all 8- and 16-bit
    # inputs; across blocks they are added as Python integers.
    channels = inputs.shape[3]
    first, second = [0] * channels, [0] * channels
    for start in range(0, inputs.shape[0], _BLOCK):
        block = inputs[start : start + _BLOCK].reshape(-1, channels).astype(np.uint64)
        for c, column in enumerate(block.T):
            first[c] += int(column.sum())
            second[c] += int(column @ column)
    return first, second
