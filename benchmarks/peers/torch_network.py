"""The benchmark's networks in PyTorch, with the exported weights, and vectors in their layout.

An exported array ``params:hidden/kernel`` stacks the kernels of all hidden layers, (L-1, n, n).
Kernels act from the right, those of convolutions have their channels last; a torch layer's weight
has other axes. Vectors and images come as arrays of the same names and shapes, vectors with a
leading axis, ``vectors:hidden/kernel``.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Slot:
    """Where a parameter's numbers are: an exported array, an entry of its stack, its axes."""

    name: str
    axes: tuple[int, ...] | None = None
    entry: int | None = None

    def read(self, arrays: dict[str, np.ndarray]) -> Tensor:
        """The parameter from exported arrays."""
        array = arrays[self.name] if self.entry is None else arrays[self.name][self.entry]
        array = np.transpose(array, self.axes) if self.axes else array
        return torch.from_numpy(array.copy(order="C"))

    def written(self, array: np.ndarray) -> np.ndarray:
        """The array in the layout of the export."""
        return np.transpose(array, np.argsort(self.axes)) if self.axes else array


_DENSE, _CONVOLUTION = (1, 0), (3, 2, 0, 1)


def _layer(name: str, entry: int | None = None) -> list[Slot]:
    return [Slot(f"{name}/kernel", _DENSE, entry), Slot(f"{name}/bias", None, entry)]


class MLP(nn.Module):
    """Hidden layers of equal width; skips between them are none, the identity, or hyper."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        fan_in, width = arrays["params:input/kernel"].shape
        layers, classes = len(arrays["params:hidden/bias"]), len(arrays["params:output/bias"])
        sizes = [fan_in] + [width] * (layers + 1)
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList([nn.Linear(*pair) for pair in pairs])
        self.output = nn.Linear(width, classes)
        self.skip = str(arrays["skip"])
        if self.skip == "hyper":
            matrices = torch.from_numpy(arrays["state:fixed/skip"])
            self.register_buffer("matrices", matrices)
        self.slots = [
            *_layer("input"),
            *itertools.chain(*(_layer("hidden", entry) for entry in range(layers))),
            *_layer("output"),
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = torch.relu(self.layers[0](x))
        past = torch.zeros_like(x)
        for l, layer in enumerate(list(self.layers)[1:], 1):
            y = torch.relu(layer(x))
            if self.skip == "none":
                x = y
            elif self.skip == "identity":
                x = y + x
            else:
                x, past = (
                    y + x + (past / (l - 1) if l > 1 else 0.0),
                    past + x @ self.matrices[l - 1].T,
                )
        return self.output(x)


class ResNet(nn.Module):
    """Blocks of two convolutions with batch normalisation, and skips without parameters."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        kernels = [k.split(":")[1] for k in arrays if k.startswith("params:")]
        blocks = len({name.split("/")[0] for name in kernels if name.startswith("block")})
        names = ["stem"]
        for block in range(blocks):
            names += [f"block_{block}/first", f"block_{block}/second"]
        self.slots, convolutions, norms = [], [], []
        for i, name in enumerate(names):
            *_, fan_in, fan_out = arrays[f"params:{name}/kernel"].shape
            stride = 2 if fan_out > fan_in and i else 1
            convolutions.append(nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False))
            norm = nn.BatchNorm2d(fan_out)
            for own, theirs in (("running_mean", "mean"), ("running_var", "var")):
                values = torch.from_numpy(arrays[f"state:batch_stats/{name}_norm/{theirs}"])
                getattr(norm, own).copy_(values)
            norms.append(norm)
            self.slots += [
                Slot(f"{name}/kernel", _CONVOLUTION),
                Slot(f"{name}_norm/scale"),
                Slot(f"{name}_norm/bias"),
            ]
        self.layers = nn.ModuleList(
            [nn.Sequential(c, n) for c, n in zip(convolutions, norms, strict=True)]
        )
        self.output = nn.Linear(fan_out, len(arrays["params:output/bias"]))
        self.slots += _layer("output")
        self.skip = str(arrays["skip"]) != "none"
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits, from images with their channels last."""
        x = torch.relu(self.layers[0](x.permute(0, 3, 1, 2)))
        layers = list(self.layers)[1:]
        for first, second in zip(layers[0::2], layers[1::2], strict=True):
            branch = second(torch.relu(first(x)))
            if self.skip:
                stride, added = first[0].stride[0], branch.shape[1] - x.shape[1]
                short = x[:, :, ::stride, ::stride]
                branch = branch + functional.pad(short, (0, 0, 0, 0, 0, added))
            x = torch.relu(branch)
        return self.output(x.mean((2, 3)))


class Transformer(nn.Module):
    """A causal transformer of tokens; logits of all positions in one axis."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        tokens, width = arrays["params:embed"].shape
        self.heads = int(arrays["heads"])
        self.embed = nn.Parameter(torch.empty(tokens, width))
        self.position = nn.Parameter(torch.empty(*arrays["params:position"].shape))
        self.slots = [Slot("embed"), Slot("position")]
        blocks = len([k for k in arrays if k.endswith("/query/kernel") and k[:7] == "params:"])
        self.blocks = nn.ModuleList()
        for block in range(blocks):
            parts = nn.ModuleDict()
            for name, module in (
                ("before", nn.LayerNorm(width)),
                ("query", nn.Linear(width, width)),
                ("key", nn.Linear(width, width)),
                ("value", nn.Linear(width, width)),
                ("mix", nn.Linear(width, width)),
                ("between", nn.LayerNorm(width)),
                ("up", nn.Linear(width, 4 * width)),
                ("down", nn.Linear(4 * width, width)),
            ):
                parts[f"{name}_"] = module
                path = f"block_{block}/{name}"
                if isinstance(module, nn.Linear):
                    self.slots += _layer(path)
                else:
                    self.slots += [Slot(f"{path}/scale"), Slot(f"{path}/bias")]
            self.blocks.append(parts)
        self.output = nn.Linear(width, tokens)
        self.slots += _layer("output")

    def forward(self, tokens: Tensor) -> Tensor:
        """(N·T, tokens)."""
        x = self.embed[tokens] + self.position
        count, length, width = x.shape
        mask = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        for parts in self.blocks:
            y = parts["before_"](x)
            q, k, v = (
                parts[name](y).view(count, length, self.heads, -1).transpose(1, 2)
                for name in ("query_", "key_", "value_")
            )
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            scores = scores.masked_fill(~mask, float("-inf"))
            y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(count, length, width)
            x = x + parts["mix_"](y)
            y = functional.gelu(parts["up_"](parts["between_"](x)), approximate="tanh")
            x = x + parts["down_"](y)
        return self.output(x).reshape(count * length, -1)


NETWORKS = {"mlp": MLP, "resnet": ResNet, "transformer": Transformer}


class Problem:
    """The network, its batch and the start vectors, on the device."""

    def __init__(self, arrays: dict[str, np.ndarray], options: dict[str, Any]) -> None:
        torch.set_num_threads(options.get("threads", torch.get_num_threads()))
        self.device = options.get("device", "cpu")
        if self.device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = bool(options.get("tf32", False))
            torch.backends.cudnn.allow_tf32 = bool(options.get("tf32", False))
        self.model: Any = NETWORKS[str(arrays["kind"])](arrays)
        self.inputs = torch.from_numpy(arrays["inputs"]).to(self.device)
        self.targets = torch.from_numpy(arrays["labels"]).long().reshape(-1).to(self.device)
        self.criterion = nn.CrossEntropyLoss()
        params = {k.split(":")[1]: v for k, v in arrays.items() if k.startswith("params:")}
        with torch.no_grad():
            exported = self._tensors(params)
            for own, value in zip(self.model.parameters(), exported, strict=True):
                own.copy_(value)
        self.model.to(self.device)
        self.slots = self.model.slots
        if options.get("compiled"):
            self.model = torch.compile(self.model)
        vectors = {k.split(":")[1]: v for k, v in arrays.items() if k.startswith("vectors:")}
        count = len(next(iter(vectors.values()))) if vectors else 0
        self.vectors = [
            [t.to(self.device) for t in self._tensors({k: v[i] for k, v in vectors.items()})]
            for i in range(count)
        ]

    def _tensors(self, arrays: dict[str, np.ndarray]) -> list[Tensor]:
        """In the order of ``model.parameters()``."""
        return [slot.read(arrays) for slot in self.model.slots]

    def exported(self, tensors: list[Tensor]) -> dict[str, np.ndarray]:
        """A vector in the layout of the weights, as the problem names and orders them."""
        found: dict[str, Any] = {}
        for slot, tensor in zip(self.slots, tensors, strict=True):
            array = slot.written(tensor.detach().cpu().numpy())
            if slot.entry is None:
                found[f"image:{slot.name}"] = array
            else:
                found.setdefault(f"image:{slot.name}", []).append(array)
        return {name: np.asarray(array) for name, array in found.items()}

    def exported_flat(self, vector: Tensor) -> dict[str, np.ndarray]:
        """``exported`` of a vector in one piece."""
        shapes = [p.shape for p in self.model.parameters()]
        parts = vector.split([shape.numel() for shape in shapes])
        return self.exported([p.reshape(s) for p, s in zip(parts, shapes, strict=True)])

    def gradient(self) -> list[Tensor]:
        """Of the loss, once: the unit in which costs are told."""
        loss = self.criterion(self.model(self.inputs), self.targets)
        return list(torch.autograd.grad(loss, list(self.model.parameters())))

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()
