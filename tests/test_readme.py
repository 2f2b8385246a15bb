import re
from pathlib import Path

import jax
import jax.numpy as jnp

README = Path(__file__).parents[1] / "README.md"


def loss(params, batch):
    outputs = jnp.tanh(batch["x"] @ params["w"]) @ params["v"]
    return jnp.mean((outputs - batch["y"]) ** 2)


def test_the_readmes_code_runs_for_a_users_model(capsys):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"w": jax.random.normal(keys[0], (5, 8)), "v": jax.random.normal(keys[1], (8,))}
    batch = {"x": jax.random.normal(keys[2], (64, 5)), "y": jax.random.normal(keys[3], (64,))}
    names = {"loss": loss, "params": params, "batch": batch}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(block, names)
    printed = capsys.readouterr().out
    assert "certified [" in printed
    assert "directions are null for the Gauss–Newton matrix" in printed
