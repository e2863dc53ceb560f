"""How a job stands, as Slurm's programs tell it: ``scontrol show job``, and ``sacct`` for what it has forgotten.

Both in the form that versions 20.11 to 25.05 share; ``--json`` came later and changed its shape twice.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from propfan.pluginmachinery.connector import RemotePhase
from propfan.pluginmachinery.errors import DecodeError

PHASES: Final[Mapping[str, RemotePhase]] = {
    "BOOT_FAIL": RemotePhase.RETRYABLE_FAILED,
    "CANCELLED": RemotePhase.ABORTED,
    "COMPLETED": RemotePhase.SUCCEEDED,
    "COMPLETING": RemotePhase.RUNNING,
    "CONFIGURING": RemotePhase.INITIALIZING,
    "DEADLINE": RemotePhase.FAILED,
    "EXPEDITING": RemotePhase.QUEUED,
    "FAILED": RemotePhase.FAILED,
    "LAUNCH_FAILED": RemotePhase.RETRYABLE_FAILED,
    "NODE_FAIL": RemotePhase.RETRYABLE_FAILED,
    "OUT_OF_MEMORY": RemotePhase.FAILED,
    "PENDING": RemotePhase.QUEUED,
    "POWER_UP_NODE": RemotePhase.INITIALIZING,
    "PREEMPTED": RemotePhase.RETRYABLE_FAILED,
    "RECONFIG_FAIL": RemotePhase.RETRYABLE_FAILED,
    "REQUEUED": RemotePhase.QUEUED,
    "REQUEUE_FED": RemotePhase.QUEUED,
    "REQUEUE_HOLD": RemotePhase.QUEUED,
    "RESIZING": RemotePhase.RUNNING,
    "RESV_DEL_HOLD": RemotePhase.QUEUED,
    "REVOKED": RemotePhase.FAILED,
    "RUNNING": RemotePhase.RUNNING,
    "SIGNALING": RemotePhase.RUNNING,
    "SPECIAL_EXIT": RemotePhase.QUEUED,
    "STAGE_OUT": RemotePhase.RUNNING,
    "STOPPED": RemotePhase.RUNNING,
    "SUSPENDED": RemotePhase.RUNNING,
    "TIMEOUT": RemotePhase.FAILED,
    "UPDATE_DB": RemotePhase.RUNNING,
}
"""Every state and flag of https://slurm.schedmd.com/job_state_codes.html (25.05) and of squeue(1) (20.11).

What the cluster did to a job (a node died, another job went first) is worth another attempt; what the job
did is not. A job that is requeued or held waits again.
"""

_WAY_OUT: Final[Mapping[str, str]] = {
    "DEADLINE": "it could not end before sbatch_config.deadline",
    "OUT_OF_MEMORY": "it used more memory than it asked for; sbatch_config.mem raises the limit",
    "REQUEUE_HOLD": "it is held until somebody says 'scontrol release'",
    "RESV_DEL_HOLD": "its reservation was deleted; it is held until somebody says 'scontrol release'",
    "REVOKED": "another cluster of the federation has taken it; name that cluster in ssh_config.host",
    "SPECIAL_EXIT": "it is held until somebody says 'scontrol release'",
    "TIMEOUT": "it took longer than its time limit; sbatch_config.time raises it",
}
_TURN_REASONS: Final = frozenset({"", "None", "Priority", "Dependency", "BeginTime", "JobHeldUser", "JobHeldAdmin"})
"""A pending job waits for its turn or for a word; with any other reason it waits for something to be free."""

_TO_LINE_END: Final = frozenset({"StdOut", "StdErr", "StdIn", "WorkDir", "Command", "Comment", "AdminComment"})
"""May hold spaces, and stand on lines of their own."""
_NOTHING: Final = frozenset({"", "(null)", "N/A", "Unknown", "None"})
_ORDER: Final = (
    RemotePhase.RUNNING,
    RemotePhase.INITIALIZING,
    RemotePhase.WAITING_FOR_RESOURCES,
    RemotePhase.QUEUED,
    RemotePhase.FAILED,
    RemotePhase.RETRYABLE_FAILED,
    RemotePhase.ABORTED,
    RemotePhase.SUCCEEDED,
)
"""Of parts of one job (a heterogeneous one): the first that any has tells how the whole stands."""

SACCT_FIELDS: Final = ("JobIDRaw", "State", "ExitCode", "Elapsed", "NodeList", "Partition", "Start", "End", "JobName")
"""The name comes last: it may hold the bar that stands between cells."""


class JobRecord(msgspec.Struct, frozen=True):
    """What Slurm says of a job.

    Attributes:
        state: In capitals, as in ``PHASES``.
        exit_code: And the signal that ended it; both 0 while it runs.
        values: By Slurm's names, what custom_info has of it.
        is_array: Part of an array of jobs.
    """

    state: str
    reason: str = ""
    exit_code: int = 0
    exit_signal: int = 0
    stdout: str = ""
    stderr: str = ""
    values: Mapping[str, str] = {}
    is_array: bool = False

    @property
    def phase(self) -> RemotePhase:
        """Raises ``DecodeError`` for a state that no version documents."""
        phase = PHASES.get(self.state)
        if phase is None:
            problem = f"'{self.state[:100]}' is no state that the connector knows"
            raise DecodeError(f"state of Slurm job {self.values.get('JobId', '')}", problem)
        if self.state == "PENDING" and self.reason not in _TURN_REASONS:
            return RemotePhase.WAITING_FOR_RESOURCES
        return phase

    def describe(self) -> str:
        """State, reason and exit, e.g. ``FAILED, exit code 3 (NonZeroExitCode)``."""
        told = self.state
        if self.phase.is_terminal and (self.exit_code or self.exit_signal):
            told += f", signal {_signal(self.exit_signal)}" if self.exit_signal else f", exit code {self.exit_code}"
        if self.reason not in _NOTHING:
            told += f" ({self.reason})"
        nodes = self.values.get("NodeList", "")
        if self.phase is RemotePhase.RUNNING and nodes:
            told += f" on {nodes}"
        way_out = _WAY_OUT.get(self.state)
        return f"{told}: {way_out}" if way_out else told


def whole(records: Sequence[JobRecord]) -> JobRecord:
    """The record that tells how all parts of a job stand."""
    return min(records, key=lambda record: _ORDER.index(record.phase))


def from_scontrol(text: str) -> Sequence[JobRecord]:
    """The records of ``scontrol show job``, without ``-o``: only there a value may hold what looks like another."""
    records = []
    for part in re.split(r"^(?=JobId=)", text, flags=re.MULTILINE)[1:]:  # a login shell may have greeted first
        fields: dict[str, str] = {}
        for shown in part.splitlines():
            line, named, job_name = shown.partition(" JobName=")  # the last one on its line
            name, _, value = line.strip().partition("=")
            pairs = [(name, value)] if name in _TO_LINE_END else [*_pairs(line)]
            if named:
                pairs.append(("JobName", job_name))
            for key, content in pairs:
                fields.setdefault(key, content)
        if "JobState" in fields:
            records.append(_record(fields))
    return records


def from_sacct(text: str) -> Sequence[JobRecord]:
    """The records of ``sacct --parsable2 --noheader`` with ``SACCT_FIELDS``."""
    records = []
    for line in text.splitlines():
        cells = line.split("|", len(SACCT_FIELDS) - 1)
        if len(cells) != len(SACCT_FIELDS):
            continue
        fields = dict(zip(SACCT_FIELDS, cells, strict=True))
        state, _, by = fields["State"].rstrip("+").partition(" ")
        times = {"RunTime": fields["Elapsed"], "StartTime": fields["Start"], "EndTime": fields["End"]}
        names = {"JobId": fields["JobIDRaw"], "JobState": state, "Reason": by.replace(" ", "_")}
        records.append(_record({**fields, **names, **times}))
    return records


def _pairs(line: str) -> Sequence[tuple[str, str]]:
    """``A=b c D=e``: a value goes on to the next word with an equals sign."""
    pairs: list[tuple[str, str]] = []
    for word in line.split():
        name, equals, value = word.partition("=")
        if equals and name:
            pairs.append((name, value))
        elif pairs:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]} {word}")
    return pairs


_SHOWN: Final = (
    "JobId",
    "JobName",
    "JobState",
    "Reason",
    "Partition",
    "NodeList",
    "SubmitTime",
    "StartTime",
    "EndTime",
    "RunTime",
    "TimeLimit",
    "ExitCode",
    "WorkDir",
    "StdOut",
    "StdErr",
)


def _record(fields: Mapping[str, str]) -> JobRecord:
    code, _, number = fields.get("ExitCode", "").partition(":")
    reason = fields.get("Reason", "")
    return JobRecord(
        state=fields["JobState"],
        reason="" if reason in _NOTHING else reason,
        exit_code=_number(code),
        exit_signal=_number(number),
        stdout=_path(fields.get("StdOut", ""), fields),
        stderr=_path(fields.get("StdErr", ""), fields),
        values={name: fields[name] for name in _SHOWN if fields.get(name, "") not in _NOTHING},
        is_array="ArrayJobId" in fields,
    )


def _path(value: str, fields: Mapping[str, str]) -> str:
    """Only a path that is already known: others of sbatch's patterns (``%N``) are filled in when the job starts."""
    for pattern, name in (("%j", "JobId"), ("%A", "JobId"), ("%x", "JobName")):  # not all versions do
        value = value.replace(pattern, fields.get(name, pattern))
    return value if value.startswith("/") and "%" not in value and value != "/dev/null" else ""


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _signal(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)
