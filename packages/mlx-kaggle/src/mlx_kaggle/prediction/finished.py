"""A finished run: its models, opened to predict new rows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_kaggle import RunError
from mlx_kaggle.blend import Blend
from mlx_kaggle.members.catalog import PLAIN, TEXT, is_text, label_of, members_of, module_of
from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.fold_columns import FoldColumns, embed_rows
from mlx_kaggle.members.model import Member
from mlx_kaggle.members.saved import load_json
from mlx_kaggle.members.text import check_finite, predict_member
from mlx_kaggle.members.variants import base_of
from mlx_kaggle.prediction.blended import aligned
from mlx_kaggle.prediction.decision import Decision
from mlx_kaggle.prediction.forecasts import HISTORY
from mlx_kaggle.runs.folder import read_config
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.tables.columns import check_columns
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.splits import check_overlap, row_hashes
from mlx_kaggle.tables.targets import Scaler, Target
from mlx_kaggle.training.finish import RUN_FILES
from mlx_kaggle.training.fold import SCALER
from mlx_kaggle.training.job import text_models
from mlx_tabtext import Table, read_table
from mlx_trainer import MANIFEST, Progress, check_manifest


@dataclass(frozen=True)
class FinishedRun:
    """A run whose models are all trained."""

    folder: Path
    config: RunConfig
    competition: Competition
    decision: Decision
    blend: Blend

    @classmethod
    def open(cls, folder: Path) -> "FinishedRun":
        """Read a run; raise `RunError` if it is not finished, `ChangedFileError` if damaged."""
        config = read_config(folder)
        remedy = f"train --resume --output {folder}"
        if not (folder / MANIFEST).is_file():
            raise RunError(f"{folder}: this run is not finished; continue it: {remedy}")
        check_manifest(folder, RUN_FILES)
        found = json.loads((folder / "competition.json").read_text("utf-8"))
        if "targets" not in found:
            raise RunError(
                f"{folder}: an earlier version of mlx-kaggle wrote this run; train again"
            )
        competition = Competition.from_dict(found)
        if competition.forecast:
            check_manifest(folder, (HISTORY,))
        decision = json.loads((folder / "decision.json").read_text("utf-8"))
        blend = Blend.from_dict(json.loads((folder / "blend.json").read_text("utf-8")))
        run = cls(folder, config, competition, Decision.from_dict(decision), blend)
        run.check_members(run.members)
        return run

    def check_members(self, names: Sequence[str]) -> None:
        """Raise `RunError` if a model of these members is missing."""
        for member in self.member_folders(names):
            if not (member / MANIFEST).is_file():
                raise RunError(
                    f"{member}: this model is missing, or its training did not finish; restore it, "
                    f"or train it: train --resume --output {self.folder}"
                )

    @property
    def members(self) -> list[str]:
        """The members that the blend needs."""
        return members_of(self.competition, self.blend.members)

    @property
    def folds(self) -> range:
        """The numbers of the folds; one validation set is one fold."""
        return range(self.config.fold_count or 1)

    def member_folders(self, names: Sequence[str]) -> list[Path]:
        """Return the folder of every model of these members, after the columns of its fold."""
        return [
            self.folder / "members" / name
            for fold in self.folds
            for name in (
                *(() if all(map(is_text, names)) else [f"columns-fold-{fold}"]),
                *(f"{name}-fold-{fold}" for name in names if not is_text(name)),
                *(
                    network
                    for name in filter(is_text, names)
                    for network, _ in text_models(self.config, fold, name)
                ),
            )
        ]

    def read(self, file: str, allow_leak: bool) -> tuple[Table, list[str]]:
        """Read a table, check its columns and for a leak; return it with notes."""
        table = read_table(file, separator=self.config.data.separator)
        notes = check_columns(self.competition, table, file)
        train = np.load(self.folder / "train_rows.npy", allow_pickle=False)
        rows = row_hashes(table, self.competition.feature_names)
        leak = check_overlap(train, rows, file, self.config.data.train, allow_leak)
        return table, [*notes, *([leak] if leak else [])]

    def predict(self, table: Table, file: str) -> np.ndarray:
        """Return the blend of the members, before the decision.

        A member is the mean of its models of all folds and seeds.
        """
        found = self.predict_members(table, file, self.members)
        return self.blend.apply(aligned(self.competition, found))

    def predict_members(
        self, table: Table, file: str, names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Return the prediction of each of these members, by its label."""
        found: dict[str, list[np.ndarray]] = {}
        embeddings = None
        if "embeddings" in names:
            prose = FoldColumns.load(self.folder / "members" / "columns-fold-0").prose
            embeddings = embed_rows(self.config, self.competition, table, prose)
        # One model in memory at a time; progress after each, because large tables take minutes.
        folders = self.member_folders(names)
        with Progress(len(folders), "predicting with model") as progress:
            fitted: FoldColumns | None = None
            columns: Columns | None = None
            for folder in folders:
                name = folder.name.partition("-fold-")[0]
                if name == "columns":
                    fitted = FoldColumns.load(folder)
                    columns = fitted.columns(table, embeddings)
                elif name in names:
                    # The columns of a fold come before its members.
                    assert fitted is not None
                    assert columns is not None
                    read = fitted.as_they_are(columns) if name == PLAIN else columns
                    prediction = self._predict_columns(name, folder, read, table)
                    check_finite(prediction, folder, file)
                    found.setdefault(name, []).append(prediction)
                else:
                    member, tta = Member.load(folder), self.config.text.tta
                    prediction = predict_member(member, self.competition, table, self.config, tta)
                    check_finite(prediction, folder, file)
                    text = TEXT + folder.name.removeprefix(base_of(folder.name))
                    found.setdefault(text, []).append(prediction)
                progress.advance()
        target = Target(self.competition)
        return {
            label_of(self.competition, name): target.combine(each) for name, each in found.items()
        }

    def _predict_columns(
        self, name: str, folder: Path, columns: Columns, table: Table
    ) -> np.ndarray:
        check_manifest(folder)
        module = module_of(name)
        prediction = module.predict(module.load(folder), columns)
        scaler = load_json(folder / SCALER)
        return Scaler.from_dict(scaler).inverse(prediction, table) if scaler else prediction

    def decide(self, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Apply the calibration and thresholds fitted on the held-out rows of the training."""
        return self.decision.apply(self.competition, prediction)
