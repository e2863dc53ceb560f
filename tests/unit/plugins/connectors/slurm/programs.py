"""Slurm's programs, as far as the connector asks them, in one file that is each of them by its name.

Options and output are those of the manual pages of Slurm 22.05 (sbatch, squeue, scontrol, scancel, sacct). A job goes
one step further each time that ``scontrol`` is asked for it: it waits, runs, and its script is executed when
it ends. Needs nothing but Python's library, and keeps its state in the folder ``FAKE_SLURM``.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path

TYPE_CHECKING = False  # to import typing takes a while, and this starts often
if TYPE_CHECKING:
    from typing import Any

    Job = dict[str, Any]

FOLDER = Path(os.environ["FAKE_SLURM"])
TERMINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED"}
OPTIONS = {"job-name", "comment", "output", "partition", "ntasks", "time", "mem", "exclusive", "parsable"}


def main(program: str, arguments: list[str]) -> int:
    with (FOLDER / "calls").open("a") as calls:
        calls.write(json.dumps([program, *arguments]) + "\n")
    fault = FOLDER / f"{program}.fault"
    if fault.exists():
        told: Job = json.loads(fault.read_text())
        sys.stderr.write(told["stderr"])
        return int(told["status"])
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return {"sbatch": sbatch, "squeue": squeue, "scontrol": scontrol, "scancel": scancel, "sacct": sacct}[program](
            arguments
        )


def split(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    options = {}
    while arguments and arguments[0].startswith("--"):
        name, _, value = arguments[0][2:].partition("=")
        options[name] = value
        arguments = arguments[1:]
    return options, arguments


def sbatch(arguments: list[str]) -> int:
    options, rest = split(arguments)
    for name in options:
        if name not in OPTIONS:
            sys.stderr.write(f"sbatch: unrecognized option '--{name}'\nTry \"sbatch --help\" for more information\n")
            return 255
    try:
        script = Path(rest[0]).read_text()
    except OSError:
        sys.stderr.write(f"sbatch: error: Unable to open file {rest[0]}\n")
        return 1
    if not script.startswith("#!"):
        sys.stderr.write("sbatch: error: This does not look like a batch script.  The first\n")
        return 1
    if options.get("partition", "main") != "main":
        sys.stderr.write("sbatch: error: Batch job submission failed: Invalid partition name specified\n")
        return 1
    number = str(len(list(FOLDER.glob("*.job"))) + 1)
    job = {
        "id": number,
        "name": options.get("job-name", "sbatch"),
        "comment": options.get("comment", ""),
        "script": script,
        "arguments": rest[1:],
        "stdout": options.get("output", str(FOLDER / "slurm-%j.out")).replace("%j", number),
        "state": "PENDING",
        "reason": "None",
        "exit": "0:0",
        "array": "#SBATCH --array" in script,
    }
    save(job)
    print(number if "parsable" in options else f"Submitted batch job {number}")
    return 0


def squeue(arguments: list[str]) -> int:
    options, _ = split(arguments)
    assert {"noheader", "states", "user", "name", "format"} == set(options), options
    assert options["user"] == str(os.getuid())
    for job in jobs():
        if job["name"] == options["name"] and not job.get("gone"):
            print(options["format"].replace("%A", job["id"]).replace("%k", job["comment"] or "(null)"))
    return 0


def scontrol(arguments: list[str]) -> int:
    assert arguments[:2] == ["show", "job"], arguments
    job = load(arguments[2])
    if job is None or job.get("gone"):
        sys.stderr.write("slurm_load_jobs error: Invalid job id specified\n")
        return 1
    print(shown(job))
    step(job)
    return 0


def shown(job: Job) -> str:
    node = "" if job["state"] == "PENDING" else "n1"
    array = f"ArrayJobId={job['id']} ArrayTaskId=1-3 " if job["array"] else ""
    return f"""JobId={job["id"]} {array}JobName={job["name"]}
   UserId=u({os.getuid()}) GroupId=u(1000) MCS_label=N/A
   Priority=4294901756 Nice=0 Account=(null) QOS=(null)
   JobState={job["state"]} Reason={job["reason"]} Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode={job["exit"]}
   RunTime=00:00:02 TimeLimit=01:00:00 TimeMin=N/A
   SubmitTime=2026-01-01T00:00:00 EligibleTime=2026-01-01T00:00:00
   StartTime=2026-01-01T00:00:01 EndTime=Unknown Deadline=N/A
   Partition=main AllocNode:Sid=login:1
   ReqNodeList=(null) ExcNodeList=(null)
   NodeList={node}
   NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   Command=(null)
   WorkDir={FOLDER}
   Comment={job["comment"]}
   StdErr={job.get("stderr", job["stdout"])}
   StdIn=/dev/null
   StdOut={job["stdout"]}
   Power=

"""


def step(job: Job) -> None:
    if job["state"] == "PENDING":
        job["state"] = "RUNNING"
    elif job["state"] == "RUNNING":
        import subprocess  # takes longer to import than all else here

        with Path(job["stdout"]).open("wb") as out:
            status = subprocess.run(
                ["bash", "-c", job["script"], "script", *job["arguments"]],
                stdout=out,
                stderr=out,
                cwd=FOLDER,
                check=False,
            ).returncode
        job["state"], job["exit"] = ("FAILED", f"{status}:0") if status else ("COMPLETED", "0:0")
        job["reason"] = "NonZeroExitCode" if status else "None"
    save(job)


def scancel(arguments: list[str]) -> int:
    job = load(arguments[0])
    if job is None or job.get("gone"):
        sys.stderr.write(f"scancel: error: Kill job error on job id {arguments[0]}: Invalid job id specified\n")
        return 1
    if job["state"] not in TERMINAL:
        job["state"], job["exit"] = "CANCELLED", "0:15"
        save(job)
    return 0


def sacct(arguments: list[str]) -> int:
    if not (FOLDER / "accounting").exists():
        sys.stderr.write("Slurm accounting storage is disabled\n")
        return 1
    options, _ = split(arguments)
    assert {"allocations", "noheader", "parsable2", "jobs", "format"} == set(options), options
    job = load(options["jobs"])
    if job is not None:
        state = "CANCELLED by 1000" if job["state"] == "CANCELLED" else job["state"]
        cells = {"JobIDRaw": job["id"], "JobName": job["name"], "State": state, "ExitCode": job["exit"]}
        print("|".join(cells.get(name, "x") for name in options["format"].split(",")))
    return 0


def jobs() -> list[Job]:
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.job"))]


def load(number: str) -> Job | None:
    path = FOLDER / f"{number}.job"
    job: Job | None = json.loads(path.read_text()) if path.exists() else None
    return job


def save(job: Job) -> None:
    (FOLDER / f"{job['id']}.job").write_text(json.dumps(job))
