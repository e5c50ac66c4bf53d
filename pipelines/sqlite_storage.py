"""Dagster's SQLite storages with connections that stay open.

Dagster opens a new engine and connection for every event that it stores, which takes half the
time of a run whose results all come out of the store. The same databases are written here
through one engine each. Commits wait for the disk only when SQLite writes its log back: a power
cut may lose the last events, never the database.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import sqlalchemy
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._serdes import ConfigurableClassData

_BUSY_TIMEOUT_S = 60


class OpenEventLogStorage(SqliteEventLogStorage):
    """The event log: one database for each run, and an index of assets."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: dict[str, sqlalchemy.Engine] = {}
        self._blank: bytes | None = None
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> "OpenEventLogStorage":
        """The storage of an instance's configuration."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sqlalchemy.Connection]:
        with self._db_lock:
            if shard not in self._engines:
                self._engines[shard] = self._open(shard)
            with self._engines[shard].connect() as connection, connection.begin():
                yield connection

    def _open(self, shard: str) -> sqlalchemy.Engine:
        """The database of a run or the index, created if it is new: the blank one, copied."""
        path = Path(self.path_for_shard(shard))
        is_new = not path.exists()
        if is_new and self._blank is not None:
            path.write_bytes(self._blank)
        engine = _open_engine(self.conn_string_for_shard(shard))
        if not is_new or self._blank is None:
            self._initdb(engine)
        if is_new and self._blank is None:
            with engine.connect() as connection:
                self._blank = connection.connection.dbapi_connection.serialize()
        return engine

    def dispose(self) -> None:
        """Close all connections."""
        for engine in self._engines.values():
            engine.dispose()
        self._engines.clear()
        super().dispose()


class OpenRunStorage(SqliteRunStorage):
    """The runs: one database."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engine = _open_engine(conn_string)
        super().__init__(conn_string, inst_data)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:
        """The storage of an instance's configuration."""
        return cls.from_local(inst_data=inst_data, **config_value)

    @contextmanager
    def connect(self) -> Iterator[sqlalchemy.Connection]:
        """A connection in a transaction."""
        with self._engine.connect() as connection, connection.begin():
            yield connection

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()
        super().dispose()


def _open_engine(url: str) -> sqlalchemy.Engine:
    engine = sqlalchemy.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})

    @sqlalchemy.event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine
