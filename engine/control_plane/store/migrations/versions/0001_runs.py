"""Runs, actions, tasks, projects, secrets and cached outputs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("org", sa.String(63), nullable=False),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("task_name", sa.String(255), nullable=False),
        sa.Column("task_version", sa.String(255), nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("source", sa.Integer, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("driver", sa.String(63), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
    )
    op.create_index("runs_by_age", "runs", ["project", "domain", "created_at"])
    op.create_table(
        "actions",
        sa.Column("run", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("parent", sa.String(63), nullable=False),
        sa.Column("action_type", sa.Integer, nullable=False),
        sa.Column("task_name", sa.String(255), nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("task_spec", sa.String(64), nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("details", sa.LargeBinary, nullable=False),
        sa.Column("update", sa.LargeBinary, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("is_submitted", sa.Integer, nullable=False),
    )
    op.create_index("actions_by_parent", "actions", ["run", "parent"])
    op.create_index("actions_by_phase", "actions", ["phase"])
    op.create_table(
        "task_specs",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "tasks",
        sa.Column("project", sa.String(63), primary_key=True),
        sa.Column("domain", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("version", sa.String(255), primary_key=True),
        sa.Column("deployed_at", sa.BigInteger, nullable=False),
        sa.Column("task_spec", sa.String(64), nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "secrets",
        sa.Column("project", sa.String(63), primary_key=True),
        sa.Column("domain", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("type", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("is_text", sa.Integer, nullable=False),
    )
    op.create_table(
        "cache_entries",
        sa.Column("key", sa.String(512), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "cache_reservations",
        sa.Column("key", sa.String(512), primary_key=True),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
