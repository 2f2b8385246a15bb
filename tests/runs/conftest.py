import numpy as np
import pytest
import xarray as xr

from landscape.runs import open_run_folder

CONFIG = {"experiment": "fig3", "seeds": 2, "scale": {"name": "quick", "depths": [10, 20]}}


@pytest.fixture
def settings():
    return dict(CONFIG)


@pytest.fixture
def folder(tmp_path, settings):
    return open_run_folder(tmp_path / "run", settings, resume=False)


@pytest.fixture(scope="session")
def result():
    def make(value):
        return xr.Dataset(
            {"loss": (("seed", "epoch"), np.full((2, 3), value, np.float32))},
            coords={"epoch": [0, 1, 2]},
            attrs={"made of": "τ"},
        )

    return make
