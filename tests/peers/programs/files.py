"""Files and directories that pass between tasks and to the client."""

import asyncio
from pathlib import Path

import client
import flyte
from flyte.io import Dir, File

env = flyte.TaskEnvironment(name="files", image="python:3.11")


@env.task
async def write(text: str) -> File:
    path = Path("out.txt")
    path.write_text(text)
    return await File.from_local(str(path))


@env.task
async def spread(texts: list[str]) -> Dir:
    folder = Path("many")
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text)
    return await Dir.from_local(str(folder))


@env.task
async def main(text: str) -> tuple[str, int, File]:
    one = await write(text)
    folder = await spread([text, text.upper()])
    async with one.open("rb") as stream:
        content = bytes(await stream.read())
    names = [file async for file in folder.walk()]
    return content.decode(), len(names), one


async def read(file: File) -> str:
    async with file.open("rb") as stream:
        return bytes(await stream.read()).decode()


if __name__ == "__main__":
    client.connect()
    content, count, file = client.outputs(main, "some text")
    client.answer([content, count, asyncio.run(read(file))])
