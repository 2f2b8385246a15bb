"""Run a notebook's first cell as it is, but for the wheel that stands in for the repository.

python .ci/first_cell.py notebooks/01_your_model.ipynb dist/landscape_jax-….whl
"""

import json
import sys
from pathlib import Path

notebook, wheel = sys.argv[1:]
cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
cell = "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "code"))
address = "git+https://github.com/landscape-jax/landscape"
assert cell.count(address) == 1, cell
exec(cell.replace(address, Path(wheel).resolve().as_uri()))
