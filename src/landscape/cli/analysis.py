"""``landscape analyze`` and ``landscape spectrum``."""

from __future__ import annotations

import dataclasses
import functools
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional


@dataclasses.dataclass(frozen=True)
class Analyze:
    """Say how degenerate one network is, and why.

    Spectrum, certified fractions, extremal eigenvalues and trace of the loss's Hessian; and, of a
    classifier whose model the problem names, measures and null directions by cause.

    For example:
      landscape analyze my_model.py:problem
      landscape analyze package.module:problem --eps 1e-4
      landscape analyze runs/fig3-digits-laptop --network digits/residual/0@50
    """

    problem: Positional[str]
    """module:function or file.py:function that returns a landscape.curvature.Problem, or a run
    folder."""
    network: str | None = None
    """Of a run folder: GROUP/ARCHITECTURE/NUMBER[@EPOCH]. Default: the first, at the end."""
    eps: float = 1e-3
    """Half-width of the degenerate band."""
    num_steps: int = 200
    """Lanczos steps, for more than 2,000 parameters."""
    causes: bool = True
    """Look for causes."""
    seed: int = 0
    """Seed of the random probes."""
    out: Path = Path("analysis")
    """Folder for report.html, analysis.json, and the figure as spectrum.png and .pdf."""

    def run(self, console: Any) -> None:
        """Analyse, print, and write."""
        import json

        from landscape.analysis import analyze, load_problem
        from landscape.analysis.programs import traced_loss
        from landscape.runs import write_atomically

        problem = load_problem(self.problem, self.network)
        if not problem.name:
            problem = dataclasses.replace(problem, name=self.problem)
        traced_loss(problem, self.problem)
        found = analyze(
            problem, eps=self.eps, num_steps=self.num_steps, causes=self.causes, seed=self.seed
        )
        page = found.page()
        for name, content in (
            ("report.html", page.to_html().encode()),
            ("analysis.json", json.dumps(found.to_json(), indent=1).encode()),
            ("spectrum.png", found.picture("png")),
            ("spectrum.pdf", found.picture("pdf")),
        ):
            write_atomically(self.out / name, content)
        page.show(console)
        console.print(
            f"report: {self.out / 'report.html'}", highlight=False, soft_wrap=True, markup=False
        )


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Spectra of many checkpoints, as a job that can be killed, continued and shared.

    Of each checkpoint: Lanczos quadrature of the matrix with certified fractions, eigenvalues at
    both ends, and on request trace, rank and each layer's block. Any number of processes may work
    in one folder. Ask landscape runs show FOLDER how far it is; landscape.open_run(FOLDER) gives
    everything as one xarray.Dataset.

    For example:
      landscape spectrum my_model.py:problem --out runs/one
      landscape spectrum mine.py:problem --checkpoint 'ckpts/*.npz' --out runs/all --dry-run
      landscape spectrum mine.py:problem --checkpoint ckpts/a.safetensors --layers --out runs/a
      landscape spectrum mine.py:problem --checkpoint 'ckpts/*' --shard 3/16 --out runs/all
    """

    problem: Positional[str]
    """module:function or file.py:function that returns a landscape.curvature.Problem."""
    out: Path
    """Run folder; one of the same job is continued."""
    checkpoint: tuple[str, ...] = ()
    """Files (.npz, .safetensors), folders of Orbax's, or patterns. Default: the problem's own
    parameters."""
    params_key: str = ""
    """Where in a checkpoint the parameters are, such as state/params."""
    matrix: Literal["hessian", "ggn", "fisher", "empirical-fisher"] = "hessian"
    """Which matrix; all but the Hessian need a problem that names its model."""
    eps: tuple[float, ...] = (1e-3,)
    """Half-widths of the degenerate band."""
    num_steps: int = 100
    """Lanczos steps."""
    num_probes: int = 1
    """Random start vectors."""
    reorthogonalize: Literal["auto", "full", "partial", "none"] = "auto"
    """Of Lanczos vectors. auto: partial if a basis fits into memory, else none, without which
    bounds are empirical; a folder keeps what it was begun with."""
    largest: int = 1
    """Eigenvalues at the upper end."""
    smallest: int = 1
    """Eigenvalues at the lower end."""
    trace_matvecs: int = 0
    """Products for the trace; 0 leaves it out."""
    rank: bool = False
    """Take the rank of the classifier's centered Jacobian."""
    layers: bool = False
    """Measure each layer's block too."""
    memory_gb: float | None = None
    """What vectors may take. Default: half of the device's memory, shared by the workers."""
    chunk_size: int | None = None
    """Examples at a time. Default: the problem's."""
    seed: int = 0
    """Of the probes."""
    together: int | None = None
    """Checkpoints of one shape to measure in one program. Default: 1 on a CPU, where that gains
    nothing; on an accelerator as many as its memory holds, 64 at most."""
    workers: int | None = None
    """Processes side by side. Default: one per core on a CPU, one per accelerator."""
    executor: Literal["processes", "dask"] = "processes"
    """dask: units go to a Dask cluster (the cluster extra)."""
    scheduler: str | None = None
    """Of Dask: an address, a scheduler's file, or module:function or file.py:function that gives a
    cluster. Default: a local cluster of --workers processes."""
    across_devices: bool = False
    """All devices work on one checkpoint at a time: each has a part of the batch and a slice of the
    Lanczos basis; parameters and a few vectors are on each."""
    distributed: bool = False
    """The same over several hosts, one process on each (Slurm and cloud TPUs are recognised)."""
    coordinator: str | None = None
    """Of hosts that are not recognised: ADDRESS:PORT of the first one."""
    num_hosts: int | None = None
    """How many they are."""
    host: int | None = None
    """The number of this one, from 0."""
    shard: str | None = None
    """i/n: every n-th unit from the i-th, then what nobody else has claimed. Default: what Slurm
    says of a job array."""
    dry_run: bool = False
    """Show the plan, and leave it."""

    def run(self, console: Any) -> None:
        """Plan, measure, and print a summary."""
        import contextlib
        import math
        import os

        from landscape.analysis import batch
        from landscape.analysis.checkpoints import find_checkpoints
        from landscape.analysis.collected import open_run
        from landscape.analysis.options import Options
        from landscape.analysis.overview import summary
        from landscape.analysis.planning import plan
        from landscape.analysis.problems import call
        from landscape.analysis.programs import expect_same_loss
        from landscape.errors import InputError, LandscapeError, ResourceError, UnitsFailedError
        from landscape.runs import (
            default_workers,
            executor,
            open_run_folder,
            progress,
            stop_on_signals,
        )
        from landscape.runs.folder import look_into
        from landscape.runs.together import of_the_first

        joining = (self.coordinator, self.num_hosts, self.host)
        if not self.distributed and any(value is not None for value in joining):
            raise InputError("--coordinator, --num-hosts and --host join hosts: add --distributed")
        if self.memory_gb is not None and not 0 < self.memory_gb < math.inf:
            raise InputError(f"--memory-gb must be positive; got {self.memory_gb}")
        if self.scheduler is not None and self.executor != "dask":
            raise InputError("--scheduler is of Dask: add --executor dask")
        if self.distributed:
            import jax

            try:
                jax.distributed.initialize(self.coordinator, self.num_hosts, self.host)
            except (ValueError, RuntimeError) as error:
                raise InputError(
                    f"hosts cannot be joined: {str(error).splitlines()[0]}. Outside of Slurm and "
                    "cloud TPUs say --coordinator, --num-hosts and --host"
                ) from error
            # One of them speaks.
            console.quiet = jax.process_index() > 0
        across = self.across_devices or self.distributed
        job = batch.Job(
            self.problem,
            tuple(map(str, find_checkpoints(self.checkpoint))),
            self.params_key,
            Options(
                matrix=self.matrix,
                eps=self.eps,
                num_steps=self.num_steps,
                num_probes=self.num_probes,
                reorthogonalize=self.reorthogonalize,
                largest=self.largest,
                smallest=self.smallest,
                trace_matvecs=self.trace_matvecs,
                rank=self.rank,
                layers=self.layers,
                memory=None if self.memory_gb is None else int(1e9 * self.memory_gb),
                chunk_size=self.chunk_size,
                seed=self.seed,
            ),
            across,
            1 if self.together is None else self.together,
        )
        batch.expect_outputs(job)
        shard = batch.shard_from(self.shard)
        workers = 1 if across else default_workers(self.workers)
        if workers > 1 and self.executor == "processes":
            job = batch.sharing_memory(job, workers)
        job = batch.settled(job, self.out, together=self.together is None)
        there = os.path.exists(self.out / "config.json")
        if there or not self.dry_run:
            # What is written there later, is written into a run folder; a plan looks only.
            open_folder = functools.partial(open_run_folder, resume=True)
            folder = (look_into if self.dry_run else open_folder)(self.out, job.config())
            expect_same_loss(job.problem, job.options, folder, keep=not self.dry_run)
            there = True
        first = range(len(job.names))[shard[0] :: shard[1]]
        units = batch.make_units(job, self.out if there else None, first, keep=not self.dry_run)
        mine = units[shard[0] :: shard[1]]
        done = batch.count_done(self.out, mine)
        if across:
            # What one host sees in the folder, another may not see yet.
            done = of_the_first(done)
        # Bits depend on the threads of a process, which may not depend on what is left of a job.
        apart = min(workers, len(units)) > 1
        # A task whose own units are done helps with those of others.
        workers = max(1, min(workers, len(units) - batch.count_done(self.out, units)))
        scheduler: Any = self.scheduler
        if scheduler and "://" not in scheduler and not Path(scheduler).is_file():
            _, colon, name = scheduler.rpartition(":")
            if colon and not name.isdecimal():
                scheduler = functools.partial(call, scheduler)
        with ExitStack() as stack:
            here = self.executor == "processes"
            pool = None
            if here:
                pool = stack.enter_context(executor("processes", workers, apart=apart))
            planned = plan(job, mine, done, workers, pool=pool)
            for line in planned.lines():
                console.print(line, highlight=False)
            if self.dry_run:
                return
            folder.events.add("estimated", **planned.event())
            # Until now a signal ends the command at once: there was nothing to be kept.
            stop = stack.enter_context(stop_on_signals())
            if not here:
                # A cluster is not asked for before the plan is shown.
                pool = stack.enter_context(executor(self.executor, workers, scheduler))
            report = stack.enter_context(progress(console, f"{len(units)} spectra", len(units)))
            try:
                found = batch.run_job(
                    job, self.out, executor=pool, should_stop=stop, report=report, shard=shard,
                    units=units,
                )  # fmt: skip
            except (UnitsFailedError, ResourceError):
                stack.close()
                with contextlib.suppress(LandscapeError):
                    found = open_run(self.out)
                    if found.sizes["checkpoint"]:
                        summary(found).show(console)
                raise
        summary(found).show(console)
        console.print(
            f"results: {self.out}; landscape.open_run({str(self.out)!r}) opens them",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
