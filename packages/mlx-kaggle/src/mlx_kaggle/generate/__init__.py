"""Generate columns, fitted on the training rows; each kept only for its measured gain."""

from mlx_kaggle.generate.fitted import Gain, Generated

__all__ = ["Gain", "Generated"]
