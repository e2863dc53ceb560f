"""Section ``connectors.slurm`` of the connector service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta


class SlurmConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """How clusters are reached. Which cluster is up to the task (``ssh_config.host``)."""

    known_hosts: str = ""
    """File of the host keys that are trusted; by default what OpenSSH's configuration says, else
    ``~/.ssh/known_hosts``. It is also the list of hosts that a task may name."""
    insecure_skip_host_keys: bool = False
    """Any host key is taken, so whoever answers on the network is the cluster. For experiments only."""
    ssh_config: str = ""
    """OpenSSH configuration with names of hosts, jump hosts and the like; by default ``~/.ssh/config``."""
    client_keys: Sequence[str] = ()
    """Files of private keys, for tasks that bring none and where there is no ``FLYTE_SLURM_PRIVATE_KEY``."""
    folder: Annotated[str, Meta(pattern=r"^/?[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")] = ".propfan/slurm"
    """On the cluster, below the user's home unless absolute: which launch became which job. All login nodes must see it."""
    programs: str = ""
    """Folder of ``sbatch`` and its like on the cluster, where the login shell does not find them."""
    connect_timeout_s: Annotated[float, Meta(gt=0)] = 8.0
    """Below the 10 s after which the engine gives a call up."""
    command_timeout_s: Annotated[float, Meta(gt=0)] = 30.0
    """Of one command on the cluster; a busy controller lets ``squeue`` wait for many seconds."""
    idle_s: Annotated[float, Meta(gt=0)] = 300.0
    """A connection that nobody used for so long is closed when the next one is asked for."""
    max_connections: Annotated[int, Meta(ge=1)] = 32
    """At once: one for each host, port, user and key."""
