"""SQL databases through SQLAlchemy, and SQLite files as Flyte 1's own SQL tasks name them."""

from propfan.plugins.connectors.sqlalchemy.connector import SQLAlchemyConnector
from propfan.plugins.connectors.sqlalchemy.sqlite_files import SQLiteConnector

connectors = (SQLAlchemyConnector, SQLiteConnector)

__all__ = ["SQLAlchemyConnector", "SQLiteConnector", "connectors"]
