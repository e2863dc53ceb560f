"""Called by alembic with the connection that the migration runs on."""

from __future__ import annotations

from alembic import context

from propfan.engine.control_plane.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
