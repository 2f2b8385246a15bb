"""Curvature of any JAX model as linear operators: products with vectors, never the matrix."""

from landscape.curvature.gauss_newton import empirical_fisher, fisher, ggn
from landscape.curvature.hessian import HessianOperator, hessian
from landscape.curvature.jacobian import JacobianOperator, jacobian
from landscape.curvature.noise import noise_floor
from landscape.curvature.operators import DenseOperator, DiagonalOperator, LinearOperator

__all__ = [
    "DenseOperator",
    "DiagonalOperator",
    "HessianOperator",
    "JacobianOperator",
    "LinearOperator",
    "empirical_fisher",
    "fisher",
    "ggn",
    "hessian",
    "jacobian",
    "noise_floor",
]
