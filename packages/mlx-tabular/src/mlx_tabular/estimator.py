"""What TabularClassifier and TabularRegressor share: parameters, preprocessing, training, files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import mlx.core as mx
import numpy as np

from mlx_tabular._suggest import did_you_mean
from mlx_tabular.embeddings import PiecewiseLinearEmbeddings, quantile_bins
from mlx_tabular.files import read_folder, write_folder
from mlx_tabular.model import ArchType, TabM, check_architecture
from mlx_tabular.preprocess import Preprocessor
from mlx_tabular.tables import check_table, column_numbers
from mlx_tabular.training import Objective, Rows, Settings, predict, train

Columns = Sequence[int] | Sequence[bool] | np.ndarray
Report = Callable[[dict[str, float]], object]


@dataclass(kw_only=True, eq=False, repr=False)
class Tabular(ABC):
    """TabM with scikit-learn's conventions; the two estimators add targets and losses.

    X is a 2-D array of numbers with NaN for missing values, or of objects. All arguments are
    keyword-only:

    - `k` members, `arch_type`, `n_blocks`, `d_block`, `dropout`: see `TabM`. The authors' width is
      512; a step of 256 takes 0.4 of its time on a CPU.
    - `num_embeddings`: "piecewise" (`n_bins` quantile bins, width `d_embedding`) or None.
    - `learning_rate`, `weight_decay` (of all parameters, as the authors do) of AdamW; gradients
      longer than `clip_norm` are shortened; `batch_size` rows a step.
    - `max_epochs`; training stops after `patience` epochs in which the loss of the ensemble's
      prediction on the held-out rows did not improve, and keeps the best epoch's weights. Held out
      is `validation_fraction` of the rows (of each class), or what `fit` is given. With 0 all
      epochs run.
    - `categorical_features`: columns of categories, which numbers or a boolean mask name; those in
      fewer than `min_category_rows` training rows share a code. `dense_features`: numbers that go
      in as they are, such as embeddings of text; other columns are numbers.
    - `seed` of everything random: equal seeds give equal bits on one machine and thread count.
    - `report`: called after each epoch with a dict of epoch, train_loss and valid_score.

    After `fit`: `model_` (`TabM`), `preprocessor_`, `n_features_in_`, `best_epoch_`, `history_`
    (what `report` was given).
    """

    k: int = 32
    arch_type: ArchType = "tabm"
    n_blocks: int | None = None
    d_block: int = 256
    dropout: float = 0.1
    num_embeddings: Literal["piecewise"] | None = "piecewise"
    n_bins: int = 48
    d_embedding: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 3e-4
    clip_norm: float | None = 1.0
    batch_size: int = 256
    max_epochs: int = 200
    patience: int = 16
    validation_fraction: float = 0.15
    categorical_features: Columns | None = None
    dense_features: Columns | None = None
    min_category_rows: int = 3
    seed: int = 0
    report: Report | None = None

    _objective: ClassVar[Objective]

    @abstractmethod
    def _fitted_values(self) -> dict[str, Any]:
        """Return a JSON form of what `fit` learned about the targets."""

    @abstractmethod
    def _restore(self, values: dict[str, Any]) -> int:
        """Take what `_fitted_values` returned; return the model's number of outputs."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments; `deep` is there for scikit-learn."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor."""
        valid = [each.name for each in fields(self)]
        for name, value in params.items():
            if name not in valid:
                raise ValueError(
                    f"{type(self).__name__} has no parameter {name!r}{did_you_mean(name, valid)}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        changed = [f for f in fields(self) if getattr(self, f.name) is not f.default]
        listed = [f"{each.name}={getattr(self, each.name)!r}" for each in changed]
        return f"{type(self).__name__}({', '.join(listed)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def _tags(self, kind: str) -> Any:
        # Called by scikit-learn only, so that it is there.
        utils = import_module("sklearn.utils")
        tags = utils.Tags(estimator_type=kind, target_tags=utils.TargetTags(required=True))
        tags.input_tags.allow_nan = True
        specific = "ClassifierTags" if kind == "classifier" else "RegressorTags"
        setattr(tags, f"{kind}_tags", getattr(utils, specific)())
        return tags

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; `report` is not kept."""
        self._check_fitted()
        write_folder(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote; predictions are equal bit for bit."""
        return read_folder(cls, folder)

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise ValueError(f"this {type(self).__name__} is not fitted; call fit first")

    def _check_settings(self) -> None:
        check_architecture(self.k, self.arch_type, self.d_block, self.n_blocks, self.dropout)
        if self.num_embeddings not in ("piecewise", None):
            raise ValueError(
                f"num_embeddings must be 'piecewise' or None; got {self.num_embeddings!r}"
            )
        smallest = {"n_bins": 2, "d_embedding": 1, "batch_size": 1, "max_epochs": 1, "patience": 1,
                    "min_category_rows": 1}  # fmt: skip
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                "validation_fraction must be at least 0 and below 1; got "
                f"{self.validation_fraction}"
            )

    def _fit(
        self,
        table: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        validation: tuple[np.ndarray, np.ndarray] | None,
        held: np.ndarray,
        d_out: int,
    ) -> Self:
        """Fit to all rows but those in `held`, a boolean mask of the rows to stop early on."""
        columns = table.shape[1]
        categorical = column_numbers(self.categorical_features, columns, "categorical_features")
        dense = column_numbers(self.dense_features, columns, "dense_features")
        if both := {*categorical} & {*dense}:
            raise ValueError(f"column {min(both)} is in categorical_features and in dense_features")
        self.n_features_in_ = columns
        self.preprocessor_ = Preprocessor.fit(
            table[~held],
            categorical=categorical,
            dense=dense,
            min_category_rows=self.min_category_rows,
            seed=self.seed,
        )
        inputs = self.preprocessor_.transform(table[~held])
        rows = Rows(inputs, targets[~held], weights[~held])
        held_out = None
        if validation is not None:
            held_out = Rows(
                self.preprocessor_.transform(validation[0]),
                validation[1],
                np.ones(len(validation[1])),
            )
        elif held.any():
            held_out = Rows(self.preprocessor_.transform(table[held]), targets[held], weights[held])
        self.bins_ = self._make_bins(inputs.num)
        self.model_ = self._make_model(d_out)
        settings = Settings(**{n: getattr(self, n) for n in Settings.__dataclass_fields__})
        self.best_epoch_, self.history_ = train(
            self.model_, rows, held_out, self._objective, settings
        )
        return self

    def _make_bins(self, num: np.ndarray) -> list[np.ndarray]:
        if self.num_embeddings != "piecewise" or not num.shape[1]:
            return []
        return quantile_bins(num, max(2, min(self.n_bins, len(num) - 1)))

    def _make_model(self, d_out: int) -> TabM:
        keys = mx.random.split(mx.random.key(self.seed))
        fitted = self.preprocessor_
        embeddings = None
        if self.bins_:
            embeddings = PiecewiseLinearEmbeddings(self.bins_, self.d_embedding, key=keys[0])
        return TabM(
            d_out=d_out,
            n_num_features=fitted.n_num,
            cat_cardinalities=fitted.cardinalities,
            n_dense_features=fitted.n_dense,
            num_embeddings=embeddings,
            k=self.k,
            arch_type=self.arch_type,
            n_blocks=self.n_blocks,
            d_block=self.d_block,
            dropout=self.dropout,
            key=keys[1],
        )

    def _predict(self, x: object) -> np.ndarray:
        self._check_fitted()
        inputs = self.preprocessor_.transform(check_table(x, self.n_features_in_))
        return predict(self.model_, inputs, self._objective)
