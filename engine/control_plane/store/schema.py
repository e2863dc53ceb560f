"""The tables of a control plane. Times are microseconds since 1970, messages are serialised protobufs.

A change here needs a migration in ``migrations/versions``.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table

metadata: Final = MetaData()

runs: Final = Table(
    "runs",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("org", String(63), nullable=False),
    Column("project", String(63), nullable=False),
    Column("domain", String(63), nullable=False),
    Column("task_name", String(255), nullable=False),
    Column("task_version", String(255), nullable=False),
    Column("spec", LargeBinary, nullable=False),  # flyteidl2.task.RunSpec
    Column("source", Integer, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("created_by", String(255), nullable=False),
    Column("driver", String(63), nullable=False),  # which process has its tasks
    Column("created_at", BigInteger, nullable=False),
    Column("phase", Integer, nullable=False),  # of the root action
    Column("ended_at", BigInteger),
    Index("runs_by_age", "project", "domain", "created_at"),
)

actions: Final = Table(
    "actions",
    metadata,
    Column("run", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("parent", String(63), nullable=False),
    Column("action_type", Integer, nullable=False),
    Column("task_name", String(255), nullable=False),  # empty for what is no task
    Column("phase", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),  # order of creation
    Column("task_spec", String(64), nullable=False),  # digest, empty for what is no task
    Column("spec", LargeBinary, nullable=False),  # flyteidl2.workflow.ActionSpec without run spec and task spec
    Column("details", LargeBinary, nullable=False),  # flyteidl2.workflow.ActionDetails without task spec
    Column("update", LargeBinary, nullable=False),  # flyteidl2.workflow.ActionUpdate
    Column("revision", Integer, nullable=False),
    Column("is_submitted", Integer, nullable=False),  # whether the engine has told of it
    Index("actions_by_parent", "run", "parent"),
    Index("actions_by_phase", "phase"),
)

task_specs: Final = Table(
    "task_specs",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("content", LargeBinary, nullable=False),  # flyteidl2.task.TaskSpec
)

tasks: Final = Table(
    "tasks",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("domain", String(63), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("version", String(255), primary_key=True),
    Column("deployed_at", BigInteger, nullable=False),
    Column("task_spec", String(64), nullable=False),
    Column("content", LargeBinary, nullable=False),  # flyteidl2.task.Task
)

projects: Final = Table(
    "projects",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("content", LargeBinary, nullable=False),  # flyteidl2.project.Project
)

secrets: Final = Table(
    "secrets",
    metadata,
    Column("project", String(63), primary_key=True),  # empty for all projects
    Column("domain", String(63), primary_key=True),  # empty for all domains
    Column("name", String(255), primary_key=True),
    Column("type", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),  # encrypted
    Column("is_text", Integer, nullable=False),
)

cache_entries: Final = Table(
    "cache_entries",
    metadata,
    Column("key", String(512), primary_key=True),  # with the scope in front
    Column("content", LargeBinary, nullable=False),  # flyteidl2.cacheservice.CachedOutput
)

cache_reservations: Final = Table(
    "cache_reservations",
    metadata,
    Column("key", String(512), primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
