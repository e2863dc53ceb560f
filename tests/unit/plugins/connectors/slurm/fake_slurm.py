"""Slurm as far as the connector asks it: options and output of the manual pages of 22.05, jobs in memory.

The programs on a login node's ``PATH`` are a few lines of bash that hand their arguments over and print the answer.
A job goes one step further each time that ``scontrol`` is asked for it: it waits, runs, and when it ends its script is
executed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

PROGRAMS: Final = ("sbatch", "squeue", "scontrol", "scancel", "sacct")

_OPTIONS: Final = {"job-name", "comment", "output", "partition", "ntasks", "time", "mem", "exclusive", "parsable"}
_TERMINAL: Final = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED"}

_PROGRAM: Final = """#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/{port}
printf '%s\\0' {name} "$#" "$@" >&3
eval "$(cat <&3)"
"""


@dataclasses.dataclass
class Job:
    """As ``sbatch`` was given it.

    Attributes:
        is_gone: The controller has forgotten it.
    """

    id: str
    name: str
    comment: str
    script: str
    arguments: Sequence[str]
    stdout: str
    stderr: str
    is_array: bool
    state: str = "PENDING"
    reason: str = "None"
    exit: str = "0:0"
    is_gone: bool = False


@dataclasses.dataclass(frozen=True)
class Told:
    """What a program prints, and its exit code."""

    output: str = ""
    errors: str = ""
    status: int = 0


@dataclasses.dataclass
class FakeSlurm:
    """One cluster.

    Attributes:
        folder: Where jobs run and write.
        jobs: In the order in which they were submitted.
        calls: Programs with their arguments.
        faults: What a program says instead of doing anything.
        has_accounting: Whether ``sacct`` knows jobs.
    """

    folder: Path
    jobs: list[Job] = dataclasses.field(default_factory=list)
    calls: list[Sequence[str]] = dataclasses.field(default_factory=list)
    faults: dict[str, Told] = dataclasses.field(default_factory=dict)
    has_accounting: bool = False

    async def serve(self) -> tuple[asyncio.Server, int]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        return server, port

    def called(self, program: str) -> list[Sequence[str]]:
        return [call[1:] for call in self.calls if call[0] == program]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = [(await reader.readuntil(b"\0"))[:-1].decode() for _ in range(2)]
        arguments = [(await reader.readuntil(b"\0"))[:-1].decode() for _ in range(int(words[1]))]
        told = self.run(words[0], arguments)
        text = f"printf %s {shlex.quote(told.output)}; printf %s {shlex.quote(told.errors)} >&2; exit {told.status}"
        writer.write(text.encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def run(self, program: str, arguments: Sequence[str]) -> Told:
        self.calls.append([program, *arguments])
        if program in self.faults:
            return self.faults[program]
        told: Told = getattr(self, f"_{program}")(arguments)
        return told

    def _sbatch(self, arguments: Sequence[str]) -> Told:
        options, rest = _split(arguments)
        for name in options:
            if name not in _OPTIONS:
                hint = 'Try "sbatch --help" for more information'
                return Told("", f"sbatch: unrecognized option '--{name}'\n{hint}\n", 255)
        try:
            script = Path(rest[0]).read_text()
        except OSError:
            return Told("", f"sbatch: error: Unable to open file {rest[0]}\n", 1)
        if not script.startswith("#!"):
            return Told("", "sbatch: error: This does not look like a batch script.  The first\n", 1)
        if options.get("partition", "main") != "main":
            return Told("", "sbatch: error: Batch job submission failed: Invalid partition name specified\n", 1)
        number = str(len(self.jobs) + 1)
        stdout = options.get("output", str(self.folder / "slurm-%j.out")).replace("%j", number)
        name, comment = options.get("job-name", "sbatch"), options.get("comment", "")
        self.jobs.append(Job(number, name, comment, script, rest[1:], stdout, stdout, "#SBATCH --array" in script))
        return Told(f"{number}\n" if "parsable" in options else f"Submitted batch job {number}\n")

    def _squeue(self, arguments: Sequence[str]) -> Told:
        options, _ = _split(arguments)
        assert set(options) == {"noheader", "states", "user", "name", "format"}, options
        assert options["user"] == str(os.getuid())
        known = [job for job in self.jobs if job.name == options["name"] and not job.is_gone]
        lines = [options["format"].replace("%A", job.id).replace("%k", job.comment or "(null)") for job in known]
        return Told("".join(f"{line}\n" for line in lines))

    def _scontrol(self, arguments: Sequence[str]) -> Told:
        assert list(arguments[:2]) == ["show", "job"], arguments
        job = self._job(arguments[2])
        if job is None or job.is_gone:
            return Told("", "slurm_load_jobs error: Invalid job id specified\n", 1)
        shown = self._shown(job)
        self._step(job)
        return Told(shown)

    def _shown(self, job: Job) -> str:
        array = f"ArrayJobId={job.id} ArrayTaskId=1-3 " if job.is_array else ""
        return f"""JobId={job.id} {array}JobName={job.name}
   UserId=u({os.getuid()}) GroupId=u(1000) MCS_label=N/A
   Priority=4294901756 Nice=0 Account=(null) QOS=(null)
   JobState={job.state} Reason={job.reason} Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode={job.exit}
   RunTime=00:00:02 TimeLimit=01:00:00 TimeMin=N/A
   SubmitTime=2026-01-01T00:00:00 EligibleTime=2026-01-01T00:00:00
   StartTime=2026-01-01T00:00:01 EndTime=Unknown Deadline=N/A
   Partition=main AllocNode:Sid=login:1
   ReqNodeList=(null) ExcNodeList=(null)
   NodeList={"" if job.state == "PENDING" else "n1"}
   NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   Command=(null)
   WorkDir={self.folder}
   Comment={job.comment}
   StdErr={job.stderr}
   StdIn=/dev/null
   StdOut={job.stdout}
   Power=

"""

    def _step(self, job: Job) -> None:
        if job.state == "PENDING":
            job.state = "RUNNING"
        elif job.state == "RUNNING":
            command = ["bash", "-c", job.script, "script", *job.arguments]
            with Path(job.stdout).open("wb") as out:
                done = subprocess.run(command, stdout=out, stderr=out, cwd=self.folder, check=False)
            job.state = "FAILED" if done.returncode else "COMPLETED"
            job.exit = f"{done.returncode}:0"
            job.reason = "NonZeroExitCode" if done.returncode else "None"

    def _scancel(self, arguments: Sequence[str]) -> Told:
        job = self._job(arguments[0])
        if job is None or job.is_gone:
            problem = f"Kill job error on job id {arguments[0]}: Invalid job id specified"
            return Told("", f"scancel: error: {problem}\n", 1)
        if job.state not in _TERMINAL:
            job.state, job.exit = "CANCELLED", "0:15"
        return Told()

    def _sacct(self, arguments: Sequence[str]) -> Told:
        if not self.has_accounting:
            return Told("", "Slurm accounting storage is disabled\n", 1)
        options, _ = _split(arguments)
        assert set(options) == {"allocations", "noheader", "parsable2", "jobs", "format"}, options
        job = self._job(options["jobs"])
        if job is None:
            return Told()
        state = "CANCELLED by 1000" if job.state == "CANCELLED" else job.state
        cells = {"JobIDRaw": job.id, "JobName": job.name, "State": state, "ExitCode": job.exit}
        return Told("|".join(cells.get(name, "x") for name in options["format"].split(",")) + "\n")

    def _job(self, number: str) -> Job | None:
        return next((job for job in self.jobs if job.id == number), None)


def install(folder: Path, port: int) -> None:
    """Puts the programs there."""
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(_PROGRAM.format(port=port, name=name))
        (folder / name).chmod(0o755)


def _split(arguments: Sequence[str]) -> tuple[Mapping[str, str], Sequence[str]]:
    """Options up to the first word that is none, and the rest."""
    options: dict[str, str] = {}
    for position, word in enumerate(arguments):
        if not word.startswith("--"):
            return options, arguments[position:]
        name, _, value = word[2:].partition("=")
        options[name] = value
    return options, []
