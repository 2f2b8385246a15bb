"""The benchmark's network in PyTorch, with the exported weights, and vectors in its layout.

An exported array ``params:hidden/kernel`` stacks the kernels of all hidden layers, (L-1, n, n), and
kernels act from the right; a torch layer's weight is a kernel's transpose. Vectors and images come
as arrays of the same names and shapes with a leading axis, ``vectors:hidden/kernel``.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Hidden layers of equal width, with identity skips between them or without."""

    def __init__(self, inputs: int, width: int, depth: int, classes: int, skip: bool) -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList([nn.Linear(*pair) for pair in pairs])
        self.output = nn.Linear(width, classes)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = torch.relu(self.layers[0](x))
        for layer in list(self.layers)[1:]:
            y = torch.relu(layer(x))
            x = y + x if self.skip else y
        return self.output(x)


class Problem:
    """The network, its batch and the start vectors, on the device."""

    def __init__(self, arrays: dict[str, np.ndarray], options: dict[str, Any]) -> None:
        torch.set_num_threads(options.get("threads", torch.get_num_threads()))
        self.device = options.get("device", "cpu")
        if self.device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = bool(options.get("tf32", False))
        depth = 1 + len(arrays["params:hidden/bias"])
        fan_in, width = arrays["params:input/kernel"].shape
        classes = len(arrays["params:output/bias"])
        self.model = Network(fan_in, width, depth, classes, bool(arrays["skip"]))
        self.inputs = torch.from_numpy(arrays["inputs"]).to(self.device)
        self.targets = torch.from_numpy(arrays["labels"]).long().to(self.device)
        self.criterion = nn.CrossEntropyLoss()
        self.depth = depth
        params = {k.split(":")[1]: v for k, v in arrays.items() if k.startswith("params:")}
        with torch.no_grad():
            exported = self._tensors(params)
            for own, value in zip(self.model.parameters(), exported, strict=True):
                own.copy_(value)
        self.model.to(self.device)
        vectors = {k.split(":")[1]: v for k, v in arrays.items() if k.startswith("vectors:")}
        count = len(next(iter(vectors.values()))) if vectors else 0
        self.vectors = [
            [t.to(self.device) for t in self._tensors({k: v[i] for k, v in vectors.items()})]
            for i in range(count)
        ]

    def _tensors(self, arrays: dict[str, np.ndarray]) -> list[Tensor]:
        """In the order of ``model.parameters()``."""

        def layer(kernel: np.ndarray, bias: np.ndarray) -> list[Tensor]:
            return [torch.tensor(kernel.T.copy()), torch.tensor(bias)]

        tensors = layer(arrays["input/kernel"], arrays["input/bias"])
        for kernel, bias in zip(arrays["hidden/kernel"], arrays["hidden/bias"], strict=True):
            tensors += layer(kernel, bias)
        return tensors + layer(arrays["output/kernel"], arrays["output/bias"])

    def exported(self, tensors: list[Tensor]) -> dict[str, np.ndarray]:
        """A vector in the layout of the weights, as the problem names and orders them."""
        arrays = [t.detach().cpu().numpy() for t in tensors]
        kernels, biases = arrays[0::2], arrays[1::2]
        return {
            "image:input/kernel": kernels[0].T,
            "image:input/bias": biases[0],
            "image:hidden/kernel": np.stack([k.T for k in kernels[1:-1]]),
            "image:hidden/bias": np.stack(biases[1:-1]),
            "image:output/kernel": kernels[-1].T,
            "image:output/bias": biases[-1],
        }

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
