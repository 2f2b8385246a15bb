"""Dense Hessians of small skip networks by PyTorch in float64: the truth for `torch_hessians.npz`.

Written from the formulas below and without the package, so that agreement with it means something.

Networks
--------
Inputs x are (N, d), hidden layers have width n, there are L of them, f is relu or tanh, and kernels
are stored input-major, (in, out), so that a row of activations stands to the left of its kernel:

    x_1     = f(x W_0 + b_0)
    x_{l+1} = f(x_l W_l + b_l) + s_l        for l = 1 … L-1
    logits  = x_L W_out + b_out

    "none"      s_l = 0
    "identity"  s_l = x_l
    "hyper"     s_l = x_l + 1/(l-1) Σ_{k=1}^{l-1} x_k Q_kᵀ    (no sum for l = 1)
    "matrix"    s_l = x_l Qᵀ

x_k Q_kᵀ is Q_k applied to each example's activations as a column vector. The Q are fixed, random,
orthogonal, not symmetric, and not trainable. Kernels are Glorot normal (variance 2/(in + out)),
biases normal with standard deviation 0.3, inputs standard normal, labels uniform over C classes.

What is computed
----------------
The loss is the mean over the N examples of the softmax cross-entropy with integer labels, in nats.
The gradient (P,) and the Hessian (P, P) are with respect to the flat vector of all trainable
parameters, these blocks in this order, each raveled in C order:

    hidden_bias (L-1, n), hidden_kernel (L-1, n, n), input_bias (n,), input_kernel (d, n),
    output_bias (C,), output_kernel (n, C)

hidden_bias[l-1] and hidden_kernel[l-1] are b_l and W_l. With d = 5, n = 4, L = 5, C = 3: P = 119.

The file
--------
"inputs", "labels", "torch_version", and for each case "<skip>/<activation>", such as "hyper/tanh":
the six blocks above, "Q" (hyper: (L-2, n, n), entry k-1 is Q_k; matrix: (n, n); else absent),
"logits", "loss", "gradient", "hessian". Inputs, labels and Q are shared by all cases, the
parameters are drawn anew for each. The Hessian stored is (H + Hᵀ)/2.

For the parameters of "identity/tanh" there is also the weighted mean Σ w_i ℓ_i / Σ w_i, with w
drawn uniformly from [0.2, 2]: "weights", "weighted/loss", "weighted/gradient", "weighted/hessian".

Checks made on the way
----------------------
No relu pre-activation is nearer to zero than `MARGIN`, so derivatives are unambiguous. The Hessian
is symmetric to 1e-12, and a second route to it (reverse over reverse) agrees with the first
(forward over reverse). Central differences of the loss agree with the gradient, those of the
gradient with the Hessian. A second forward pass, in numpy, one example and one column vector at
a time, gives the same loss.

Rerun
-----
    pip install torch==2.13.0 numpy
    python make_torch_hessians.py [OUTPUT]

OUTPUT defaults to `torch_hessians.npz` beside this script. torch is imported inside the functions
that need it, so that test collection can import this module without it.
"""

import sys
from pathlib import Path

import numpy as np

SEED = 43  # chosen so that `MARGIN` holds and few relu units are dead on the inputs
N, D, WIDTH, DEPTH, C = 23, 5, 4, 5, 3
SKIPS = ("none", "identity", "hyper", "matrix")
ACTIVATIONS = ("relu", "tanh")
WEIGHTED_CASE = "identity/tanh"
MARGIN = 1e-4  # of the relu pre-activations, from zero
STEP = 1e-5  # of the central differences; moves no pre-activation across a kink
SHAPES = {
    "hidden_bias": (DEPTH - 1, WIDTH),
    "hidden_kernel": (DEPTH - 1, WIDTH, WIDTH),
    "input_bias": (WIDTH,),
    "input_kernel": (D, WIDTH),
    "output_bias": (C,),
    "output_kernel": (WIDTH, C),
}
P = sum(int(np.prod(shape)) for shape in SHAPES.values())


def random_orthogonal(rng):
    """Draw a Haar-distributed orthogonal (n, n) matrix."""
    q, r = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))
    return q * np.sign(np.diag(r))


def draw_blocks(rng):
    """Draw one network's parameters: Glorot normal kernels, biases of standard deviation 0.3."""
    blocks = {}
    for name, shape in SHAPES.items():
        std = 0.3 if name.endswith("bias") else np.sqrt(2 / (shape[-2] + shape[-1]))
        blocks[name] = std * rng.standard_normal(shape)
    return blocks


def flatten(blocks):
    """Concatenate the blocks, each in C order, in the order of `SHAPES`."""
    return np.concatenate([blocks[name].ravel() for name in SHAPES])


def unflatten(theta):
    """Cut a flat vector (numpy or torch) back into its blocks."""
    blocks, start = {}, 0
    for name, shape in SHAPES.items():
        stop = start + int(np.prod(shape))
        blocks[name] = theta[start:stop].reshape(shape)
        start = stop
    return blocks


def forward(theta, x, skip, f, q):
    """Return the logits (N, C) and the list of all pre-activations, for torch tensors."""
    p = unflatten(theta)
    pre = [x @ p["input_kernel"] + p["input_bias"]]
    xs = [f(pre[0])]  # xs[l - 1] is x_l
    for layer in range(1, DEPTH):
        current = xs[layer - 1]
        pre.append(current @ p["hidden_kernel"][layer - 1] + p["hidden_bias"][layer - 1])
        following = f(pre[-1])
        if skip in ("identity", "hyper"):
            following = following + current
        if skip == "matrix":
            following = following + current @ q.T
        if skip == "hyper" and layer > 1:
            terms = [xs[k - 1] @ q[k - 1].T for k in range(1, layer)]
            following = following + sum(terms) / (layer - 1)
        xs.append(following)
    return xs[-1] @ p["output_kernel"] + p["output_bias"], pre


def numpy_loss(theta, inputs, labels, skip, activation, q, weights):
    """Return the (weighted) mean loss, one example and one column vector at a time."""
    p = unflatten(theta)
    losses = []
    for x, label in zip(inputs, labels, strict=True):
        history = []
        h = np.einsum("io,i->o", p["input_kernel"], x) + p["input_bias"]
        h = np.maximum(h, 0) if activation == "relu" else np.tanh(h)
        history.append(h)
        for index in range(DEPTH - 1):  # index = l - 1 earlier layers lie behind x_l
            a = np.einsum("io,i->o", p["hidden_kernel"][index], h) + p["hidden_bias"][index]
            a = np.maximum(a, 0) if activation == "relu" else np.tanh(a)
            if skip == "identity":
                a = a + h
            elif skip == "matrix":
                a = a + np.einsum("ij,j->i", q, h)
            elif skip == "hyper":
                a = a + h
                for k in range(index):
                    a = a + np.einsum("ij,j->i", q[k], history[k]) / index
            h = a
            history.append(h)
        z = np.einsum("io,i->o", p["output_kernel"], h) + p["output_bias"]
        losses.append(np.log(np.sum(np.exp(z - z.max()))) + z.max() - z[label])
    return np.sum(weights * np.array(losses)) / np.sum(weights)


def central_differences(function, theta):
    """Differentiate `function` at `theta`, one coordinate at a time; coordinates lead."""
    rows = []
    for i in range(P):
        step = np.zeros(P)
        step[i] = STEP
        rows.append((function(theta + step) - function(theta - step)) / (2 * STEP))
    return np.stack(rows)


def evaluate(blocks, inputs, labels, skip, activation, q, weights):
    """Return the logits, loss, gradient and Hessian of one case, and the errors of the checks."""
    import torch

    f = {"relu": torch.relu, "tanh": torch.tanh}[activation]
    x, y, w = torch.from_numpy(inputs), torch.from_numpy(labels), torch.from_numpy(weights)
    fixed = None if q is None else torch.from_numpy(q)

    def loss(theta):
        logits, _ = forward(theta, x, skip, f, fixed)
        each = torch.nn.functional.cross_entropy(logits, y, reduction="none")
        return (w * each).sum() / w.sum()

    flat = flatten(blocks)
    theta = torch.from_numpy(flat)
    logits, pre = forward(theta, x, skip, f, fixed)
    gradient = torch.func.grad(loss)(theta).numpy()
    hessian = torch.func.hessian(loss)(theta).numpy()
    twice_reverse = torch.autograd.functional.hessian(loss, theta).numpy()

    def loss_at(t):
        return loss(torch.from_numpy(t)).item()

    def gradient_at(t):
        return torch.func.grad(loss)(torch.from_numpy(t)).numpy()

    value = loss(theta).item()
    errors = {
        "numpy loss": abs(value - numpy_loss(flat, inputs, labels, skip, activation, q, weights)),
        "gradient - differences": np.abs(gradient - central_differences(loss_at, flat)).max(),
        "hessian - differences": np.abs(hessian - central_differences(gradient_at, flat)).max(),
        "hessian - reverse twice": np.abs(hessian - twice_reverse).max(),
        "asymmetry": np.abs(hessian - hessian.T).max(),
    }
    limits = dict(zip(errors, (1e-12, 1e-8, 1e-8, 1e-12, 1e-12), strict=True))
    for name, error in errors.items():
        assert error < limits[name], f"{skip}/{activation}: {name} is {error:.1e}"
    margin = min(a.abs().min().item() for a in pre)
    if activation == "relu":
        assert margin > MARGIN, f"{skip}/relu: a pre-activation of {margin:.1e}; change SEED"
    errors["nearest pre-activation"] = margin
    results = {
        "logits": logits.numpy(),
        "loss": np.float64(value),
        "gradient": gradient,
        "hessian": (hessian + hessian.T) / 2,
    }
    return results, errors


def build():
    """Compute every case; return the arrays of the file, and print the checks."""
    import torch

    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)

    rng = np.random.default_rng(SEED)
    inputs = rng.standard_normal((N, D))
    labels = rng.integers(0, C, size=N)
    weights = rng.uniform(0.2, 2.0, size=N)
    qs = {
        "none": None,
        "identity": None,
        "hyper": np.stack([random_orthogonal(rng) for _ in range(DEPTH - 2)]),
        "matrix": random_orthogonal(rng),
    }
    for q in (*qs["hyper"], qs["matrix"]):
        assert np.abs(q @ q.T - np.eye(WIDTH)).max() < 1e-14
        assert np.abs(q - q.T).max() > 0.1  # so that Q and Qᵀ cannot be confused

    arrays = {
        "inputs": inputs,
        "labels": labels,
        "weights": weights,
        "torch_version": np.array(str(torch.__version__)),
    }
    uniform = np.ones(N)
    for skip in SKIPS:
        for activation in ACTIVATIONS:
            case = f"{skip}/{activation}"
            blocks = draw_blocks(rng)
            results, errors = evaluate(blocks, inputs, labels, skip, activation, qs[skip], uniform)
            arrays.update({f"{case}/{name}": value for name, value in (blocks | results).items()})
            if qs[skip] is not None:
                arrays[f"{case}/Q"] = qs[skip]
            report(case, results, errors)
            if case == WEIGHTED_CASE:
                results, errors = evaluate(blocks, inputs, labels, skip, activation, None, weights)
                del results["logits"]  # the same as without weights
                arrays.update({f"weighted/{name}": value for name, value in results.items()})
                report("weighted", results, errors)
    return arrays


def report(case, results, errors):
    """Print the loss, the extreme eigenvalues, and the errors of the checks."""
    eigenvalues = np.linalg.eigvalsh(results["hessian"])
    null = np.mean(np.abs(eigenvalues) < 1e-12)
    print(
        f"{case}: loss {results['loss']:.6f}, eigenvalues {eigenvalues[0]:.3g} to "
        f"{eigenvalues[-1]:.3g}, null fraction {null:.3f}"
    )
    for name, error in errors.items():
        print(f"    {name:24s} {error:.1e}")


def main():
    """Write the file."""
    default = Path(__file__).with_name("torch_hessians.npz")
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    arrays = build()
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {path.stat().st_size} bytes, torch {arrays['torch_version']}, P = {P}")


if __name__ == "__main__":
    main()
