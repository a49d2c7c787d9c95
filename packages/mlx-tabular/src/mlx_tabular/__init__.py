"""TabM for MLX: an ensemble of MLPs in one network, for tables of numbers and categories."""

from mlx_tabular.classifier import TabularClassifier
from mlx_tabular.embeddings import PiecewiseLinearEmbeddings, quantile_bins
from mlx_tabular.estimator import Tabular
from mlx_tabular.model import TabM
from mlx_tabular.preprocess import Inputs, Preprocessor, fit_quantiles, quantile_normal
from mlx_tabular.regressor import TabularRegressor

__all__ = [
    "Inputs",
    "PiecewiseLinearEmbeddings",
    "Preprocessor",
    "TabM",
    "Tabular",
    "TabularClassifier",
    "TabularRegressor",
    "fit_quantiles",
    "quantile_bins",
    "quantile_normal",
]
