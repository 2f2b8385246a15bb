"""Curvature of any JAX model as linear operators: products with vectors, never the matrix."""

from landscape.curvature.families import FamilyOperator, stack
from landscape.curvature.gauss_newton import empirical_fisher, fisher, ggn
from landscape.curvature.hessian import HessianOperator, hessian
from landscape.curvature.jacobian import JacobianOperator, jacobian
from landscape.curvature.matrices import DenseOperator, DiagonalOperator
from landscape.curvature.noise import noise_floor
from landscape.curvature.operators import LinearOperator
from landscape.curvature.problem import Problem
from landscape.curvature.sharding import data_mesh, place
from landscape.curvature.streams import StreamedOperator

__all__ = [
    "DenseOperator",
    "DiagonalOperator",
    "FamilyOperator",
    "HessianOperator",
    "JacobianOperator",
    "LinearOperator",
    "Problem",
    "StreamedOperator",
    "data_mesh",
    "empirical_fisher",
    "fisher",
    "ggn",
    "hessian",
    "jacobian",
    "noise_floor",
    "place",
    "stack",
]
