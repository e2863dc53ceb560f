"""What moving a file to and from OpenAI has in common: it takes longer than a call may.

``create`` begins the transfer in the background, ``get`` tells whether it is over. Where the process was replaced
meanwhile, or another replica is asked, ``get`` looks whether the result is there, and begins anew where it is not.
Files go through the disk in parts, so that memory is bounded whatever their size.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import anyio
import msgspec

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    ConnectorSetup,
    JobContext,
    RemotePhase,
    Resource,
    ResourceMeta,
    TaskRequest,
)
from propfan.pluginmachinery.contexts import DataStore, FileTransferStore
from propfan.pluginmachinery.errors import (
    BadTaskSpecificationError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    PermanentError,
)
from propfan.plugins.connectors.openai.account import Account, Accounts, SecretName
from propfan.plugins.connectors.openai.underway import Underway

Outputs = Mapping[str, Any]


class TransferSpec(msgspec.Struct, frozen=True):
    """``custom`` of the tasks that move files."""

    openai_organization: str | None = None
    secret_arg: SecretName | None = None


class TransferMeta(ResourceMeta, frozen=True):
    """What all transfers have.

    Attributes:
        name: Of the attempt.
        folder: URI of the attempt's outputs. An object in it tells all replicas that the job was deleted.
        secret: Name of the key that the task wants.
    """

    name: str
    folder: str
    organization: str
    secret: SecretName

    @property
    def deletion(self) -> str:
        return f"{self.folder}/openai-transfer-deleted"


M = TypeVar("M", bound=TransferMeta)


class TransferConnector(AsyncConnector[M]):
    """Base of the connectors that move files."""

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._accounts: Final = Accounts(self)
        self._transfers: Final[Underway[Outputs]] = Underway()
        self._turns: Final = anyio.Semaphore(self._accounts.config.max_transfers)

    @abc.abstractmethod
    def _meta(self, task: TaskRequest, folder: str, spec: TransferSpec) -> M:
        """Raises ``BadTaskSpecificationError`` when the task can not be done."""

    @abc.abstractmethod
    async def _find(self, account: Account, meta: M) -> Outputs | None:
        """The outputs, where an earlier transfer left them."""

    @abc.abstractmethod
    async def _transfer(self, account: Account, meta: M) -> Outputs:
        """Moves what ``_find`` does not find."""

    async def create(self, task: TaskRequest) -> M:
        if not task.output_prefix:
            problem = "has no output_prefix, below which its outputs could lie"
            raise BadTaskSpecificationError(f"task '{task.template.id.name}' ({task.template.type}) {problem}")
        meta = self._meta(task, task.output_prefix.rstrip("/"), task.custom(TransferSpec))
        account = await self._accounts.open(task.connection, meta.organization, meta.secret)
        self._transfers.begin(meta.name, lambda: self._run(account, meta))
        return meta

    async def _run(self, account: Account, meta: M) -> Outputs:
        async with self._turns:
            found = await self._find(account, meta)
            return found if found is not None else await self._transfer(account, meta)

    async def get(self, meta: M, job: JobContext) -> Resource:
        transfer = self._transfers.find(meta.name)
        if transfer is None:
            return await self._look_anew(meta, job)
        if not transfer.done():
            return Resource(RemotePhase.RUNNING, "the file is under way")
        try:
            return Resource(RemotePhase.SUCCEEDED, outputs=transfer.result())
        except PermanentError as error:
            return Resource(RemotePhase.FAILED, str(error))  # with its code
        except Exception:
            self._transfers.forget(meta.name)  # the next look begins anew
            raise

    async def _look_anew(self, meta: M, job: JobContext) -> Resource:
        """Of a transfer that this process did not begin."""
        if await self.setup.store.size(meta.deletion) is not None:
            return Resource(RemotePhase.ABORTED, "the transfer was deleted")
        account = await self._accounts.open(job.connection, meta.organization, meta.secret)
        found = await self._find(account, meta)
        if found is not None:
            return Resource(RemotePhase.SUCCEEDED, outputs=found)
        self._transfers.begin(meta.name, lambda: self._run(account, meta))
        return Resource(RemotePhase.RUNNING, "the file is under way")

    async def delete(self, meta: M, job: JobContext) -> None:
        self._transfers.forget(meta.name)
        await self.setup.store.put(meta.deletion, b"")

    async def close(self) -> None:
        await self._transfers.close()
        await self._accounts.close()


@contextmanager
def scratch_file() -> Iterator[Path]:
    """Path of a file that may be made, and is gone afterwards."""
    with TemporaryDirectory(prefix="propfan-openai-") as folder:
        yield Path(folder) / "file.jsonl"


async def fetch(store: DataStore, path: str, file: Path, limit_bytes: int) -> int:
    """Copies an object into a file, and answers with its size.

    Raises:
        BadTaskSpecificationError: there is none, or it is larger than the limit.
        StorageError: the store does not answer.
    """
    try:
        if isinstance(store, FileTransferStore):
            return await store.get_file(path, file, limit_bytes=limit_bytes)
        content = await store.get(path, limit_bytes=limit_bytes)
    except (ObjectNotFoundError, ObjectTooLargeError) as error:
        raise BadTaskSpecificationError(str(error)) from error
    await anyio.Path(file).write_bytes(content)
    return len(content)


async def deliver(store: DataStore, path: str, file: Path) -> None:
    """Copies a file into an object, at once or not at all. Raises ``StorageError``."""
    if isinstance(store, FileTransferStore):
        await store.put_file(path, file)
    else:
        await store.put(path, await anyio.Path(file).read_bytes())
