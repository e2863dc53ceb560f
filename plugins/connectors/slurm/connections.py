"""SSH to login nodes: one connection for each host, port, user and key, used by many calls at once.

A connection that is closed, or does not answer after a rest, is replaced before it is handed out. A server
that does not answer keep-alives for 45 s is taken for gone.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import msgspec

from propfan.pluginmachinery.errors import PermanentError, TransientError
from propfan.plugins.connectors.http_answers import NOT_ALLOWED
from propfan.plugins.connectors.slurm.config import SlurmConfig

if TYPE_CHECKING:
    import asyncssh

PRIVATE_KEY: Final = "FLYTE_SLURM_PRIVATE_KEY"
"""Logical name of the secret, as Flyte's SDK names it: the text of a private key."""

HOST_NOT_TRUSTED: Final = "HostKeyNotTrusted"
"""Code of a task whose cluster shows a host key that is not known."""

_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]*")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+$\\-]*")
_SESSIONS: Final = 8
"""At once on one connection; OpenSSH's server allows 10 (``MaxSessions``)."""
_KEEPALIVE_S: Final = 15
_PROBE_AFTER_S: Final = 30.0
_PROBE_LIMIT_S: Final = 5.0


class Address(msgspec.Struct, frozen=True):
    """Where a cluster is, as a task says it; what it leaves open is OpenSSH's configuration or its defaults.

    Attributes:
        port: 0 leaves it open.
        client_keys: Files of private keys where the connector runs.
    """

    host: str
    port: int = 0
    username: str = ""
    client_keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        user = f"{self.username}@" if self.username else ""
        return f"{user}{self.host}" + (f":{self.port}" if self.port else "")

    def problem(self) -> str:
        """Which field can not be meant; empty when all can."""
        if not _HOST.fullmatch(self.host):
            return "ssh_config.host must be the name or address of a login node"
        if not 0 <= self.port < 65536:
            return f"ssh_config.port must be a port, is {self.port}"
        if self.username and not _USER.fullmatch(self.username):
            return "ssh_config.username must be the name of a user"
        return ""


class Answer(msgspec.Struct, frozen=True):
    """What a command left."""

    status: int
    output: str
    errors: str


class Login:
    """A connection, for one caller."""

    def __init__(self, connection: asyncssh.SSHClientConnection, address: Address, config: SlurmConfig) -> None:
        self._connection: Final = connection
        self._config: Final = config
        self.address: Final = address

    async def run(self, *command: str, text: str = "") -> Answer:
        """Runs a program with its arguments, none of which the shell interprets.

        Args:
            text: Its standard input.

        Raises:
            TransientError: it did not end in time, was killed, or the connection was lost.
            PermanentError: the cluster does not have the program.
        """
        line = shlex.join(command)
        if self._config.programs:
            line = f"PATH={shlex.quote(self._config.programs)}:$PATH; export PATH; exec {line}"
            line = shlex.join(("sh", "-c", line))
        import asyncssh

        source: Mapping[str, Any] = {"input": text} if text else {"stdin": asyncssh.DEVNULL}
        with told(self.address):
            with anyio.fail_after(self._config.command_timeout_s):
                async with await self._connection.create_process(
                    line, encoding="utf-8", errors="replace", **source
                ) as process:
                    done = await process.wait()
        answer = Answer(
            -1 if done.exit_status is None else done.exit_status, str(done.stdout or ""), str(done.stderr or "")
        )
        if answer.status < 0:
            raise TransientError("", f"slurm: {self.address}: {command[0]} was cut off: {answer.errors.strip()}")
        if answer.status == 127:
            problem = f"{answer.errors.strip()}; install Slurm's programs there or set connectors.slurm.programs"
            raise PermanentError("", f"slurm: {self.address}: {problem}")
        return answer

    @asynccontextmanager
    async def files(self) -> AsyncIterator[asyncssh.SFTPClient]:
        """The cluster's files; errors about single ones are SFTP's."""
        with told(self.address):
            with anyio.fail_after(self._config.command_timeout_s):
                async with self._connection.start_sftp_client() as client:
                    yield client


class _Line:
    """One connection and who uses it."""

    def __init__(self) -> None:
        self.connection: asyncssh.SSHClientConnection | None = None
        self.opening: Final = anyio.Lock()
        self.sessions: Final = anyio.Semaphore(_SESSIONS)
        self.users = 0
        self.used_at = 0.0


class Connections:
    """Belongs to one event loop."""

    def __init__(self, config: SlurmConfig) -> None:
        self._config: Final = config
        self._lines: Final[dict[tuple[Address, str], _Line]] = {}

    @property
    def open_count(self) -> int:
        return sum(line.connection is not None for line in self._lines.values())

    @asynccontextmanager
    async def login(self, address: Address, private_key: str, missing: PermanentError | None) -> AsyncIterator[Login]:
        """A connection that answered.

        Args:
            private_key: Its text; may be empty.
            missing: Why there is none: raised when there is no other key either.

        Raises:
            PermanentError: the cluster takes no key, shows a host key that is not known, or there is no key.
            TransientError: it does not answer, or too many connections are in use.
        """
        identity = (address, hashlib.sha256(private_key.encode()).hexdigest())
        line = self._lines.get(identity)
        if line is None:
            await self._make_room()
            line = self._lines.setdefault(identity, _Line())
        line.users += 1
        try:
            async with line.sessions:
                yield Login(await self._ready(line, address, private_key, missing), address, self._config)
        finally:
            line.users -= 1
            line.used_at = anyio.current_time()
            if line.connection is None and not line.users and self._lines.get(identity) is line:
                del self._lines[identity]

    async def close(self) -> None:
        lines = [*self._lines.values()]
        self._lines.clear()
        for line in lines:
            await _hang_up(line)

    async def _make_room(self) -> None:
        """Closes what nobody used for long, and more when there are too many."""
        resting = sorted((item for item in self._lines.items() if not item[1].users), key=lambda item: item[1].used_at)
        now = anyio.current_time()
        for identity, line in resting:
            if line.users or self._lines.get(identity) is not line:
                continue  # taken, or gone, while another one was closed
            if len(self._lines) < self._config.max_connections and now - line.used_at < self._config.idle_s:
                break
            del self._lines[identity]
            await _hang_up(line)
        if len(self._lines) >= self._config.max_connections:
            problem = f"{len(self._lines)} connections are in use; connectors.slurm.max-connections allows no more"
            raise TransientError("", f"slurm: {problem}")

    async def _ready(
        self, line: _Line, address: Address, private_key: str, missing: PermanentError | None
    ) -> asyncssh.SSHClientConnection:
        async with line.opening:
            if line.connection is not None and not await self._answers(line):
                await _hang_up(line)
            if line.connection is None:
                line.connection = await self._connect(address, private_key, missing)
            return line.connection

    async def _answers(self, line: _Line) -> bool:
        import asyncssh

        assert line.connection is not None
        if line.connection.is_closed():
            return False
        if line.users > 1 or anyio.current_time() - line.used_at < _PROBE_AFTER_S:
            return True
        try:
            with anyio.fail_after(_PROBE_LIMIT_S):
                async with await line.connection.create_process("true", stdin=asyncssh.DEVNULL) as process:
                    await process.wait()
        except (asyncssh.Error, OSError, TimeoutError):
            return False
        return True

    async def _connect(
        self, address: Address, private_key: str, missing: PermanentError | None
    ) -> asyncssh.SSHClientConnection:
        # A third of a second when it is the first time, in which others want to be answered.
        await anyio.to_thread.run_sync(import_module, "asyncssh")
        import asyncssh

        with told(address):
            options = await asyncssh.SSHClientConnectionOptions.construct(
                config=[self._config.ssh_config] if self._config.ssh_config else (),
                **self._options(address, private_key),
            )
            if missing is not None and not options.client_keys and not options.agent_path:
                raise missing
            with anyio.fail_after(self._config.connect_timeout_s):
                return await asyncssh.connect(options=options, config=None)

    def _options(self, address: Address, private_key: str) -> Mapping[str, Any]:
        """What is not left to OpenSSH's configuration."""
        keys: list[object] = [*address.client_keys]
        if private_key:  # files of the machine where the task was written need not be here
            keys = [path for path in address.client_keys if Path(path).expanduser().is_file()]
            keys.append(_imported(private_key))
        keys = keys or [*self._config.client_keys]
        options: dict[str, Any] = {
            "host": address.host,
            "client_keys": keys or (),
            "agent_path": None if keys else (),
            "keepalive_interval": _KEEPALIVE_S,
            "keepalive_count_max": 3,
            "preferred_auth": "publickey",
            "connect_timeout": self._config.connect_timeout_s,
            "request_pty": False,
        }
        if address.port:
            options["port"] = address.port
        if address.username:
            options["username"] = address.username
        if self._config.insecure_skip_host_keys:
            options["known_hosts"] = None
        elif self._config.known_hosts:
            options["known_hosts"] = self._config.known_hosts
        return options


@contextmanager
def told(address: Address) -> Iterator[None]:
    """Errors of SSH and of the network as ours. Those about one file pass: they are answers."""
    import asyncssh

    where = f"slurm: {address}"
    try:
        yield
    except asyncssh.SFTPError as error:
        if isinstance(error, asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection):
            raise TransientError("", f"{where}: {error.reason}") from error
        raise
    except asyncssh.PermissionDenied as error:
        way_out = f"authorise a key of the connector's there, or set secret '{PRIVATE_KEY}' or ssh_config.client_keys"
        raise PermanentError(NOT_ALLOWED, f"{where} takes none of the keys ({error.reason}); {way_out}") from error
    except asyncssh.HostKeyNotVerifiable as error:
        way_out = "check the host's key and add it to the file of connectors.slurm.known-hosts (ssh-keyscan shows it)"
        raise PermanentError(HOST_NOT_TRUSTED, f"{where}: {error.reason}; {way_out}") from error
    except (asyncssh.KeyImportError, asyncssh.ConfigParseError) as error:
        raise PermanentError(
            NOT_ALLOWED, f"{where}: a key or the SSH configuration can not be read: {error}"
        ) from error
    except TimeoutError as error:
        raise TransientError("", f"{where} did not answer in time") from error
    except OSError as error:
        if error.filename:
            problem = f"{error.filename} can not be read where the connector runs: {error.strerror}"
            raise PermanentError(NOT_ALLOWED, f"{where}: {problem}") from error
        raise TransientError("", f"{where}: {error}") from error
    except asyncssh.Error as error:
        raise TransientError("", f"{where}: {error}") from error


def _imported(private_key: str) -> asyncssh.SSHKey:
    import asyncssh

    try:
        return asyncssh.import_private_key(private_key.strip() + "\n")
    except asyncssh.KeyEncryptionError:
        problem = "needs a passphrase, which nobody could type here: set a key without one"
        raise PermanentError(NOT_ALLOWED, f"secret '{PRIVATE_KEY}' {problem}") from None
    except asyncssh.KeyImportError:  # the library's text may quote the key
        raise PermanentError(NOT_ALLOWED, f"secret '{PRIVATE_KEY}' is no private key that SSH knows") from None


async def _hang_up(line: _Line) -> None:
    connection, line.connection = line.connection, None
    if connection is not None:
        connection.close()
        with anyio.move_on_after(_PROBE_LIMIT_S):
            await connection.wait_closed()
        connection.abort()
