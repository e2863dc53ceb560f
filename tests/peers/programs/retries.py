"""A task that fails twice and has two retries."""

import tempfile
from pathlib import Path

import client
import flyte
from flyte.remote import ActionDetails

env = flyte.TaskEnvironment(name="retries", image="python:3.11")


@env.task(retries=2)
async def flaky(counter: str) -> int:
    path = Path(counter)
    before = int(path.read_text()) if path.exists() else 0
    path.write_text(str(before + 1))
    if before < 2:
        raise RuntimeError(f"attempt {before}")
    return before


if __name__ == "__main__":
    client.connect()
    run = flyte.run(flaky, str(Path(tempfile.mkdtemp()) / "counter"))
    run.wait(quiet=True)
    details = ActionDetails.get(run_name=run.name, name="a0")
    attempts = [[attempt.attempt, attempt.error_info.message] for attempt in details.pb2.attempts]
    client.answer([tuple(run.outputs())[0], details.attempts, attempts])
