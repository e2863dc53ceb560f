"""How older databases are brought up to date; alembic reads this folder."""
