"""One network looked at from every side: its spectrum, how degenerate it is, and why."""

from landscape.analysis.analyze import Analysis, analyze
from landscape.analysis.problems import load_problem

__all__ = ["Analysis", "analyze", "load_problem"]
