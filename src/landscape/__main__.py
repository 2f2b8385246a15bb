"""``python -m landscape``."""

from landscape.cli import run

run()
