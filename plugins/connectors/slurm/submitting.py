"""Hands a job to ``sbatch`` once, however often that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.plugins.connectors.slurm import jobs
from propfan.plugins.connectors.slurm.connections import Answer, Login
from propfan.plugins.connectors.slurm.payloads import Submission

_BEGIN: Final = "propfan:submitted\n"
"""What comes before it is the login shell's, which may greet."""
_BUSY: Final = 75
_NO_FOLDER: Final = 73
_NO_QUEUE: Final = 69

_PROGRAM: Final = r"""
folder=$1 name=$2 job_name=$3 mark=$4 script=$5 count=$6
shift 6
case $folder in /*) ;; *) folder=$HOME/$folder ;; esac
record=$folder/$name.job
text=$folder/$name.slurm
mask=$(umask)
umask 077
mkdir -p "$folder" && : >>"$folder/$name.lock" || exit 73
exec 9>>"$folder/$name.lock"
if command -v flock >/dev/null 2>&1; then
    flock -w 8 9
    if [ $? -eq 1 ]; then exit 75; fi
fi
cat >"$text" || exit 73
if [ -s "$record" ]; then
    shown=$(cat "$record")
else
    found=$(squeue --noheader --states=all --user="$(id -u)" --name="$job_name" --format='%A %k') || {
        status=$?
        rm -f "$text"
        if [ $status -eq 127 ]; then exit 127; fi
        exit 69
    }
    id=$(printf '%s\n' "$found" | awk -v mark="$mark" '$NF == mark { print $1; exit }')
    if [ -z "$id" ]; then
        umask "$mask"
        i=0
        for word in "$@"; do
            shift
            if [ $i -eq "$count" ]; then
                case $script in
                    "") set -- "$@" "$text" ;;
                    "~/"*) set -- "$@" "$HOME/${script#"~/"}" ;;
                    *) set -- "$@" "$script" ;;
                esac
            else
                set -- "$@" "$word"
            fi
            i=$((i + 1))
        done
        told=$(sbatch --parsable "$@" 9>&-)
        status=$?
        umask 077
        if [ $status -ne 0 ]; then
            rm -f "$text"
            exit $status
        fi
        id=$(printf '%s\n' "$told" | tail -n 1)
    fi
    id=${id%%;*}
    shown=$(printf '%s\n' "$id"; scontrol show job "$id" 2>/dev/null)
    { printf '%s\n' "$shown" >"$record.new" && mv -f "$record.new" "$record"; } 2>/dev/null
    find "$folder" -type f -mtime +30 -exec rm -f {} + 2>/dev/null
fi
rm -f "$text"
printf '%s\n' propfan:submitted "$shown"
"""
"""POSIX shell. Arguments: folder, name of the launch, name of the job, mark in its comment, script's path, number
of options; the options; one word in the script's place; the script's arguments. Standard input: the script's text.

Under a lock it looks for the record of an earlier call, then for a job with the mark, and only then submits. So a
call that was cut off, also one whose ``sbatch`` is still at it, is found by the next one. A record that can not be
written costs nothing but that. The script's text is not needed any more once ``sbatch`` has returned.
"""

_TRANSIENT: Final = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "communication",
    "temporarily",
    "zero bytes",
    "maxsubmitjob",
    "job submit limit",
    "slurmctld is not",
    "backup controller",
    "i/o error",
    "munge",
    "authentication error",
)
"""Of what Slurm's programs complain about: the controller is away or ill, or the user has too many jobs waiting.

Words of ``slurm_strerror`` (20.11 to 24.11)."""
_THROTTLED_S: Final = 30.0


class Submitted(msgspec.Struct, frozen=True):
    job_id: str
    stdout: str


async def submit(login: Login, job: Submission, name: str, folder: str) -> Submitted:
    """The job that ``name`` names, submitted when there is none yet.

    Raises:
        BadTaskSpecificationError: Slurm will never take the job; with its words.
        TransientError: the controller does not answer, or takes no more jobs of the user now.
    """
    job_name = job.job_name or name
    mark = f"propfan:{name}"
    options = [f"--job-name={job_name}", f"--comment={f'{job.comment} {mark}'.strip()}", *job.options]
    words = [folder, name, job_name, mark, job.script_path, str(len(options)), *options, "--", *job.arguments]
    answer = await login.run("sh", "-c", _PROGRAM, "propfan-submit", *words, text=job.script)
    where = f"slurm: {login.address}: {name}"
    if answer.status == _BUSY:
        raise TransientError("", f"{where} is still being submitted by an earlier call")
    if answer.status == _NO_FOLDER:
        problem = f"the folder {folder} can not be written: {complaint(answer)}; see connectors.slurm.folder"
        raise PermanentError("", f"{where}: {problem}")
    if answer.status == _NO_QUEUE:
        raise TransientError("", f"{where}: squeue: {complaint(answer)}")
    if answer.status != 0:
        if is_transient(answer):
            raise TransientError("", f"{where}: sbatch: {complaint(answer)}", _THROTTLED_S)
        raise BadTaskSpecificationError(f"{where}: sbatch refuses the job: {complaint(answer)}")
    job_id, _, shown = answer.output.partition(_BEGIN)[2].partition("\n")
    if not is_job_id(job_id):
        raise TransientError("", f"{where}: sbatch told no job id but {answer.output[:100]!r}")
    records = jobs.from_scontrol(shown)
    if any(record.is_array for record in records):
        await cancel(login, job_id)
        problem = "the script's #SBATCH lines make an array of jobs, of which no one answer can be told"
        raise BadTaskSpecificationError(f"{where}: {problem}; use a map task")
    return Submitted(job_id, next((record.stdout for record in records if record.stdout), ""))


async def cancel(login: Login, job_id: str) -> None:
    """Ends the job. One that is over or unknown is none to end.

    Raises:
        TransientError: the controller does not answer.
        PermanentError: the job is another user's.
    """
    answer = await login.run("scancel", job_id)
    told = answer.errors.lower()
    if answer.status == 0 or is_unknown(answer) or "already complet" in told:
        return
    problem = f"slurm: {login.address}: scancel {job_id}: {complaint(answer)}"
    if "permission denied" in told:
        raise PermanentError("", problem)
    raise TransientError("", problem)


def is_job_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def is_unknown(answer: Answer) -> bool:
    return "invalid job id" in answer.errors.lower()


def is_transient(answer: Answer) -> bool:
    told = answer.errors.lower()
    return any(words in told for words in _TRANSIENT)


def complaint(answer: Answer, limit: int = 5) -> str:
    """The first lines that a program complained with."""
    lines: Sequence[str] = [line.strip() for line in answer.errors.splitlines() if line.strip()]
    return "; ".join(lines[:limit])[:1000] or f"exit code {answer.status}"
