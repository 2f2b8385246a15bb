import contextlib
import dataclasses
import errno
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from landscape import __version__
from landscape.cli import main
from landscape.cli.experiments import DATASETS, Reproduce
from landscape.data import names, registry
from landscape.errors import (
    DataError,
    InputError,
    ResourceError,
    StoppedError,
    StorageError,
    UnitsFailedError,
)
from landscape.experiments.reproduce import EXPERIMENTS, Request
from landscape.experiments.scales import SCALES, make_scale
from landscape.report import Page
from landscape.runs import open_run_folder

SMOKE = ("reproduce", "fig3", "--scale", "smoke")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def message(self):
        """What was printed, without the frames and line breaks of a terminal."""
        return " ".join(re.sub("[│╭╮╰╯─]", " ", self.out + self.err).split())


@pytest.fixture
def landscape(capsys, tmp_path, monkeypatch):
    """Run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    """An empty data folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("LANDSCAPE_DATA", str(folder))
    return folder


@pytest.fixture
def failing(monkeypatch):
    """Let ``reproduce`` raise."""

    def set_error(error):
        def fail(self, console):
            raise error

        monkeypatch.setattr(Reproduce, "run", fail)

    return set_error


def in_process(*arguments, **options):
    """Run the command line in a process of its own, to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "landscape", *arguments],
        capture_output=True, text=True, timeout=120, check=False, **options,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("command", "examples"),
    [
        ([], ["landscape reproduce fig3"]),
        (
            ["reproduce"],
            ["landscape reproduce list", "landscape reproduce fig3 --scale smoke", "--resume"],
        ),
        (["report"], ["landscape report runs/fig3-digits-laptop"]),
        (["data"], ["landscape data list", "landscape data download cifar100"]),
        (["data", "list"], ["landscape data list"]),
        (["data", "download"], ["landscape data download cifar100", "LANDSCAPE_DATA"]),
        (["data", "verify"], ["landscape data verify cifar100"]),
    ],
)
def test_help_explains_and_shows_examples(landscape, command, examples):
    ended = landscape(*command, "--help")
    assert ended.code == 0
    assert ended.err == ""
    assert ended.out.startswith(" ".join(["usage: landscape", *command]))
    for example in examples:
        assert example in ended.message


def test_help_says_what_the_exit_codes_mean(landscape):
    message = landscape("--help").message
    for meaning in ("0 done", "2 usage or input", "3 some units failed", "4 storage", "75 stopped"):
        assert meaning in message


def test_help_offers_what_there_is(landscape):
    message = landscape("reproduce", "--help").message
    assert "{" + ",".join(SCALES) + "}" in message
    assert ",".join(names()) in message
    assert names() == DATASETS
    for option in ("--dataset", "--scale", "--seeds", "--seed", "--out", "--resume", "--workers"):
        assert option in message


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(landscape, option):
    ended = landscape(option)
    assert (ended.code, ended.out, ended.err) == (0, f"landscape {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["reproduce", "report", "data"]),
        (["data"], ["list", "download", "verify"]),
        (["reprduce", "fig3"], ["reprduce"]),
        (["reproduce"], ["Name of an experiment"]),
        (["reproduce", "fig3", "--datset", "digits"], ["--datset", "--dataset"]),
        (["reproduce", "fig3", "--dataset", "mnist"], ["mnist", "digits", "cifar100"]),
        (["reproduce", "fig3", "--scale", "huge"], ["huge", "smoke", "laptop", "paper"]),
        (["reproduce", "fig3", "--seeds", "many"], ["many"]),
        (["reproduce", "fig3", "fig4"], ["fig4"]),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_right(landscape, tmp_path, arguments, words):
    ended = landscape(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    for word in words:
        assert word in ended.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "fig99"], "unknown experiment 'fig99'; there are: fig2, fig3"),
        ([*SMOKE, "--seeds", "0"], "--seeds must be at least 1; got 0"),
        ([*SMOKE, "--seed", "-1"], "--seed must be from 0 to 4294967295; got -1"),
        ([*SMOKE, "--workers", "0"], "--workers must be at least 1; got 0"),
        (
            ["reproduce", "fig3", "--scale", "paper", "--dataset", "digits"],
            "choose --dataset cifar100 or cifar10",
        ),
        (["report", "nowhere"], "nowhere is not a run folder"),
        (["data", "download", "CIFAR-100"], "did you mean 'cifar100'?"),
        (["data", "verify", "mnist"], "unknown data set 'mnist'"),
    ],
)
def test_wrong_values_exit_2_with_one_line_and_leave_nothing(
    landscape, tmp_path, arguments, message
):
    ended = landscape(*arguments)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.startswith("landscape: ")
    assert ended.err.count("\n") == 1
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_experiments_are_listed(landscape):
    ended = landscape("reproduce", "list")
    assert ended.code == 0
    assert re.search(r"^fig3 +plain, residual, hyper-residual", ended.out, re.MULTILINE)


def test_a_folder_in_use_exits_2_and_names_resume(landscape, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    ended = landscape(*SMOKE, "--out", out)
    assert ended.code == 2
    assert f"{out} is not empty; add --resume" in ended.err
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_all_looks_at_every_folder_before_it_begins(landscape, tmp_path):
    last = tmp_path / "fig10-digits-smoke"
    last.mkdir()
    (last / "notes.txt").write_text("mine")
    ended = landscape("reproduce", "all", "--scale", "smoke", "--out", tmp_path)
    assert ended.code == 2
    assert f"{last} is not empty; add --resume" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == [last.name]


def test_theory_takes_no_data_set(landscape, tmp_path):
    ended = landscape("reproduce", "fig2", "--dataset", "cifar10", "--out", tmp_path / "run")
    assert ended.code == 2
    assert "fig2 takes no data set; leave --dataset out" in ended.err
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_that_is_no_run_is_not_resumed(landscape, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    ended = landscape(*SMOKE, "--out", tmp_path, "--resume")
    assert ended.code == 2
    assert "is not a run folder" in ended.err


def test_a_run_folder_below_a_file_exits_4(landscape, tmp_path):
    (tmp_path / "file").write_text("")
    ended = landscape(*SMOKE, "--out", tmp_path / "file" / "run")
    assert ended.code == 4
    assert f"cannot use {tmp_path / 'file' / 'run'} as a run folder" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_a_run_folder_that_cannot_be_made_exits_4(landscape):
    ended = landscape(*SMOKE, "--out", "/proc/landscape")
    assert ended.code == 4
    assert "cannot use /proc/landscape as a run folder" in ended.err


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_run_folder_exits_4(landscape, tmp_path):
    out = tmp_path / "run"
    out.mkdir(mode=0o500)
    ended = landscape(*SMOKE, "--out", out)
    assert ended.code == 4
    assert f"cannot write to {out}: permission denied; choose another --out" in ended.err


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_a_missing_data_set_exits_2_says_what_to_run_and_leaves_nothing(
    landscape, tmp_path, no_data, dataset
):
    ended = landscape(*SMOKE, "--dataset", dataset, "--out", tmp_path / "run")
    assert ended.code == 2
    assert f"landscape data download {dataset}" in ended.err
    assert "LANDSCAPE_DATA" in ended.err
    assert not (tmp_path / "run").exists()
    assert list(no_data.iterdir()) == []


def test_data_sets_are_listed_with_what_is_there(landscape, no_data):
    ended = landscape("data", "list")
    assert ended.code == 0
    assert str(no_data) in ended.out.replace("\n", "")
    for name, there in (("digits", "train"), ("cifar10", "no"), ("cifar100", "no")):
        row = next(line for line in ended.out.splitlines() if f" {name} " in line)
        assert row.split("│")[2].strip() == there


def test_the_digits_need_no_download_and_no_check(landscape, no_data):
    assert "nothing to download" in landscape("data", "download", "digits").out
    assert landscape("data", "verify", "digits").code == 0
    assert list(no_data.iterdir()) == []


def test_an_altered_file_exits_2_and_is_named(landscape, no_data):
    source = registry.SOURCES["cifar100"]
    file = next(file for file in source.files if file.name == "meta")
    folder = no_data / source.folder
    folder.mkdir()
    (folder / "meta").write_bytes(bytes(file.size))
    ended = landscape("data", "verify", "cifar100")
    assert ended.code == 2
    assert "meta: altered (md5 " in ended.out
    assert f"expected {file.md5}" in ended.out
    assert "train: missing" in ended.out
    assert "3 of 3 files of cifar100 are not usable" in ended.err


@pytest.mark.parametrize("command", ["reproduce", "report"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"format": 99, "config": {}}',
            "was written in run format 99; this version reads format 3",
        ),
        ("not json", "is damaged"),
        ("[]", "is damaged"),
    ],
)
def test_a_configuration_that_cannot_be_read_exits_2(
    landscape, tmp_path, command, content, message
):
    (tmp_path / "config.json").write_text(content)
    arguments = ["report", tmp_path]
    if command == "reproduce":
        arguments = [*SMOKE, "--out", tmp_path, "--resume"]
    ended = landscape(*arguments)
    assert ended.code == 2
    assert message in ended.err
    assert str(tmp_path) in ended.err
    assert ended.err.count("\n") == 1
    assert (tmp_path / "config.json").read_text() == content


def test_a_report_of_an_unfinished_run_exits_2(landscape, tmp_path):
    request = Request("fig3", scale="smoke")
    scale = dataclasses.asdict(make_scale("smoke", "digits", None))
    config = {"request": dataclasses.asdict(request), "scale": scale, "data": {}}
    open_run_folder(tmp_path / "run", config, resume=False)
    ended = landscape("report", tmp_path / "run")
    assert ended.code == 2
    assert "is not finished; continue it with landscape reproduce" in ended.err
    assert f"--out {tmp_path / 'run'} --resume" in ended.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("told so"), 2),
        (DataError("told so"), 2),
        (UnitsFailedError("1 of 2 units failed; told so"), 3),
        (StorageError("told so"), 4),
        (ResourceError("told so"), 5),
        (StoppedError("told so"), 75),
    ],
)
def test_errors_raised_on_purpose_end_with_their_own_code_and_words(
    landscape, failing, error, code
):
    failing(error)
    ended = landscape(*SMOKE)
    assert ended.code == code
    assert ended.err == f"landscape: {error}\n"
    assert ended.out == ""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 75, "--resume"),
        (MemoryError(), 5, "out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating"), 5, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), 4, "No space left on device"),
        (OSError(errno.EROFS, "Read-only file system"), 4, "Read-only file system"),
    ],
)
def test_failures_of_the_machine_have_codes_of_their_own(landscape, failing, error, code, words):
    failing(error)
    ended = landscape(*SMOKE)
    assert ended.code == code
    assert words in ended.err
    assert ended.err.count("\n") == 1


def test_an_unexpected_error_exits_1_with_one_line(landscape, failing, monkeypatch):
    monkeypatch.delenv("LANDSCAPE_TRACEBACK", raising=False)
    failing(ZeroDivisionError("something odd"))
    ended = landscape(*SMOKE)
    assert ended.code == 1
    assert "internal error (ZeroDivisionError: something odd)" in ended.err
    assert "LANDSCAPE_TRACEBACK=1" in ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("\n") == 1


def test_the_traceback_is_shown_when_asked_for(landscape, failing, monkeypatch):
    monkeypatch.setenv("LANDSCAPE_TRACEBACK", "1")
    failing(ZeroDivisionError("something odd"))
    ended = landscape(*SMOKE)
    assert ended.code == 1
    assert "Traceback (most recent call last)" in ended.err
    assert "in fail" in ended.err


@pytest.mark.slow
def test_the_installed_module_runs_as_a_command(tmp_path):
    ended = in_process("reproduce", "fig99", "--out", str(tmp_path / "run"))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("landscape: unknown experiment 'fig99'; there are: fig2, fig3")
    assert not (tmp_path / "run").exists()


def test_help_and_version_load_nothing_heavy():
    script = (
        "import json, sys\n"
        "from landscape.cli import main\n"
        "for words in ('--version', '--help', 'reproduce --help', 'data --help'):\n"
        "    try:\n"
        "        main(words.split())\n"
        "    except SystemExit as stop:\n"
        "        assert stop.code == 0\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & {
        "jax",
        "numpy",
        "scipy",
        "matplotlib",
        "flax",
        "optax",
        "xarray",
        "sklearn",
    }


def started(out, cache, *options):
    """A smoke run in a process group of its own."""
    environment = {
        **os.environ,
        # Programs compiled before the stop are not compiled again after it.
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    command = [sys.executable, "-m", "landscape", *SMOKE, "--seeds", "1", "--out", str(out)]
    return subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
        start_new_session=True,
    )  # fmt: skip


def wait_for(process, words, seconds=90):
    """Read what a process prints until some words come."""
    seen, end = b"", time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while words.encode() not in seen:
            assert time.monotonic() < end, seen
            if selector.select(1):
                piece = os.read(process.stdout.fileno(), 4096)
                assert piece, seen
                seen += piece
    return seen.decode()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_sigterm_stops_a_run_with_75_and_resume_finishes_it(tmp_path):
    out, cache = tmp_path / "run", tmp_path / "cache"
    process = started(out, cache, "--workers", "1")
    try:
        wait_for(process, "training 3 networks")
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=90)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 75
    assert re.fullmatch(
        r"landscape: stopped with \d of 3 units done; run again with --resume to continue\n",
        error.decode(),
    )
    assert not (out / "report.html").exists()
    assert not list(out.rglob(".writing-*"))
    process = started(out, cache, "--workers", "1", "--resume")
    printed, error = process.communicate(timeout=120)
    assert (process.returncode, error.decode()) == (0, "")
    assert (out / "report.html").stat().st_size > 10_000
    assert f"report: {out / 'report.html'}" in printed.decode()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("where", ["in an import", "in a callback", "in a load function"])
def test_a_signal_outside_the_work_ends_the_command_at_once(number, where, tmp_path):
    send = f"os.kill(os.getpid(), {int(number)}); time.sleep(20)"
    # Where an exception would be swallowed, or be taken for what an import raises.
    scripts = {
        "in an import": f"class Loader:\n    def find_spec(*a): {send}\n"
        "sys.meta_path.insert(0, Loader())\n",
        "in a callback": f"class Last:\n    def __del__(self): {send}\n"
        "cli.main = lambda: [Last()] and 0\n",
        "in a load function": "",
    }
    (tmp_path / "mine.py").write_text(f"import os, time\ndef problem():\n    {send}\n")
    arguments = ["spectrum", f"{tmp_path}/mine.py:problem", "--out", str(tmp_path / "run")]
    script = (
        f"import os, sys, time\nfrom landscape import cli\nsys.argv[1:] = {arguments}\n"
        f"{scripts[where]}cli.run()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 75
    assert f"landscape: stopped by {number.name}; run again" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_analyze_prints_and_writes_what_it_found(landscape, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp\n"
        "from landscape.curvature import Problem\n"
        "def problem():\n"
        "    return Problem(lambda w, x: ((x @ w) ** 2).mean() / 2, jnp.ones(3), jnp.eye(2, 3))\n"
    )
    ended = landscape("analyze", "mine.py:problem", "--out", "found")
    assert ended.code == 0
    assert "How degenerate is mine.py:problem?" in ended.message
    files = {path.name for path in (tmp_path / "found").iterdir()}
    assert files == {"report.html", "analysis.json", "spectrum.png", "spectrum.pdf"}
    record = json.loads((tmp_path / "found" / "analysis.json").read_text())
    assert record["degenerate"]["estimate"] == pytest.approx(1 / 3)
    assert record["num_parameters"] == 3


def test_analyze_refuses_what_is_no_problem(landscape):
    ended = landscape("analyze", "nowhere")
    assert ended.code == 2
    assert "neither a run folder nor module:function" in ended.message


def test_all_experiments_share_their_workers_and_what_these_have_compiled(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    pools, places = [], []

    def noted(request, out, *, pool, **options):
        pools.append(pool)
        places.append(os.environ["JAX_COMPILATION_CACHE_DIR"])
        return Page("title", [], [], [])

    monkeypatch.setattr("landscape.experiments.reproduce.reproduce", noted)
    asked = ["reproduce", "all", "--scale", "smoke", "--out", str(tmp_path), "--workers", "2"]
    for _ in range(2):
        assert main(asked) == 0
    count = len(EXPERIMENTS)
    assert len(pools) == 2 * count
    assert len({id(pool) for pool in pools[:count]}) == 1
    assert pools[0] is not None
    # Those of a later command in the same process find the programs of the first.
    assert len(set(places)) == 1
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
