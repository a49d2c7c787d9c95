"""The input of all members but the text: columns of a fold, generated and encoded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlx_encoders import SentenceEncoder
from mlx_fastcpu import patch_nn
from mlx_kaggle.generate import Gain, Generated
from mlx_kaggle.members.columns import ColumnFeatures, Columns
from mlx_kaggle.members.saved import load_json, save_json
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.dependence import Dependence
from mlx_tabtext import Table, TableText, TextConfig, is_missing, numbers_of
from mlx_trainer import MANIFEST, check_manifest, write_manifest

GENERATED = "generated.json"


@dataclass(frozen=True)
class FoldColumns:
    """Generated columns and encodings, fitted on the training rows of one fold."""

    generated: Generated | None
    """`None` if nothing may be generated, as of a forecast."""
    features: ColumnFeatures
    plain: tuple[int, int]
    """How many numbers and categories are of the table, and not generated; these come first."""
    prose: tuple[str, ...]
    """The columns that are embedded; none for the row as text."""

    @classmethod
    def fit(
        cls,
        config: RunConfig,
        competition: Competition,
        train: Table,
        y: np.ndarray,
        embeddings: np.ndarray | None,
        prose: Sequence[str],
        seed: int,
        new: Table | None = None,
        dependence: Dependence | None = None,
    ) -> tuple["FoldColumns", Columns]:
        """Fit to `train`, and return its columns too; `y` are class numbers, or scaled values.

        `new` are rows to predict, if known: groups that they do not share are not used. The
        `dependence` of the training rows divides them for every choice.

        Target means of a training row come from other rows, so `columns` would return others.
        """
        generated, schema = None, competition.schema
        if config.blend.generate != "none" and not competition.forecast:
            measure = config.blend.generate == "auto"
            generated, train = Generated.fit(
                competition.schema,
                train,
                y,
                competition.task,
                seed,
                measure=measure,
                new=new,
                dependence=dependence,
            )
            competition = replace(competition, schema=generated.schema)
        features = ColumnFeatures.fit(competition, train, seed)
        categories = sum(column.kind == "categorical" for column in schema.features)
        plain = len(numbers_of(schema)), categories
        columns = replace(features.transform(train, embeddings), dependence=dependence)
        return cls(generated, features, plain, tuple(prose)), columns

    @property
    def gains(self) -> tuple[Gain, ...]:
        """What each group of generated columns brought."""
        return self.generated.gains if self.generated else ()

    def columns(self, table: Table, embeddings: np.ndarray | None = None) -> Columns:
        """Return the columns of new rows."""
        table = self.generated.transform(table) if self.generated else table
        return self.features.transform(table, embeddings)

    def as_they_are(self, columns: Columns) -> Columns:
        """Return the columns of the table alone, without what was generated."""
        numbers, categories = self.plain
        return replace(
            columns,
            numbers=columns.numbers[:, :numbers],
            categories=columns.categories[:, :categories],
        )

    def save(self, folder: Path) -> None:
        """Write what was fitted, and a manifest."""
        folder.mkdir(parents=True, exist_ok=True)
        generated = self.generated.to_dict() if self.generated else None
        values = {"generated": generated, "plain": self.plain, "prose": self.prose}
        save_json(folder / GENERATED, values)
        self.features.save(folder)
        names = sorted(each.name for each in folder.iterdir() if each.is_file())
        # A killed run may have left a manifest and temporary files.
        ours = [name for name in names if name != MANIFEST and not name.startswith(".")]
        write_manifest(folder, ours)

    @classmethod
    def load(cls, folder: Path) -> "FoldColumns":
        """Read what `save` wrote; raise `ChangedFileError` when a file changed."""
        check_manifest(folder, (GENERATED,))
        values = load_json(folder / GENERATED)
        generated = Generated.from_dict(values["generated"]) if values["generated"] else None
        features, plain, prose = ColumnFeatures.load(folder), values["plain"], values["prose"]
        return cls(generated, features, tuple(plain), tuple(prose))


def embed_rows(
    config: RunConfig, competition: Competition, table: Table, prose: Sequence[str]
) -> np.ndarray:
    """Return the embeddings (N, D) of the prose of each row by the frozen encoder, of length 1.

    `prose` names the columns; without one, the row is embedded as a list of its cells.
    """
    encoder = SentenceEncoder.from_pretrained(
        config.encoder.path, pooling=None, max_length=config.text.max_tokens
    )
    patch_nn(encoder)
    return np.asarray(encoder.encode(_texts(competition, table, prose)), np.float32)


def _texts(competition: Competition, table: Table, prose: Sequence[str]) -> list[str]:
    if not prose:
        text = TableText(competition.text_schema, TextConfig(style="list"))
        return text.fit(table).transform(table)
    cells = zip(*(table[name] for name in prose), strict=True)
    return [". ".join(str(cell) for cell in row if not is_missing(cell)) for row in cells]
