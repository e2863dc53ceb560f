"""Raw containers with typed values and files, which they find and leave in folders."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import client
import flyte
from flyte.extras import ContainerTask
from flyte.io import Dir, File

AREA = """
python3 -c '
import json, math, pathlib
inputs, outputs = pathlib.Path("/var/inputs"), pathlib.Path("/var/outputs")
a, b = (float((inputs / name).read_text()) for name in ("a", "b"))
(outputs / "area").write_text(str(math.pi * a * b))
(outputs / "count").write_text(str(int(a) + 1))
(outputs / "is_large").write_text("true" if a * b > 5 else "false")
(outputs / "text").write_text((inputs / "label").read_text() + "!")
(outputs / "when").write_text((inputs / "when").read_text())
(outputs / "wait").write_text((inputs / "wait").read_text())
(outputs / "known").write_text(",".join(sorted(json.loads((inputs / "inputs.json").read_text()))))
'
"""

SHOUT = """
tr a-z A-Z < /data/in/source > /data/out/loud
printf %s {{.inputs.suffix}} >> /data/out/loud
mkdir -p /data/out/parts/deep
cp /data/in/more/0 /data/out/parts/first
cp /data/in/more/1 /data/out/parts/deep/second
"""

area = ContainerTask(
    name="area",
    image="debian:12",
    inputs={"a": float, "b": float, "label": str, "when": datetime, "wait": timedelta},
    outputs={
        "area": float,
        "count": int,
        "is_large": bool,
        "text": str,
        "when": datetime,
        "wait": timedelta,
        "known": str,
    },
    command=["/bin/sh", "-c", AREA],
)

shout = ContainerTask(
    name="shout",
    image="debian:12",
    inputs={"source": File, "more": list[File], "suffix": str},
    outputs={"loud": File, "parts": Dir},
    input_data_dir="/data/in",
    output_data_dir="/data/out",
    command=["/bin/sh", "-c"],
    arguments=[SHOUT],
)

named = ContainerTask(
    name="named",
    image="debian:12",
    inputs={"source": File},
    outputs={"name": str},
    file_input_layout="NAMED_DIR",
    command=["/bin/sh", "-c", "printf %s $(ls /var/inputs/source) > /var/outputs/name"],
)

nothing = ContainerTask(
    name="nothing", image="debian:12", outputs={"missing": int}, command=["/bin/sh", "-c", "echo said nothing"]
)

failing = ContainerTask(
    name="failing", image="debian:12", outputs={"missing": int}, command=["/bin/sh", "-c", "echo broken; exit 3"]
)

tasks = flyte.TaskEnvironment.from_task("containers", area, shout, named, nothing, failing)
env = flyte.TaskEnvironment(name="main", image="python:3.11", depends_on=[tasks])


async def content(file: File) -> str:
    async with file.open("rb") as stream:
        return bytes(await stream.read()).decode()


async def problem(task: ContainerTask) -> str:
    try:
        await task()
    except flyte.errors.BaseRuntimeError as error:
        found = [part for part in ("output 'missing': no such file", "exit code (3)", "broken") if part in str(error)]
        return ", ".join([error.code, *found])
    return "none"


async def file(name: str, text: str) -> File:
    Path(name).write_text(text, encoding="utf-8")
    return await File.from_local(name)


@env.task
async def main() -> list[str]:
    when = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
    values = await area(a=2.0, b=3.0, label="two words", when=when, wait=timedelta(hours=1, seconds=1.5))
    source = await file("source.txt", "quiet")
    loud, parts = await shout(source=source, more=[await file("x.txt", "1"), await file("y.txt", "2")], suffix="end")
    names = sorted([found.name async for found in parts.walk()])
    texts = [await content(loud), ",".join(names), await named(source=source)]
    return [*map(repr, values), *texts, await problem(nothing), await problem(failing)]


if __name__ == "__main__":
    client.connect()
    client.answer(client.outputs(main))
