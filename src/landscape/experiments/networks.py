"""Training and curvature of families of networks, as units of work; shared by the experiments."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree

from landscape.curvature import hessian, noise_floor
from landscape.curvature.memory import device_memory
from landscape.data import Dataset, load
from landscape.degeneracy import activity_gradient_norms, measures
from landscape.experiments.scales import Group, training_split
from landscape.experiments.variants import STANDARD, Variant
from landscape.models import MLP
from landscape.models.mlp import NORM_MOMENTUM
from landscape.runs import Unit
from landscape.spectra import LanczosSpectrum, slq
from landscape.training import (
    BiasRegularization,
    Callback,
    Snapshot,
    TrainConfig,
    fit_many,
    penalized,
    softmax_cross_entropy,
)

# Examples that the distances from singularities and the gradients of activities are taken over.
MEASURED = 2_000

# Of each network through training: mean norm of the units' incoming weights (elimination), share of
# responses that are exactly 0, mean correlation of incoming weights (overlap), share of variance in
# three directions (linear dependence).
MEASURES = ("incoming_norm", "zero_probability", "correlation", "top_share")

# The subset of the data is part of the protocol, the same for every seed of a network.
_SUBSET_SEED = 0


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks of one architecture and group on one data set.

    Attributes
    ----------
    architecture
        How the networks are called.
    group
        Size, data and protocol.
    dataset
        Prepared: subset, pooled, standardised.
    seed
        Of the whole run; network ``i`` draws from ``fold_in(key(seed), i)``.
    variant
        What sets them apart from plain ones; default the standard one of that name.
    """

    architecture: str
    group: Group
    dataset: Dataset
    seed: int
    variant: Variant | None = None

    @cached_property
    def model(self) -> MLP:
        """The networks' module."""
        return self.kind.model(self.group.depth, self.group.width, self.dataset.num_classes)

    @property
    def kind(self) -> Variant:
        """The variant, the standard one if none was given."""
        return STANDARD[self.architecture] if self.variant is None else self.variant

    @cached_property
    def num_parameters(self) -> int:
        """P."""
        params = self._blank["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    @property
    def inputs(self) -> dict[str, Any]:
        """What every unit of the family depends on."""
        group = dataclasses.asdict(self.group)
        for name in ("name", "seeds", "spectrum_images", "num_steps", "chunk_size", "float64"):
            del group[name]
        return {
            "variant": self.kind.to_json(),
            "data": self.dataset.digest,
            "seed": self.seed,
            **group,
        }

    @cached_property
    def _blank(self) -> dict[str, Any]:
        """Variables of the model's shapes, all zero."""
        example = jnp.zeros((1, *self.dataset.inputs.shape[1:]), jnp.float32)
        penalty = self.kind.penalty

        def start(key: jax.Array) -> dict[str, Any]:
            variables = dict(self.model.init(key, example))
            drawn = {} if penalty is None else {"penalty": penalty.draw(key, variables["params"])}
            return {**variables, **drawn}

        shapes = jax.eval_shape(start, jax.random.key(0))
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    @cached_property
    def measured(self) -> tuple[jax.Array, jax.Array]:
        """Inputs and labels that the measures through training are taken over."""
        data = self.dataset
        return data.subset(min(MEASURED, data.num_examples), _SUBSET_SEED).arrays()

    def measure(self, snapshot: Snapshot) -> Mapping[str, Any]:
        """How near networks are to each singularity, and their gradients layer by layer."""
        return _measured(self.model, snapshot.params, snapshot.state, self.measured)

    def keys(self, networks: Sequence[int]) -> jax.Array:
        """Random keys of some networks."""
        key = jax.random.key(self.seed)
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(networks))

    def unflatten(self, parameters: np.ndarray, state: np.ndarray) -> tuple[Any, Any]:
        """A network's variables from the flat vectors of its snapshot."""
        blank = dict(self._blank)
        params = blank.pop("params")
        return (
            ravel_pytree(params)[1](jnp.asarray(parameters)),
            ravel_pytree(blank)[1](jnp.asarray(state)),
        )


@functools.partial(jax.jit, static_argnums=0)
def _measured(model: MLP, params: Any, state: Any, data: tuple[jax.Array, jax.Array]) -> Any:
    """Of networks side by side; what is not asked for is not computed."""

    def one(params: Any, state: Any) -> dict[str, jax.Array]:
        state = calibrated(model, params, state, data[0])
        found = measures(model, params, data[0], state=state)
        return {
            "incoming_norm": found.elimination.mean_incoming_norm,
            "zero_probability": found.elimination.mean_zero_probability,
            "correlation": found.overlap.mean_correlation,
            "top_share": found.dependence.mean_top_share,
            "gradient_norm": activity_gradient_norms(model, params, data, state=state),
        }

    return jax.vmap(one)(params, state)


def calibrated(model: MLP, params: Any, state: Any, inputs: jax.Array) -> Any:
    """The state with the statistics of these examples in the normalised layer, if there is one.

    Running statistics begin at 0 and 1, where the layer normalises nothing.
    """
    if model.norm_after is None:
        return state
    blank = jax.tree.map(jnp.zeros_like, state["batch_stats"])
    variables = {"params": params, **state, "batch_stats": blank}
    moved = model.apply(variables, inputs, train=True, mutable=["batch_stats"])[1]["batch_stats"]
    # Of statistics that were 0 a batch makes this share of its own.
    share = 1 - NORM_MOMENTUM
    return {**state, "batch_stats": jax.tree.map(lambda leaf: leaf / share, moved)}


def prepare(dataset: str, group: Group) -> Dataset:
    """The data of a group: fixed stratified subset, pooled, standardised."""
    data = load(dataset, training_split(dataset, group.num_images))
    if group.num_images is not None and group.num_images < data.num_examples:
        data = data.subset(group.num_images, _SUBSET_SEED)
    if group.pooled is not None:
        data = data.pooled(group.pooled)
    return data.standardized()


@dataclasses.dataclass(frozen=True)
class TrainBlock:
    """The work of a training unit: some networks of a family, together."""

    family: Family
    networks: tuple[int, ...]

    def __call__(self, checkpoints: Path, should_stop: Callable[[], bool]) -> xr.Dataset:
        """Train, measure, and keep the networks at the epochs that spectra are taken at.

        In float32 everywhere: accelerators would take TF32 or bfloat16 otherwise.
        """
        with jax.default_matmul_precision("highest"):
            return self._trained(checkpoints, should_stop)

    def _trained(self, checkpoints: Path, should_stop: Callable[[], bool]) -> xr.Dataset:
        family, group = self.family, self.family.group
        callbacks = [Callback("measures", group.measure_epochs, family.measure, together=True)]
        if group.spectrum_epochs:
            callbacks.append(Callback("snapshot", snapshot_epochs(group), _flat, together=True))
        run = fit_many(
            family.model,
            family.dataset,
            TrainConfig(
                group.epochs, group.batch_size, group.learning_rate, max(1, group.epochs // 10)
            ),
            family.keys(self.networks),
            block_size=len(self.networks),
            penalty=family.kind.penalty,
            callbacks=callbacks,
            checkpoint_dir=checkpoints,
            should_stop=should_stop,
        )
        measured, kept = ("seed", "measure_epoch"), ("seed", "snapshot_epoch")
        found: dict[str, Any] = {
            name: (("seed", "epoch"), getattr(run, name)) for name in ("loss", "accuracy")
        }
        found |= {name: (measured, run.records[f"measures/{name}"]) for name in MEASURES}
        found["gradient_norm"] = ((*measured, "layer"), run.records["measures/gradient_norm"])
        coords: dict[str, Any] = {
            "seed": list(self.networks),
            "epoch": run.epochs,
            "measure_epoch": list(group.measure_epochs),
            "layer": np.arange(1, group.depth + 1),
        }
        if group.spectrum_epochs:
            found["parameters"] = ((*kept, "parameter"), run.records["snapshot/parameters"])
            found["state"] = ((*kept, "entry"), run.records["snapshot/state"])
            coords["snapshot_epoch"] = list(snapshot_epochs(group))
        return xr.Dataset(found, coords=coords)


def _flat(snapshot: Snapshot) -> Mapping[str, Any]:
    flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])
    rows = len(snapshot.loss)
    return {
        "parameters": flat(snapshot.params),
        "state": flat(snapshot.state) if jax.tree.leaves(snapshot.state) else np.zeros((rows, 0)),
    }


def snapshot_epochs(group: Group) -> tuple[int, ...]:
    """When networks are kept."""
    return tuple(sorted({*group.spectrum_epochs, *group.kept_epochs}))


def training_units(family: Family) -> list[Unit]:
    """One unit per block of networks, formed from the full list whatever is done already."""
    group = family.group

    def unit(networks: tuple[int, ...]) -> Unit:
        label = f"train-{group.name}-{family.architecture}-{networks[0]:03d}"
        inputs = {**family.inputs, "networks": list(networks)}
        return Unit(label, inputs, TrainBlock(family, networks))

    return [
        unit(tuple(range(start, min(start + group.block, group.seeds))))
        for start in range(0, group.seeds, group.block)
    ]


@dataclasses.dataclass(frozen=True)
class SpectrumPlace:
    """Where a spectrum is taken: network, epoch, and number of examples."""

    network: int
    epoch: int
    images: int


def matched_places(
    families: Sequence[Family], trained: Mapping[str, xr.Dataset]
) -> dict[str, list[SpectrumPlace]]:
    """Where each network has first been kept with its training loss at its seed's level, or below.

    The level is the highest of the architectures' final losses.

    Parameters
    ----------
    families
        One for each architecture, same group and data.
    trained
        By architecture: what training recorded, all seeds.

    Returns
    -------
    By architecture, in the order of the seeds; networks whose loss is not finite are left out.
    """
    group, total = families[0].group, families[0].dataset.num_examples
    level = np.fmax.reduce([one["loss"].isel(epoch=-1).values for one in trained.values()])
    images = max(total if n is None else min(n, total) for n in group.spectrum_images)
    kept = list(group.kept_epochs)
    found: dict[str, list[SpectrumPlace]] = {}
    for family in families:
        losses = trained[family.architecture]["loss"].sel(epoch=kept).values
        found[family.architecture] = [
            SpectrumPlace(seed, kept[int(np.argmax(low))], images)
            for seed, low in enumerate(losses <= level[:, None])
            if low.any()
        ]
    return found


def spectrum_places(family: Family) -> list[SpectrumPlace]:
    """Every place of a family: the largest N at each epoch, every N at the last."""
    group, total = family.group, family.dataset.num_examples
    sizes = sorted({total if n is None else min(n, total) for n in group.spectrum_images})
    return [
        SpectrumPlace(network, epoch, images)
        for network in range(group.seeds)
        for epoch in group.spectrum_epochs
        for images in (sizes if epoch == group.spectrum_epochs[-1] else sizes[-1:])
    ]


@dataclasses.dataclass(frozen=True)
class TakeSpectrum:
    """The work of a spectrum unit: Lanczos on the Hessian of the training loss.

    It is that of the data alone, unless the penalty is to be ``with_penalty``.
    """

    family: Family
    place: SpectrumPlace
    parameters: np.ndarray
    state: np.ndarray
    num_steps: int
    with_penalty: bool = False

    def __call__(self, checkpoints: Path, should_stop: Callable[[], bool]) -> xr.Dataset:
        """Take the spectrum and the operator's noise floor."""
        wide = jax.enable_x64(True) if self.family.group.float64 else contextlib.nullcontext()
        with wide:
            return to_dataset(self._spectrum())

    def _spectrum(self) -> LanczosSpectrum:
        family, images = self.family, self.place.images
        data = family.dataset
        part = data if images == data.num_examples else data.subset(images, _SUBSET_SEED)
        params, state = family.unflatten(self.parameters, self.state)
        arrays = part.arrays()
        if family.group.float64:
            params, state, arrays = jax.tree.map(_in_float64, (params, state, arrays))
        operator = hessian(
            _loss(family.model, family.kind.penalty if self.with_penalty else None),
            params,
            arrays,
            state=calibrated(family.model, params, state, arrays[0]),
            chunk_size=_chunk_size(family.group, images, arrays[0].dtype.itemsize),
        )
        key = jax.random.fold_in(jax.random.key(family.seed), 1_000_000 + self.place.network)
        probe, trial = jax.random.split(key)
        floor = noise_floor(operator, trial)
        return slq(
            operator,
            probe,
            num_steps=self.num_steps,
            noise_floor=floor,
            capacity=max(family.group.num_steps),
        )


def _chunk_size(group: Group, images: int, itemsize: int) -> int | None:
    """None where products linearised over all images at once take a quarter of the memory at most.

    They take ten numbers for each unit and image, of which half are what is stored.
    """
    whole = 10 * images * group.depth * group.width * itemsize
    return None if whole <= device_memory() / 4 else group.chunk_size


@cache
def _loss(model: MLP, penalty: BiasRegularization | None) -> Callable[..., jax.Array]:
    """The same function each time, so that products compile once."""
    data = softmax_cross_entropy(model)
    return data if penalty is None else penalized(data, penalty)


def _in_float64(leaf: Any) -> Any:
    floating = jnp.issubdtype(jnp.result_type(leaf), np.floating)
    return jnp.asarray(leaf, jnp.float64) if floating else leaf


def spectrum_units(
    family: Family, trained: xr.Dataset, matched: Sequence[SpectrumPlace] = ()
) -> list[Unit]:
    """One unit per place, then those at matched loss, which are no others, then the penalised ones.

    The latter two have the last one's steps.
    """
    group, places = family.group, spectrum_places(family)
    others = [place for place in matched if place.epoch != group.spectrum_epochs[-1]]

    def unit(
        place: SpectrumPlace, num_steps: int, where: str = "", with_penalty: bool = False
    ) -> Unit:
        snapshot = trained.sel(seed=place.network, snapshot_epoch=place.epoch)
        parameters, state = snapshot["parameters"].values, snapshot["state"].values
        work = TakeSpectrum(family, place, parameters, state, num_steps, with_penalty)
        inputs = {
            **family.inputs, **dataclasses.asdict(place),
            "num_steps": num_steps, "float64": group.float64,
            **({"with_penalty": True} if with_penalty else {}),
        }  # fmt: skip
        label = (
            f"spectrum-{family.group.name}-{family.architecture}-{place.network:03d}"
            f"-epoch{place.epoch}-N{place.images}{where}"
        )
        return Unit(label, inputs, work)

    steps = dict(zip(group.spectrum_epochs, group.num_steps, strict=True))
    return [
        *(unit(place, steps[place.epoch]) for place in places),
        *(unit(place, group.num_steps[-1], "-matched") for place in others),
        *(
            unit(place, group.num_steps[-1], "-penalised", True)
            for place in penalized_places(family)
        ),
    ]


def penalized_places(family: Family) -> list[SpectrumPlace]:
    """Where spectra are taken with the penalty in the loss: at the end, if there is a penalty."""
    if family.kind.penalty is None:
        return []
    places = spectrum_places(family)
    return [place for place in places if (place.epoch, place.images) == _last(places)]


def _last(places: Sequence[SpectrumPlace]) -> tuple[int, int]:
    """The last epoch, and the most images."""
    return max((place.epoch, place.images) for place in places)


def to_dataset(spectrum: LanczosSpectrum) -> xr.Dataset:
    """A Lanczos spectrum, nothing deflated, with names on its axes."""
    return xr.Dataset(
        {
            "alphas": (("probe", "step"), spectrum.alphas),
            "betas": (("probe", "step"), spectrum.betas),
            "num_steps": (("probe",), spectrum.num_steps),
            "probe_norms": (("probe",), spectrum.probe_norms),
            "noise_floor": ((), spectrum.noise_floor),
        },
        attrs={
            "num_parameters": spectrum.num_parameters,
            "reorthogonalize": spectrum.reorthogonalize,
            "dtype": spectrum.dtype,
            "num_matvecs": spectrum.num_matvecs,
        },
    )


def from_dataset(dataset: xr.Dataset) -> LanczosSpectrum:
    """The inverse of ``to_dataset``."""
    arrays = {name: variable.values for name, variable in dataset.data_vars.items()}
    return LanczosSpectrum(
        **{str(name): np.asarray(value) for name, value in arrays.items()},
        num_parameters=int(dataset.attrs["num_parameters"]),
        reorthogonalize=str(dataset.attrs["reorthogonalize"]),
        dtype=str(dataset.attrs["dtype"]),
        num_matvecs=int(dataset.attrs["num_matvecs"]),
        deflated=np.zeros(0),
    )
