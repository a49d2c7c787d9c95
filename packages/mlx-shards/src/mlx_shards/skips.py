"""Rows that were skipped: told to the log, and kept to be looked at."""

import logging
from dataclasses import dataclass

from mlx_shards.shard import Shard

_MOST = 100  # that are kept, and told

_log = logging.getLogger("mlx_shards")


@dataclass(frozen=True)
class SkippedRow:
    """A row that could not be used: `document` counts from 0 in the shard."""

    shard: Shard
    document: int
    reason: str


class Skips:
    """The rows that one stream skipped, each once however often it comes."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], SkippedRow] = {}

    @property
    def rows(self) -> list[SkippedRow]:
        """The first of them."""
        return list(self._rows.values())

    def add(self, shard: Shard, document: int, reason: str) -> None:
        """Tell of a row that is skipped."""
        key = (shard.address, document)
        if key in self._rows or len(self._rows) == _MOST:
            return
        self._rows[key] = SkippedRow(shard, document, reason)
        _log.warning("skipped a row: %s", reason)
        if len(self._rows) == _MOST:
            _log.warning("other rows that are skipped are counted only")
