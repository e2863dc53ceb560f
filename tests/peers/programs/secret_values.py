"""A secret that the client creates and a task is given."""

import os

import client
import flyte
from flyte.remote import Secret

env = flyte.TaskEnvironment(
    name="secret_values", image="python:3.11", secrets=[flyte.Secret(key="api-key", as_env_var="API_KEY")]
)


@env.task
async def main() -> str:
    return os.environ["API_KEY"][::-1]


if __name__ == "__main__":
    client.connect()
    Secret.create("api-key", "terces")
    listed = [secret.name for secret in Secret.listall()]
    client.answer([client.outputs(main), "api-key" in listed])
