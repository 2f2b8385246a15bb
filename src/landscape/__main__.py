"""``python -m landscape``."""

from landscape.cli import run

if __name__ == "__main__":
    run()
