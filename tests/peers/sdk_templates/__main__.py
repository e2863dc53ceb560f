"""``python -m tests.peers.sdk_templates [--write] [--latest]``: serialise tasks with real SDKs, compare them with the recorded ones.

Each generation of the SDK has an environment of its own, in the user's cache folder. What only a running task needs
(Spark, Ray, Dask, PyTorch, clients of services) is not installed; see ``absent.py``.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.peers.sdk_templates.recorded import FOLDER, Recorded, read, write


class Generation(msgspec.Struct, frozen=True):
    """One SDK.

    Attributes:
        version: Of the SDK and its plugins, with which the recorded templates were made.
        modules: In this folder; their ``templates()`` are recorded, each by a process of its own.
        others: Packages beside it.
        plugins: Installed without what they depend on.
    """

    name: str
    version: str
    sdk: str
    plugins: tuple[str, ...]
    modules: tuple[str, ...]
    others: tuple[str, ...]


_OTHERS: Final = (
    "kubernetes<36",
    "google-cloud-bigquery",
    "grpcio-health-checking",
    "pandas",
    "prometheus_client",
    "pyarrow",
)
"""What plugins import to serialise a task."""

GENERATIONS: Final = (
    Generation(
        "flyte2",
        "2.12.1",
        "flyte",
        (
            "flyteplugins-spark",
            "flyteplugins-ray",
            "flyteplugins-dask",
            "flyteplugins-pytorch",
            "flyteplugins-bigquery",
            "flyteplugins-databricks",
            "flyteplugins-snowflake",
        ),
        ("flyte2_tasks", "flyte2_connector_tasks"),
        (*_OTHERS, "aiohttp", "google-cloud-bigquery-storage"),
    ),
    Generation(
        "flyte1",
        "1.16.31",
        "flytekit",
        (
            "flytekitplugins-spark",
            "flytekitplugins-ray",
            "flytekitplugins-dask",
            "flytekitplugins-kfpytorch",
            "flytekitplugins-kfmpi",
            "flytekitplugins-kftensorflow",
            "flytekitplugins-athena",
            "flytekitplugins-awssagemaker",
            "flytekitplugins-bigquery",
            "flytekitplugins-openai",
            "flytekitplugins-slurm",
            "flytekitplugins-snowflake",
            "flytekitplugins-sqlalchemy",
        ),
        ("flyte1_tasks", "flyte1_connector_tasks"),
        (*_OTHERS, "httpx", "sqlalchemy>=2", "xxhash"),
    ),
)


def environment(generation: Generation) -> Path:
    """The Python of an environment with the SDK, which is made when it is not there."""
    identity = hashlib.sha256(msgspec.json.encode((generation, sys.version_info[:2]))).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "propfan" / f"sdk-{generation.name}-{identity}"
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pin = f"=={generation.version}" if generation.version else ""
        subprocess.run([*pip, generation.sdk + pin, *generation.others], check=True)
        subprocess.run([*pip, "--no-deps", *(plugin + pin for plugin in generation.plugins)], check=True)
        complete.touch()
    return python


def serialise(generation: Generation) -> Iterator[Recorded]:
    """The templates that the SDK makes now."""
    recorder = Path(__file__).parent / "recorder.py"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "templates.jsonl"
        lines = []
        for module in generation.modules:
            arguments = [str(environment(generation)), str(recorder), module, generation.sdk, str(output)]
            subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)
            lines += output.read_bytes().splitlines()
    for line in lines:
        made: dict[str, Any] = msgspec.json.decode(line)
        yield Recorded(
            name=f"{generation.name}-{made['name']}",
            versions=made["versions"],
            template=base64.b64decode(made["template"]),
        )


def difference(one: Recorded) -> str:
    """In what a template is not as recorded; empty when it is."""
    path = FOLDER / f"{one.name}.json"
    if not path.exists():
        return "is not recorded"
    known = read(path)
    if known.message == one.message:
        return ""
    versions = f"{dict(known.versions)} and now {dict(one.versions)}"
    return f"differs: recorded with {versions}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.peers.sdk_templates", description="Serialise with real SDKs."
    )
    parser.add_argument("--write", action="store_true", help="record what the SDKs make now")
    parser.add_argument("--latest", action="store_true", help="with the newest SDKs, not those of the recorded ones")
    options = parser.parse_args(arguments)
    generations = [msgspec.structs.replace(g, version="") for g in GENERATIONS] if options.latest else GENERATIONS
    found = [one for generation in generations for one in serialise(generation)]
    differing = 0
    for one in found:
        if problem := difference(one):
            differing += 1
            print(f"{one.name}: {problem}")
        if options.write:
            write(one)
    print(f"{len(found)} templates, {differing} not as recorded{', now they are' if options.write else ''}")
    return 1 if differing and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())
