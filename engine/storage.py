"""Objects by URI: S3, Google Cloud Storage, Azure, local files and memory, through one port.

``ObjectStore`` is the engine's ``DataStore``, and a ``FileTransferStore``. One client per bucket is opened when it is first
needed and kept. Every call ends within ``StorageConfig.timeout_s`` and fails as a ``StorageError``
that carries the URI and says what to do about it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, TypedDict
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import msgspec
import obstore
from msgspec import Meta
from obstore import store as stores
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from propfan.engine.local_files import LocalFiles
from propfan.pluginmachinery.errors import ConfigError, ObjectNotFoundError, ObjectTooLargeError, StorageError

__all__ = ["AzureConfig", "GcsConfig", "Location", "ObjectStore", "S3Config", "StorageConfig"]

_SCHEMES: Final = {"file": "file", "memory": "memory", "s3": "s3", "gs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
_SUPPORTED: Final = "an absolute path, file://, memory://, s3://, gs://, az:// or abfs://"
_PART_BYTES: Final = 8 * 1024 * 1024
"""Of objects that are moved from or to files. S3 takes 10,000 parts of 5 MiB and more for one object."""

_KERNEL_FOLDERS: Final = ("/proc", "/sys")
"""Nothing can be created there, which the file store would retry for ever."""


class S3Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Access to ``s3://``. What is empty comes from the environment, the profile or the instance.

    Attributes:
        endpoint: URL of an S3 that is not Amazon's; ``http://`` is allowed when it says so itself.
        virtual_hosted_style: The bucket is part of the host name instead of the path.
        anonymous: Requests are not signed.
    """

    endpoint: str = ""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""
    allow_http: bool | None = None
    virtual_hosted_style: bool = False
    anonymous: bool = False

    def __repr__(self) -> str:
        return f"S3Config(endpoint={self.endpoint!r}, region={self.region!r}, ...)"


class GcsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Access to ``gs://``; ``service_account`` is the path of a key file."""

    endpoint: str = ""
    service_account: str = ""
    allow_http: bool | None = None
    anonymous: bool = False


class AzureConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Access to ``az://container/key`` and ``abfs://container@account.dfs.core.windows.net/key``."""

    account_name: str = ""
    account_key: str = ""
    endpoint: str = ""
    allow_http: bool | None = None
    anonymous: bool = False

    def __repr__(self) -> str:
        return f"AzureConfig(account_name={self.account_name!r}, endpoint={self.endpoint!r}, ...)"


class StorageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """How objects are reached.

    Attributes:
        timeout_s: A whole call, with its retries, fails after this many seconds.
        connect_timeout_s: Time for one connection to be made, seconds.
        max_retries: Repeats after refused connections and 5xx answers, within ``timeout_s``.
        file_root: Absolute path of an existing folder; files outside it are refused.
    """

    timeout_s: Annotated[float, Meta(gt=0)] = 30.0
    connect_timeout_s: Annotated[float, Meta(gt=0)] = 5.0
    max_retries: Annotated[int, Meta(ge=0)] = 3
    file_root: str = "/"
    s3: S3Config = S3Config()
    gs: GcsConfig = GcsConfig()
    azure: AzureConfig = AzureConfig()

    def with_environment(self, environ: Mapping[str, str]) -> StorageConfig:
        """The same with what is empty taken from the environment.

        S3 reads the variables of Flyte's runtime (``FLYTE_AWS_ENDPOINT``,
        ``FLYTE_AWS_ACCESS_KEY_ID``, ``FLYTE_AWS_SECRET_ACCESS_KEY``), then Amazon's own ones.
        """

        def first(value: str, *names: str) -> str:
            return value or next((environ[name] for name in names if environ.get(name)), "")

        s3 = self.s3
        return msgspec.structs.replace(
            self,
            s3=msgspec.structs.replace(
                s3,
                endpoint=first(s3.endpoint, "FLYTE_AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
                region=first(s3.region, "AWS_REGION", "AWS_DEFAULT_REGION"),
                access_key_id=first(s3.access_key_id, "FLYTE_AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
                secret_access_key=first(s3.secret_access_key, "FLYTE_AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"),
                session_token=first(s3.session_token, "AWS_SESSION_TOKEN"),
            ),
            gs=msgspec.structs.replace(
                self.gs, service_account=first(self.gs.service_account, "GOOGLE_APPLICATION_CREDENTIALS")
            ),
            azure=msgspec.structs.replace(
                self.azure,
                account_name=first(self.azure.account_name, "AZURE_STORAGE_ACCOUNT_NAME"),
                account_key=first(self.azure.account_key, "AZURE_STORAGE_ACCOUNT_KEY"),
            ),
        )


class Location(msgspec.Struct, frozen=True):
    """Where an object lives: ``bucket`` is empty for files, whose ``key`` is the path from the root ``/``."""

    scheme: str
    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> Location:
        """Reads a URI or an absolute path. Names are taken as they are written: ``%20`` is no blank.

        Raises:
            StorageError: nothing can be stored there; the message says what would be right.
        """
        if "\0" in uri:
            raise StorageError(uri.replace("\0", "\\0"), "a path can not contain a NUL character")
        if uri.startswith("/"):
            return cls._file(uri, uri)
        name, separator, rest = uri.partition("://")
        scheme = _SCHEMES.get(name.lower()) if separator else None
        if scheme is None:
            problem = f"scheme '{name}' is not known" if separator else "not a URI and not an absolute path"
            raise StorageError(uri, f"{problem}: use {_SUPPORTED}")
        bucket, _, key = rest.partition("/")
        if scheme == "file":
            if bucket not in ("", "localhost"):
                raise StorageError(uri, f"a file URI has three slashes, or it means the host '{bucket}'")
            return cls._file(uri, "/" + key)
        if not bucket and scheme != "memory":
            raise StorageError(uri, f"no bucket: use {name}://<bucket>/<key>")
        if not key or key.endswith("/"):
            raise StorageError(uri, "names no object: a key must follow and not end with '/'")
        if bad := [part for part in key.split("/") if part in ("", ".", "..")]:
            raise StorageError(uri, f"a key can not have the segment '{bad[0]}'")
        return cls(scheme, bucket, key)

    @classmethod
    def _file(cls, uri: str, path: str) -> Location:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise StorageError(uri, "'..' is refused in file paths: write the path that is meant")
        if not parts or path.endswith("/"):
            raise StorageError(uri, "names a directory, not a file")
        if path.startswith(tuple(folder + "/" for folder in _KERNEL_FOLDERS)):
            raise StorageError(uri, "nothing can be stored in a file system of the kernel")
        return cls("file", "", "/".join(parts))


class ObjectStore:
    """``propfan.pluginmachinery.contexts.DataStore`` over every kind of store; safe for concurrent calls.

    A ``memory://`` object lives as long as this instance.
    """

    def __init__(self, config: StorageConfig | None = None) -> None:
        """Opens nothing yet.

        Raises:
            ConfigError: two settings contradict each other.
        """
        self._config = config or StorageConfig()
        self._memory: dict[Location, bytes] = {}
        self._files = LocalFiles()
        self._stores: dict[tuple[str, str], stores.ObjectStore] = {}
        self._proven: set[tuple[str, str]] = set()  # buckets that are known to exist
        self._file_root = "/" + self._config.file_root.strip("/")
        if not self._config.file_root.startswith("/"):
            raise ConfigError("storage.file-root", f"'{self._config.file_root}' is not an absolute path")
        for name, section in (("s3", self._config.s3), ("gs", self._config.gs), ("azure", self._config.azure)):
            if section.allow_http is False and section.endpoint.startswith("http://"):
                raise ConfigError(f"storage.{name}.allow-http", f"is false, and the endpoint is {section.endpoint}")

    async def get(self, path: str, *, limit_bytes: int | None = None) -> bytes:
        """See ``DataStore.get``. The size is known from the answer's head, before its body is read."""
        location = Location.parse(path)
        if location.scheme == "memory":
            return self._get_from_memory(path, location, limit_bytes)
        store, key = self._resolve(path, location)
        with self._errors(path, location), anyio.fail_after(self._config.timeout_s):
            if location.scheme == "file":
                return await self._files.read(f"/{location.key}", limit_bytes=limit_bytes)
            answer = await obstore.get_async(store, key)
            self._proven.add((location.scheme, location.bucket))
            size_bytes = answer.meta["size"]
            if limit_bytes is not None and size_bytes > limit_bytes:
                raise ObjectTooLargeError(path, size_bytes, limit_bytes)
            return bytes(await answer.bytes_async())

    def _get_from_memory(self, path: str, location: Location, limit_bytes: int | None) -> bytes:
        content = self._memory.get(location)
        if content is None:
            raise ObjectNotFoundError(path)
        if limit_bytes is not None and len(content) > limit_bytes:
            raise ObjectTooLargeError(path, len(content), limit_bytes)
        return content

    async def put(self, path: str, content: bytes) -> None:
        """Writes the object at once or not at all, over one that is there; missing folders are made."""
        location = Location.parse(path)
        if location.scheme == "memory":
            self._memory[location] = content
            return
        store, key = self._resolve(path, location)
        with self._errors(path, location), anyio.fail_after(self._config.timeout_s):
            await obstore.put_async(store, key, content, use_multipart=False)
        self._proven.add((location.scheme, location.bucket))

    async def get_file(self, path: str, file: Path, *, limit_bytes: int | None = None) -> int:
        """See ``FileTransferStore.get_file``. Each part has ``timeout_s``."""
        location = Location.parse(path)
        if location.scheme == "memory":
            content = self._get_from_memory(path, location, limit_bytes)
            await anyio.Path(file).write_bytes(content)
            return len(content)
        store, key = self._resolve(path, location)
        with self._errors(path, location), anyio.fail_after(self._config.timeout_s):
            found = await obstore.head_async(store, key)
        size_bytes, e_tag = found["size"], found["e_tag"]
        if limit_bytes is not None and size_bytes > limit_bytes:
            raise ObjectTooLargeError(path, size_bytes, limit_bytes)
        with file.open("wb") as target:  # opened here: one that a thread opens is lost if this is cancelled
            for start in range(0, size_bytes, _PART_BYTES):
                options: obstore.GetOptions = {"range": (start, min(start + _PART_BYTES, size_bytes))}
                if e_tag is not None:
                    options["if_match"] = e_tag
                with self._errors(path, location), anyio.fail_after(self._config.timeout_s):
                    part = await obstore.get_async(store, key, options=options)
                    piece = await part.bytes_async()
                await anyio.to_thread.run_sync(target.write, piece)
        return size_bytes

    async def put_file(self, path: str, file: Path) -> None:
        """See ``FileTransferStore.put_file``. Has ``timeout_s`` for each of its parts."""
        location = Location.parse(path)
        if location.scheme == "memory":
            self._memory[location] = await anyio.Path(file).read_bytes()
            return
        store, key = self._resolve(path, location)
        parts = (await anyio.Path(file).stat()).st_size // _PART_BYTES + 1
        with self._errors(path, location), anyio.fail_after(parts * self._config.timeout_s):
            await obstore.put_async(store, key, file, chunk_size=_PART_BYTES, max_concurrency=2)
        self._proven.add((location.scheme, location.bucket))

    async def names_below(self, path: str) -> Sequence[str]:
        """Of all objects below a folder, without it; empty when there is none.

        Raises:
            StorageError: they can not be listed now.
        """
        folder = path.rstrip("/")
        location = Location.parse(folder)
        if location.scheme == "memory":
            keys = [known.key for known in self._memory if (known.scheme, known.bucket) == ("memory", location.bucket)]
            prefix = f"{location.key}/"
            return sorted(key.removeprefix(prefix) for key in keys if key.startswith(prefix))
        store, key = self._resolve(folder, location)
        found = []
        with self._errors(folder, location), anyio.fail_after(self._config.timeout_s):
            async for chunk in obstore.list(store, prefix=f"{key}/"):
                found += [one["path"].removeprefix(f"{key}/") for one in chunk]
        return sorted(found)

    async def size(self, path: str) -> int | None:
        """See ``DataStore.size``. A bucket that does not exist is an error, not a missing object."""
        location = Location.parse(path)
        if location.scheme == "memory":
            content = self._memory.get(location)
            return None if content is None else len(content)
        store, key = self._resolve(path, location)
        bucket = (location.scheme, location.bucket)
        try:
            with self._errors(path, location), anyio.fail_after(self._config.timeout_s):
                if location.scheme == "file":
                    return await self._files.size(f"/{location.key}")
                found = (await obstore.head_async(store, key))["size"]
        except ObjectNotFoundError:
            if location.scheme != "file" and bucket not in self._proven:
                # The answer to HEAD has no body that could tell a missing bucket from a missing object.
                return await self._size_in_unproven(path, location, store, key)
            return None
        self._proven.add(bucket)
        return found

    async def _size_in_unproven(self, path: str, location: Location, store: stores.ObjectStore, key: str) -> int | None:
        try:
            with self._errors(path, location), anyio.fail_after(self._config.timeout_s):
                size_bytes = (await obstore.get_async(store, key)).meta["size"]
        except ObjectNotFoundError:
            self._proven.add((location.scheme, location.bucket))
            return None
        return size_bytes

    def _resolve(self, path: str, location: Location) -> tuple[stores.ObjectStore, str]:
        key = location.key if location.scheme != "file" else self._inside_root(path, location.key)
        identity = (location.scheme, location.bucket)
        store = self._stores.get(identity)
        if store is None:
            with self._errors(path, location):
                store = self._stores[identity] = self._open(location)
        return store, key

    def _inside_root(self, path: str, key: str) -> str:
        """The key below ``file_root``, which neither the path nor a symbolic link in it may leave."""
        root = self._file_root
        if root == "/":
            return key
        real_root = os.path.realpath(root)
        named, real = "/" + key, os.path.realpath("/" + key)
        if not named.startswith(root + "/") or not real.startswith(real_root + "/"):
            raise StorageError(path, f"is outside of the file store's root {root} (storage.file-root)")
        return named[len(root) + 1 :]

    def _open(self, location: Location) -> stores.ObjectStore:
        match location.scheme:
            case "file":
                if not Path(self._file_root).is_dir():
                    problem = f"the file store's root {self._file_root} is no folder: create it or set another"
                    raise ConfigError("storage.file-root", problem)
                return stores.LocalStore(self._file_root)
            case "s3":
                return self._open_s3(location.bucket)
            case "gs":
                return self._open_gs(location.bucket)
            case _:
                return self._open_azure(location.bucket)

    def _open_s3(self, bucket: str) -> stores.ObjectStore:
        c = self._config.s3
        options: stores.S3Config = {
            "virtual_hosted_style_request": c.virtual_hosted_style,
            "skip_signature": c.anonymous,
        }
        if c.region:
            options["region"] = c.region
        if c.endpoint:
            options["endpoint"] = c.endpoint
        if c.access_key_id:
            options["access_key_id"] = c.access_key_id
            options["secret_access_key"] = c.secret_access_key
        if c.session_token:
            options["session_token"] = c.session_token
        return stores.S3Store(bucket, config=options, **self._network(c))

    def _open_gs(self, bucket: str) -> stores.ObjectStore:
        c = self._config.gs
        options: stores.GCSConfig = {"skip_signature": c.anonymous}
        if c.endpoint:
            options["base_url"] = c.endpoint
        if c.service_account:
            options["application_credentials"] = c.service_account
        return stores.GCSStore(bucket, config=options, **self._network(c))

    def _open_azure(self, bucket: str) -> stores.ObjectStore:
        c = self._config.azure
        container, _, host = bucket.partition("@")
        account = host.partition(".")[0] or c.account_name
        if not account:
            raise ConfigError("storage.azure.account-name", "is empty: set it or AZURE_STORAGE_ACCOUNT_NAME")
        options: stores.AzureConfig = {"account_name": account, "skip_signature": c.anonymous}
        if c.endpoint:
            options["endpoint"] = c.endpoint
        if c.account_key:
            options["account_key"] = c.account_key
        return stores.AzureStore(container, config=options, **self._network(c))

    def _network(self, section: S3Config | GcsConfig | AzureConfig) -> _Network:
        c, allow_http = self._config, section.allow_http
        return {
            "client_options": {
                "allow_http": section.endpoint.startswith("http://") if allow_http is None else allow_http,
                "connect_timeout": timedelta(seconds=c.connect_timeout_s),
                # Not before the deadline of the call, whose error says which setting it was.
                "timeout": timedelta(seconds=2 * c.timeout_s),
            },
            "retry_config": {"max_retries": c.max_retries, "retry_timeout": timedelta(seconds=c.timeout_s)},
        }

    @contextmanager
    def _errors(self, path: str, location: Location) -> Iterator[None]:
        """Turns what a store raises into the ``StorageError`` that it means."""
        try:
            yield
        except TimeoutError as error:
            problem = f"no answer within {self._config.timeout_s:g} s (storage.timeout-s){self._way_out(location)}"
            raise StorageError(path, problem) from error
        except ConfigError as error:
            raise StorageError(path, str(error)) from error
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                problem = f"bucket '{location.bucket}' does not exist: create it or correct the URI"
                raise StorageError(path, problem) from error
            raise ObjectNotFoundError(path) from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            problem = f"access denied: {_first_line(error)}{self._way_out(location)}"
            raise StorageError(path, problem) from error
        except (BaseError, OSError, ValueError) as error:
            raise StorageError(path, f"{_first_line(error)}{self._way_out(location)}") from error

    def _way_out(self, location: Location) -> str:
        match location.scheme:
            case "s3":
                at = urlsplit(self._config.s3.endpoint).netloc or "Amazon"
                return f"; check storage.s3 (endpoint {at}, or FLYTE_AWS_ENDPOINT, and the access key) and the network"
            case "gs":
                return "; check storage.gs (service-account, or GOOGLE_APPLICATION_CREDENTIALS) and the network"
            case "az":
                return "; check storage.azure (account-name, account-key) and the network"
            case "file":
                return "; check the folder's owner, mode and free space"
            case _:
                return ""


class _Network(TypedDict):
    client_options: stores.ClientConfig
    retry_config: stores.RetryConfig


def _first_line(error: BaseException) -> str:
    """Without the debug dump that obstore appends, whose first line is the whole story."""
    return str(error).partition("\n")[0].strip()
