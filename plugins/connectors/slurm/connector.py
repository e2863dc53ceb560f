"""The connector: create submits, get asks the controller, delete cancels; all on a login node, over SSH."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from flyteidl2.core import execution_pb2
from google.protobuf.message import DecodeError as MessageError

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Blob,
    Connection,
    ConnectorSetup,
    JobContext,
    LogLine,
    LogPage,
    LogsQuery,
    RemotePhase,
    Resource,
    ResourceMeta,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.errors import PermanentError, PropfanError, StorageError, TransientError
from propfan.plugins.connectors.slurm import jobs, payloads, submitting
from propfan.plugins.connectors.slurm.config import SlurmConfig
from propfan.plugins.connectors.slurm.connections import PRIVATE_KEY, Address, Connections, Login

if TYPE_CHECKING:
    import asyncssh

_TAIL_BYTES: Final = 8192
_TAIL_LINES: Final = 20
_PAGE_BYTES: Final = 256 * 1024
_PAGE_LINES: Final = 1000
_ERROR_BYTES: Final = 1024 * 1024
_NO_ACCOUNTING: Final = "accounting storage is disabled"


class SlurmMeta(ResourceMeta, frozen=True):
    """What finds a job again.

    Attributes:
        name: By which the launch is known on the cluster.
        stdout: Where the job writes; empty while that is not known.
        outputs: What a job that succeeds has left.
        is_function: It writes ``outputs.pb`` itself.
    """

    job_id: str
    name: str
    address: Address
    stdout: str = ""
    outputs: Mapping[str, Blob | str] = {}
    is_function: bool = False


class SlurmConnector(AsyncConnector[SlurmMeta]):
    """Runs batch scripts (``slurm``) and functions of the SDK (``slurm_fn``).

    A job is found again by a record in the user's home and by its comment, so that a launch that is asked for
    twice is one job. What Slurm has forgotten is asked of ``sacct``; where accounting is off, a job that nobody
    looked at for ``MinJobAge`` (300 s) after its end has no known end, and counts as failed.
    """

    name = "Slurm Connector"
    categories = (TaskCategory("slurm"), TaskCategory(payloads.FUNCTION_TYPE))
    meta_type = SlurmMeta

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._config: Final = setup.section("slurm", SlurmConfig)
        self._connections: Final = Connections(self._config)

    async def create(self, task: TaskRequest) -> SlurmMeta:
        job = payloads.submission(task)
        name = task.unique_name()
        async with self._login(job.address, task.connection) as login:
            made = await submitting.submit(login, job, name, self._config.folder)
        is_function = task.template.type == payloads.FUNCTION_TYPE
        return SlurmMeta(made.job_id, name, job.address, made.stdout, job.outputs, is_function)

    async def get(self, meta: SlurmMeta, job: JobContext) -> Resource:
        if problem := _strange(meta):
            return Resource(RemotePhase.FAILED, problem)
        async with self._login(meta.address, job.connection) as login:
            record = await self._look(login, meta)
            if record is None:
                return await self._forgotten(login, meta, job)
            phase, message = record.phase, f"{_told(meta)}: {record.describe()}"
            if phase in (RemotePhase.FAILED, RemotePhase.RETRYABLE_FAILED):
                message += await self._tails(login, meta, record)
        return await self._answer(meta, job, phase, message, record.values)

    async def delete(self, meta: SlurmMeta, job: JobContext) -> None:
        if _strange(meta):
            return
        async with self._login(meta.address, job.connection) as login:
            await submitting.cancel(login, meta.job_id)

    async def get_logs(self, meta: SlurmMeta, query: LogsQuery) -> AsyncIterator[LogPage]:
        """What the job wrote; ``token`` is the place of the next byte."""
        offset = int(query.token) if query.token.isascii() and query.token.isdigit() else 0
        wanted = query.lines or None
        path = "" if _strange(meta) else await self._stdout(meta)
        while path and (wanted is None or wanted > 0):
            limit = min(wanted or _PAGE_LINES, _PAGE_LINES)
            lines, offset, is_end = await self._page(meta, path, offset, limit)
            wanted = None if wanted is None else wanted - len(lines)
            yield LogPage([LogLine(line) for line in lines], "" if is_end else str(offset))
            if is_end:
                return
        if not path:
            yield LogPage([])

    async def close(self) -> None:
        await self._connections.close()

    @asynccontextmanager
    async def _login(self, address: Address, connection: Connection | None) -> AsyncIterator[Login]:
        private_key, missing = "", None
        try:
            private_key = await self.get_secret(PRIVATE_KEY, connection)
        except PermanentError as error:  # other keys may do
            missing = error
        async with self._connections.login(address, private_key, missing) as login:
            yield login

    async def _look(self, login: Login, meta: SlurmMeta) -> jobs.JobRecord | None:
        """The job as the controller or the accounting knows it; ``None`` when neither does."""
        answer = await login.run("scontrol", "show", "job", meta.job_id)
        if answer.status == 0 and (records := jobs.from_scontrol(answer.output)):
            return jobs.whole(records)
        if answer.status != 0 and not submitting.is_unknown(answer):
            problem = f"scontrol: {submitting.complaint(answer)}"
            raise TransientError("", f"slurm: {login.address}: {_told(meta)}: {problem}")
        fields = ",".join(jobs.SACCT_FIELDS)
        answer = await login.run(
            "sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={meta.job_id}", f"--format={fields}"
        )
        if answer.status != 0 and _NO_ACCOUNTING not in answer.errors.lower():
            problem = f"sacct: {submitting.complaint(answer)}"
            raise TransientError("", f"slurm: {login.address}: {_told(meta)}: {problem}")
        records = jobs.from_sacct(answer.output)
        return jobs.whole(records) if records else None

    async def _forgotten(self, login: Login, meta: SlurmMeta, job: JobContext) -> Resource:
        """A job that left the controller's memory, and was not kept by the accounting either."""
        told = f"{_told(meta)} is not known to Slurm on {login.address} any more"
        if meta.is_function and await self._has_outputs(job):
            return await self._answer(meta, job, RemotePhase.SUCCEEDED, f"{told}; its outputs are there", {})
        way_out = "Slurm forgets a job MinJobAge after its end unless accounting is configured (AccountingStorageType)"
        message = f"{told}, so how it ended can not be told: {way_out}"
        return Resource(RemotePhase.FAILED, message + await self._tails(login, meta, None))

    async def _has_outputs(self, job: JobContext) -> bool:
        try:
            return bool(job.output_prefix) and await self.setup.store.size(_below(job, "outputs.pb")) is not None
        except PropfanError:
            return False

    async def _answer(
        self, meta: SlurmMeta, job: JobContext, phase: RemotePhase, message: str, values: Mapping[str, Any]
    ) -> Resource:
        """A function may tell why it failed in ``error.pb``, however its process ended."""
        if meta.is_function and phase in (RemotePhase.SUCCEEDED, RemotePhase.FAILED) and job.output_prefix:
            error = await self._error(job)
            if error is not None:
                recoverable = execution_pb2.ContainerError.RECOVERABLE
                phase = RemotePhase.RETRYABLE_FAILED if error.kind == recoverable else RemotePhase.FAILED
                message = f"[{error.code}] {error.message}\n{message}" if error.code else f"{error.message}\n{message}"
        outputs = dict(meta.outputs) if phase is RemotePhase.SUCCEEDED and meta.outputs else None
        return Resource(phase, message, outputs=outputs, custom_info=dict(values) or None)

    async def _error(self, job: JobContext) -> execution_pb2.ContainerError | None:
        """What the function left; ``None`` also where the service can not read the task's store."""
        try:
            content = await self.setup.store.get(_below(job, "error.pb"), limit_bytes=_ERROR_BYTES)
            document = execution_pb2.ErrorDocument.FromString(content)
        except (StorageError, PermanentError, MessageError):
            return None
        return document.error if document.HasField("error") else None

    async def _tails(self, login: Login, meta: SlurmMeta, record: jobs.JobRecord | None) -> str:
        """The last lines of what the job wrote; nothing where the login node can not see its files."""
        import asyncssh

        paths = [record.stdout, record.stderr] if record is not None else []
        told = ""
        for path in dict.fromkeys(path for path in (paths or [meta.stdout]) if path):
            try:
                async with login.files() as files:
                    content, _ = await _read(files, path, -_TAIL_BYTES, _TAIL_BYTES)
            except (asyncssh.SFTPError, TransientError):
                continue
            lines = content.decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
            if lines:
                told += "\n".join(["", f"{path} ends with:", *lines])
        return told

    async def _stdout(self, meta: SlurmMeta) -> str:
        if meta.stdout:
            return meta.stdout
        async with self._login(meta.address, None) as login:
            record = await self._look(login, meta)
        return record.stdout if record is not None else ""

    async def _page(self, meta: SlurmMeta, path: str, offset: int, limit: int) -> tuple[Sequence[str], int, bool]:
        """Lines from ``offset`` on, where the next ones begin, and whether these are the last."""
        import asyncssh

        try:
            async with self._login(meta.address, None) as login, login.files() as files:
                content, size_bytes = await _read(files, path, offset, _PAGE_BYTES)
        except asyncssh.SFTPError:  # not there yet, or gone
            return [], offset, True
        is_rest = offset + len(content) >= size_bytes
        if not is_rest and b"\n" in content:
            content = content[: content.rindex(b"\n") + 1]
        lines = content.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        shown = lines[:limit]
        is_end = is_rest and len(shown) == len(lines)
        used = len(content) if len(shown) == len(lines) else sum(len(line) + 1 for line in shown)
        return [line.decode("utf-8", "replace") for line in shown], offset + used, is_end


async def _read(files: asyncssh.SFTPClient, path: str, offset: int, limit: int) -> tuple[bytes, int]:
    """Bytes of a regular file, from its end when ``offset`` is negative, and its size."""
    import asyncssh

    attributes = await files.stat(path)
    if not stat.S_ISREG(attributes.permissions or 0):
        raise asyncssh.SFTPFailure(f"{path} is no regular file")
    size_bytes = attributes.size or 0
    async with files.open(path, "rb") as file:
        content = await file.read(limit, max(0, size_bytes + offset) if offset < 0 else offset)
    return cast("bytes", content), size_bytes


def _strange(meta: SlurmMeta) -> str:
    """Why no job can be meant: metas come back from outside."""
    if not submitting.is_job_id(meta.job_id):
        return f"'{meta.job_id[:100]}' is no id of a Slurm job"
    return meta.address.problem()


def _told(meta: SlurmMeta) -> str:
    return f"Slurm job {meta.job_id} ({meta.name})"


def _below(job: JobContext, file: str) -> str:
    return f"{job.output_prefix.rstrip('/')}/{file}"
