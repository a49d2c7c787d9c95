"""What is measured, as every process of the benchmark reads it."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

VARIABLE = "GPT_BENCHMARK"  # in the environment of a worker: the file of settings


NUDGED = "nanochat-nudged"  # again, from first weights that differ by rounding only


@dataclass(frozen=True)
class Size:
    """A GPT: `length` is the longest sequence that it is made for."""

    layers: int
    width: int
    heads: int
    vocab: int
    length: int


VOCABULARY = 4096
D4 = Size(layers=4, width=256, heads=2, vocab=VOCABULARY, length=512)
# Models to generate with: the toy for which mlxchat's cost per token was first seen to grow.
DECODED = {
    "toy": Size(layers=4, width=128, heads=1, vocab=VOCABULARY, length=2048),
    "d4": replace(D4, length=2048),
}
CACHED = (64, 1024)  # tokens in the cache
GENERATED = 16  # tokens of one generation, half of them before the cache is as long as that
# One update of a model of depth 2, of two micro-batches of 4 x 256 tokens.
UPDATED = Size(layers=2, width=128, heads=1, vocab=2048, length=256)
UPDATED_ROWS, ACCUMULATION = 4, 2


@dataclass(frozen=True)
class Settings:
    """Paths of the peers, and how much is trained; `folder` has the batches and what is found."""

    folder: str
    nanochat: str | None
    mlxchat: str | None
    steps: int
    chunk: int  # steps of a turn
    rows: int
    model: Size = D4

    @property
    def batch_tokens(self) -> int:
        """Tokens of one update."""
        return self.rows * self.model.length

    def path(self, name: str) -> Path:
        """Return the path of a file that the processes share."""
        return Path(self.folder, name)

    @property
    def file(self) -> Path:
        """Where the settings themselves are."""
        return self.path("settings.json")

    def save(self) -> None:
        """Write the settings into their folder."""
        self.file.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls) -> Self:
        """Return the settings of this process."""
        values = json.loads(Path(os.environ[VARIABLE]).read_text())
        return cls(**{**values, "model": Size(**values["model"])})
