"""What each tool's environment holds. PyTorch is the CPU build where that is to be had."""

from importlib.metadata import requires, version

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "pyhessian": ("torch==2.13.0", "numpy", "pyhessian==0.1"),
    "hessian_eigenthings": ("torch==2.13.0", "numpy", "hessian-eigenthings==1.0.0a5"),
    "curvlinops": ("torch==2.13.0", "numpy", "curvlinops-for-pytorch==3.0.1"),
    "matfree": ("matfree==0.6.3",),
}


def requirements(tool: str) -> tuple[str, ...]:
    """Those of a tool; JAX in the version that is in use here, with its accelerator's part."""
    if tool != "matfree":
        return REQUIREMENTS[tool]
    return (*_jax(), *REQUIREMENTS[tool])


def _jax() -> tuple[str, ...]:
    """JAX as it is installed: for CUDA if there is a plugin for it."""
    from importlib.metadata import PackageNotFoundError

    assert requires("jax")
    for cuda in ("13", "12"):
        try:
            version(f"jax-cuda{cuda}-plugin")
        except PackageNotFoundError:
            continue
        return (f"jax[cuda{cuda}]=={version('jax')}",)
    return (f"jax=={version('jax')}",)
