"""Shell scripts are what a linter wants them to be, and name options that there are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from landscape.cli import main

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("docs/slurm/*.sh"), ROOT / ".ci" / "run"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_linter_has_nothing_to_say(script):
    linter = Path(sys.executable).parent / "shellcheck"
    ended = subprocess.run([linter, script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_the_options_of_the_scripts_are_those_of_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["spectrum", "--help"])
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    for script in ROOT.glob("docs/slurm/*.sh"):
        text = script.read_text().replace("\\\n", " ")
        (command,) = re.findall(r"landscape spectrum (.*)", text)
        assert set(re.findall(r"--[a-z][a-z-]+", command)) <= known
