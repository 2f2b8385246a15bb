"""What each tool's environment holds. PyTorch is the CPU build where that is to be had."""

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "pyhessian": ("torch==2.13.0", "numpy", "pyhessian==0.1"),
    "hessian_eigenthings": ("torch==2.13.0", "numpy", "hessian-eigenthings==1.0.0a5"),
    "curvlinops": ("torch==2.13.0", "numpy", "curvlinops-for-pytorch==3.0.1"),
    "matfree": ("jax", "matfree==0.6.3"),
}
