"""What Slurm's programs print, as a phase and words."""

from __future__ import annotations

import pytest

from propfan.pluginmachinery.connector import RemotePhase
from propfan.pluginmachinery.errors import DecodeError
from propfan.plugins.connectors.slurm import jobs

# Of Slurm 22.05.8, `scontrol show job 7`, shortened.
SHOWN = """\
JobId=7 JobName=na JobState=COMPLETED me
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   JobState=PENDING Reason=ReqNodeNotAvail, UnavailableNodes:vm Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:00:00 TimeLimit=UNLIMITED TimeMin=N/A
   SubmitTime=2026-11-21T19:56:57 EligibleTime=2026-11-21T19:56:57
   StartTime=Unknown EndTime=Unknown Deadline=N/A
   Partition=main AllocNode:Sid=vm:6891
   NodeList=
   Command=/tmp/s.sh StdOut=/etc/passwd
   WorkDir=/tmp/my work
   Comment=x StdOut=/etc/shadow
   StdErr=/tmp/my work/slurm-7.err
   StdIn=/dev/null
   StdOut=/tmp/my work/slurm-7.out
   Power=

"""


def only(text: str) -> jobs.JobRecord:
    (record,) = jobs.from_scontrol(text)
    return record


def in_state(state: str, reason: str = "None", code: str = "0:0") -> jobs.JobRecord:
    shown = SHOWN.replace("JobState=PENDING", f"JobState={state}").replace("ExitCode=0:0", f"ExitCode={code}")
    return only(shown.replace("ReqNodeNotAvail, UnavailableNodes:vm", reason))


def test_names_and_comments_that_look_like_fields_are_none() -> None:
    record = only(SHOWN)
    assert record.state == "PENDING"
    assert record.stdout == "/tmp/my work/slurm-7.out"
    assert record.stderr == "/tmp/my work/slurm-7.err"
    assert record.reason == "ReqNodeNotAvail, UnavailableNodes:vm"


def test_values_that_say_nothing_are_left_out() -> None:
    values = only(SHOWN).values
    assert values["JobId"] == "7"
    assert values["WorkDir"] == "/tmp/my work"
    assert "StartTime" not in values
    assert "NodeList" not in values


@pytest.mark.parametrize("state", jobs.PHASES)
def test_every_documented_state_has_a_phase_and_words(state: str) -> None:
    record = in_state(state)
    assert record.phase is jobs.PHASES[state]
    assert record.describe().startswith(state)


# https://slurm.schedmd.com/job_state_codes.html, names of states and flags; the last line is squeue(1) of 20.11
DOCUMENTED = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PENDING",
    "PREEMPTED",
    "RUNNING",
    "SUSPENDED",
    "TIMEOUT",
    "COMPLETING",
    "CONFIGURING",
    "EXPEDITING",
    "LAUNCH_FAILED",
    "POWER_UP_NODE",
    "RECONFIG_FAIL",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESIZING",
    "RESV_DEL_HOLD",
    "REVOKED",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "UPDATE_DB",
]


def test_no_documented_state_is_missing() -> None:
    assert sorted(jobs.PHASES) == sorted(DOCUMENTED)


def test_unknown_state_is_named() -> None:
    with pytest.raises(DecodeError, match=r"Slurm job 7.*'DANCING'"):
        _ = in_state("DANCING").phase


@pytest.mark.parametrize(
    ("reason", "phase"),
    [
        ("Priority", RemotePhase.QUEUED),
        ("None", RemotePhase.QUEUED),
        ("Dependency", RemotePhase.QUEUED),
        ("Resources", RemotePhase.WAITING_FOR_RESOURCES),
        ("ReqNodeNotAvail,_UnavailableNodes:n7", RemotePhase.WAITING_FOR_RESOURCES),
        ("QOSMaxCpuPerUserLimit", RemotePhase.WAITING_FOR_RESOURCES),
    ],
)
def test_pending_job_tells_what_it_waits_for(reason: str, phase: RemotePhase) -> None:
    record = in_state("PENDING", reason)
    assert record.phase is phase
    assert reason == "None" or f"({reason})" in record.describe()


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ("FAILED", "3:0", "FAILED, exit code 3"),
        ("FAILED", "0:9", "FAILED, signal 9 (SIGKILL)"),
        ("CANCELLED", "0:15", "CANCELLED, signal 15 (SIGTERM)"),
        ("FAILED", "0:250", "FAILED, signal 250"),
        ("OUT_OF_MEMORY", "0:125", "sbatch_config.mem raises the limit"),
        ("TIMEOUT", "0:15", "sbatch_config.time raises it"),
    ],
)
def test_end_is_told_with_code_signal_and_way_out(state: str, code: str, words: str) -> None:
    assert words in in_state(state, code=code).describe()


def test_parts_of_a_job_are_told_by_the_one_that_matters_most() -> None:
    done, failed, running = in_state("COMPLETED"), in_state("FAILED"), in_state("RUNNING")
    assert jobs.whole([done, failed]) is failed
    assert jobs.whole([done, failed, running]) is running
    assert jobs.whole([done, done]) is done


def test_each_block_of_an_answer_is_a_part() -> None:
    assert [record.state for record in jobs.from_scontrol(SHOWN + SHOWN)] == ["PENDING", "PENDING"]


def test_member_of_an_array_is_recognised() -> None:
    assert only(SHOWN.replace("JobId=7", "JobId=7 ArrayJobId=7 ArrayTaskId=1-3")).is_array
    assert not only(SHOWN).is_array


def test_paths_that_are_not_known_yet_are_none() -> None:
    assert only(SHOWN.replace("/tmp/my work/slurm-7.out", "/tmp/%N.out")).stdout == ""
    assert only(SHOWN.replace("/tmp/my work/slurm-7.out", "/dev/null")).stdout == ""


def test_patterns_in_paths_are_filled_in_where_slurm_does_not() -> None:
    shown = SHOWN.replace("/tmp/my work/slurm-7.out", "/tmp/%x-%j.%A").replace("na JobState=COMPLETED me", "train")
    assert only(shown).stdout == "/tmp/train-7.7"


# Of Slurm 22.05.8 with slurmdbd and MariaDB.
ACCOUNTED = {
    "3|FAILED|3:0|00:00:00|vm|main|2026-11-21T20:37:47|2026-11-21T20:37:47|na|me": "FAILED, exit code 3",
    "3|COMPLETED|0:0|00:00:00|vm|main|2026-11-21T20:37:47|2026-11-21T20:37:47|ok.sh": "COMPLETED",
    "3|CANCELLED by 0|0:0|00:00:03|vm|main|2026-11-21T20:37:47|2026-11-21T20:37:50|s.sh": "CANCELLED (by_0)",
}


@pytest.mark.parametrize("line", ACCOUNTED)
def test_accounting_tells_state_code_and_nodes(line: str) -> None:
    (record,) = jobs.from_sacct(line + "\n")
    assert record.describe() == ACCOUNTED[line]
    assert record.phase.is_terminal
    assert record.values["JobId"] == "3"
    assert record.values["NodeList"] == "vm"
    assert record.values["EndTime"].startswith("2026-11-21")
    assert record.values["JobName"] == line.split("|", 8)[8]


@pytest.mark.parametrize("text", ["", "\n\n", "nonsense", "=\n =x\n", "JobState", "7|x\n"])
def test_other_output_is_no_job(text: str) -> None:
    assert not jobs.from_scontrol(text)
    assert not jobs.from_sacct(text)
