"""One booster of LightGBM, XGBoost or CatBoost: the settings, data and files of each library.

Settings of tables with `LARGE` rows are the tuned defaults of Holzmueller et al., NeurIPS 2024.
Smaller tables have smaller trees, measured out of fold: adult (8,000 rows), those defaults and
ours, LightGBM 0.860 and 0.869 accuracy, XGBoost 0.864 and 0.868, CatBoost 0.864 and 0.866; diamonds
(8,000 rows) RMSE 773 and 570, 601 and 589, 593 and 586.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlx_kaggle.members.outputs import Problem

SMALL, LARGE = 3_000, 20_000
ROUNDS = 3_000
# Boosting stops when the held-out rows have not gained for this many rounds.
PATIENCE = 100


@dataclass(frozen=True)
class Data:
    """A matrix (N, F) of float64, and which columns are category codes (F,)."""

    matrix: np.ndarray
    categorical: np.ndarray

    def take(self, rows: np.ndarray) -> "Data":
        """Return some rows."""
        return Data(self.matrix[rows], self.categorical)

    def __len__(self) -> int:
        return len(self.matrix)


@dataclass(frozen=True)
class Booster(Protocol):
    """What the three libraries have in common."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """They replace settings."""

    def train(
        self,
        data: Data,
        problem: Problem,
        seed: int,
        threads: int,
        rounds: int,
        held: tuple[Data, np.ndarray] | None = None,
    ) -> tuple[Any, int]:
        """Return a model of `rounds`, or of the best rounds on held-out rows, and their number."""
        ...

    def predict(self, model: Any, data: Data, classes: int) -> np.ndarray:
        """Return probabilities (N, classes), or values (N,) if `classes` is 0."""
        ...

    def write(self, model: Any, path: Path) -> None:
        """Write the model in the format of the library."""
        ...

    def read(self, path: Path) -> Any:
        """Read what `write` wrote."""
        ...


@dataclass(frozen=True)
class LightGBM(Booster):
    """Text files; missing and unseen categories go with the rest of a split."""

    def train(
        self,
        data: Data,
        problem: Problem,
        seed: int,
        threads: int,
        rounds: int,
        held: tuple[Data, np.ndarray] | None = None,
    ) -> tuple[Any, int]:
        """As of `Booster`."""
        import lightgbm  # pyright: ignore[reportMissingImports]

        options = self.settings(len(data), problem) | {**self.options}
        options |= {"seed": seed, "num_threads": threads, "verbosity": -1, "deterministic": True}
        options |= {"force_row_wise": True, "feature_pre_filter": False}
        columns: Any = np.flatnonzero(data.categorical).tolist()
        train = lightgbm.Dataset(
            data.matrix, problem.y, categorical_feature=columns, params=options
        )
        if held is None:
            return lightgbm.train(options, train, rounds), rounds
        valid = lightgbm.Dataset(held[0].matrix, held[1], reference=train, params=options)
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        model = lightgbm.train(options, train, rounds, [valid], callbacks=[stop])
        return model, model.best_iteration

    def settings(self, rows: int, problem: Problem) -> dict[str, Any]:
        """Return the parameters of a table with this many rows."""
        if rows < SMALL:
            options = {"learning_rate": 0.02, "num_leaves": 10, "feature_fraction": 0.3}
            options |= {"bagging_fraction": 0.75, "bagging_freq": 1, "min_data_in_leaf": 5}
        elif rows < LARGE:
            options = {"learning_rate": 0.05, "num_leaves": 15, "feature_fraction": 0.75}
            options |= {"bagging_fraction": 0.9, "bagging_freq": 1, "min_data_in_leaf": 20}
        elif problem.classes:
            options = {"learning_rate": 0.04, "num_leaves": 50, "min_data_in_leaf": 40}
            options |= {"bagging_fraction": 0.75, "bagging_freq": 1}
            options |= {"min_sum_hessian_in_leaf": 1e-7}
        else:
            options = {"learning_rate": 0.05, "num_leaves": 100, "min_data_in_leaf": 3}
            options |= {"bagging_fraction": 0.7, "bagging_freq": 1}
        # The defaults, 10, 10 and 100, hold categories back: diamonds 598 instead of 570.
        options |= {"cat_smooth": 1.0, "cat_l2": 1.0, "min_data_per_group": 20}
        if problem.classes > 2:
            return {**options, "objective": "multiclass", "num_class": problem.classes}
        if problem.level is not None:
            return {**options, "objective": "quantile", "alpha": problem.level}
        return {**options, "objective": "binary" if problem.classes else "regression"}

    def predict(self, model: Any, data: Data, classes: int) -> np.ndarray:
        """As of `Booster`."""
        return _both(model.predict(data.matrix), classes)

    def write(self, model: Any, path: Path) -> None:
        """As of `Booster`."""
        path.write_text(model.model_to_string(), "utf-8")

    def read(self, path: Path) -> Any:
        """As of `Booster`."""
        import lightgbm  # pyright: ignore[reportMissingImports]

        return lightgbm.Booster(model_str=path.read_text("utf-8"))


@dataclass(frozen=True)
class XGBoost(Booster):
    """JSON files; a missing or unseen category has a direction of its own in each split."""

    def train(
        self,
        data: Data,
        problem: Problem,
        seed: int,
        threads: int,
        rounds: int,
        held: tuple[Data, np.ndarray] | None = None,
    ) -> tuple[Any, int]:
        """As of `Booster`."""
        import xgboost  # pyright: ignore[reportMissingImports]

        options = self.settings(len(data), problem) | {**self.options}
        options |= {"seed": seed, "nthread": threads, "verbosity": 0}
        train = self.matrix(data, problem.y)
        if held is None:
            return xgboost.train(options, train, rounds), rounds
        model = xgboost.train(
            options,
            train,
            rounds,
            evals=[(self.matrix(*held), "held_out")],
            early_stopping_rounds=PATIENCE,
            verbose_eval=False,
        )
        best = model.best_iteration + 1
        return model[:best], best

    def settings(self, rows: int, problem: Problem) -> dict[str, Any]:
        """Return the parameters of a table with this many rows."""
        if rows < SMALL:
            options = {"learning_rate": 0.02, "max_depth": 4, "colsample_bytree": 0.3}
            options |= {"subsample": 0.75, "min_child_weight": 2, "lambda": 1.0}
        elif rows < LARGE:
            options = {"learning_rate": 0.05, "max_depth": 4, "colsample_bytree": 0.5}
            options |= {"subsample": 0.75, "min_child_weight": 2, "lambda": 1.0}
        elif problem.classes:
            options = {"learning_rate": 0.08, "max_depth": 6, "colsample_bylevel": 0.9}
            options |= {"subsample": 0.65, "min_child_weight": 5e-6, "lambda": 0.0}
        else:
            options = {"learning_rate": 0.05, "max_depth": 9, "subsample": 0.7}
            options |= {"min_child_weight": 2, "lambda": 0.0}
        if problem.classes > 2:
            return {**options, "objective": "multi:softprob", "num_class": problem.classes}
        if problem.level is not None:
            return {**options, "objective": "reg:quantileerror", "quantile_alpha": problem.level}
        return {
            **options,
            "objective": "binary:logistic" if problem.classes else "reg:squarederror",
        }

    def matrix(self, data: Data, y: np.ndarray | None = None) -> Any:
        """Return the library's form of a matrix."""
        import xgboost  # pyright: ignore[reportMissingImports]

        kinds = np.where(data.categorical, "c", "q").tolist()
        return xgboost.DMatrix(data.matrix, y, feature_types=kinds, enable_categorical=True)

    def predict(self, model: Any, data: Data, classes: int) -> np.ndarray:
        """As of `Booster`."""
        return _both(model.predict(self.matrix(data)).astype(np.float64), classes)

    def write(self, model: Any, path: Path) -> None:
        """As of `Booster`."""
        path.write_bytes(model.save_raw("json"))

    def read(self, path: Path) -> Any:
        """As of `Booster`."""
        import xgboost  # pyright: ignore[reportMissingImports]

        return xgboost.Booster(model_file=bytearray(path.read_bytes()))


@dataclass(frozen=True)
class CatBoost(Booster):
    """Binary files without code; categories become ordered target statistics."""

    def train(
        self,
        data: Data,
        problem: Problem,
        seed: int,
        threads: int,
        rounds: int,
        held: tuple[Data, np.ndarray] | None = None,
    ) -> tuple[Any, int]:
        """As of `Booster`."""
        import catboost  # pyright: ignore[reportMissingImports]

        options = self.settings(len(data), problem) | {**self.options}
        options |= {"iterations": rounds, "random_seed": seed, "thread_count": threads}
        options |= {"logging_level": "Silent", "allow_writing_files": False}
        model = catboost.CatBoost(options)
        if held is None:
            return model.fit(self.pool(data, problem.y)), rounds
        model.fit(
            self.pool(data, problem.y),
            eval_set=self.pool(*held),
            early_stopping_rounds=PATIENCE,
        )
        return model, (model.get_best_iteration() or 0) + 1  # it has dropped the others

    def settings(self, rows: int, problem: Problem) -> dict[str, Any]:
        """Return the parameters of a table with this many rows."""
        if rows < SMALL:
            options = {"learning_rate": 0.03, "depth": 5, "l2_leaf_reg": 3.0, "rsm": 0.5}
            # Combinations of categories cost 80 s on house-prices, with 43 of them.
            options |= {"one_hot_max_size": 20, "max_ctr_complexity": 1}
        elif rows < LARGE:
            options = {"learning_rate": 0.06, "depth": 6, "l2_leaf_reg": 3.0}
            options |= {"one_hot_max_size": 20, "max_ctr_complexity": 1}
        elif problem.classes:
            options = {"learning_rate": 0.08, "depth": 7, "l2_leaf_reg": 1e-5}
            options |= {"bootstrap_type": "Bernoulli", "subsample": 0.9, "one_hot_max_size": 15}
            options |= {"random_strength": 0.8, "leaf_estimation_iterations": 1}
        else:
            options = {"learning_rate": 0.09, "depth": 9, "l2_leaf_reg": 1e-5}
            options |= {"bootstrap_type": "Bernoulli", "subsample": 0.9, "one_hot_max_size": 20}
            options |= {"leaf_estimation_iterations": 20}
        if problem.classes > 2:
            return {**options, "loss_function": "MultiClass", "classes_count": problem.classes}
        if problem.level is not None:
            options.pop("leaf_estimation_iterations", None)
            return {**options, "loss_function": f"Quantile:alpha={problem.level}"}
        return {**options, "loss_function": "Logloss" if problem.classes else "RMSE"}

    def pool(self, data: Data, y: np.ndarray | None = None) -> Any:
        """Return the library's form of a matrix: float32 numbers, and codes as bytes."""
        import catboost  # pyright: ignore[reportMissingImports]

        numbers = np.ascontiguousarray(data.matrix[:, ~data.categorical], np.float32)
        codes = np.nan_to_num(data.matrix[:, data.categorical], nan=-1).astype(int)
        features = catboost.FeaturesData(
            num_feature_data=numbers if numbers.shape[1] else None,
            cat_feature_data=codes.astype("S").astype(object) if codes.shape[1] else None,
        )
        return catboost.Pool(features, y)

    def predict(self, model: Any, data: Data, classes: int) -> np.ndarray:
        """As of `Booster`."""
        kind = "Probability" if classes else "RawFormulaVal"
        return np.asarray(model.predict(self.pool(data), prediction_type=kind))

    def write(self, model: Any, path: Path) -> None:
        """As of `Booster`."""
        model.save_model(str(path), format="cbm")

    def read(self, path: Path) -> Any:
        """As of `Booster`."""
        import catboost  # pyright: ignore[reportMissingImports]

        return catboost.CatBoost().load_model(str(path), format="cbm")


def _both(found: np.ndarray, classes: int) -> np.ndarray:
    """Return the probabilities of both classes from those of the second."""
    return np.stack([1 - found, found], 1) if classes == 2 else found
