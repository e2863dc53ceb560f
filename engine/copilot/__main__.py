"""``python -m propfan.engine.copilot``, with the words of ``flyte-copilot``."""

from __future__ import annotations

import argparse
import base64
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio
import msgspec
from flyteidl2.core import interface_pb2

from propfan.engine.copilot import downloads, uploads
from propfan.engine.copilot.uploads import OutputProblemError
from propfan.engine.copilot.values import ValueProblemError
from propfan.engine.processes.process import Exit
from propfan.engine.storage import ObjectStore, StorageConfig
from propfan.pluginmachinery import iopaths
from propfan.pluginmachinery.contexts import ExecutionErrorDocument, IOPaths
from propfan.pluginmachinery.errors import PropfanError
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError
from propfan.pluginmachinery.readers import RemoteOutputWriter

UPLOAD_FAILED: Final = "OutputUploadFailed"


def main(words: Sequence[str]) -> int:
    arguments = _parser().parse_args(words)
    store = ObjectStore(StorageConfig().with_environment(os.environ))
    try:
        if arguments.command == "download":
            anyio.run(
                downloads.download,
                store,
                arguments.from_remote,
                Path(arguments.to_local_dir),
                arguments.file_input_layout,
                arguments.format,
            )
        else:
            signal.sigwait({signal.SIGTERM})
            anyio.run(_upload, store, arguments)
    except (PropfanError, ValueProblemError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201  # the container's log
        return 1
    return 0


async def _upload(store: ObjectStore, arguments: argparse.Namespace) -> None:
    interface = interface_pb2.TypedInterface.FromString(base64.b64decode(arguments.interface))
    folder = Path(arguments.from_local_dir)
    if not uploads.has_told_of_failure(folder) and any(map(_has_failed, arguments.launches)):
        return  # how it ended says more than that its outputs are not there
    writer = RemoteOutputWriter(store, _paths(arguments.to_output_prefix, arguments.to_raw_output))
    try:
        outputs = await uploads.collect(store, folder, interface, arguments.to_raw_output)
        await writer.put(outputs)
    except (OutputProblemError, PropfanError) as error:
        kind = ErrorKind.USER if isinstance(error, OutputProblemError) else ErrorKind.SYSTEM
        await writer.put_error(
            ExecutionErrorDocument(ExecutionError(UPLOAD_FAILED, str(error), kind), is_recoverable=True)
        )
        raise


def _has_failed(launches: str) -> bool:
    """Whether a container's last process, by the folder of its launches, ended with anything but 0."""
    folder = Path(launches)
    last = max((int(launch.name) for launch in folder.iterdir()), default=0) if folder.is_dir() else 0
    try:
        return msgspec.json.decode((folder / str(last) / "exit.json").read_bytes(), type=Exit).exit_code != 0
    except FileNotFoundError:
        return True  # it never ran


def _paths(output_prefix: str, raw_output_prefix: str) -> IOPaths:
    return IOPaths(
        input_prefix="",
        output_prefix=output_prefix,
        raw_output_prefix=raw_output_prefix,
        input="",
        output=iopaths.join(output_prefix, iopaths.OUTPUTS_FILE),
        error=iopaths.join(output_prefix, iopaths.ERROR_FILE),
        deck="",
        checkpoint_prefix="",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="copilot", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    download = commands.add_parser("download")
    for name in ("--from-remote", "--to-output-prefix", "--to-local-dir"):
        download.add_argument(name, required=True)
    download.add_argument("--format", default="JSON")
    download.add_argument("--file-input-layout", default="DIRECT")
    download.add_argument("--input-interface", default="")
    sidecar = commands.add_parser("sidecar")
    for name in ("--to-raw-output", "--to-output-prefix", "--from-local-dir", "--interface"):
        sidecar.add_argument(name, required=True)
    sidecar.add_argument("--timeout", default="")
    sidecar.add_argument("--launches", action="append", default=[])
    return parser


if __name__ == "__main__":
    # What configures Flyte's own co-pilot stands before the command.
    given = sys.argv[1:]
    first = next((number for number, word in enumerate(given) if word in ("download", "sidecar")), 0)
    sys.exit(main(given[first:]))
