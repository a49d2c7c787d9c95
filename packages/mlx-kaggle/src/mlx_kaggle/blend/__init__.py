"""Blends: one prediction from the predictions of many members, fitted out of fold only.

`fit_blend` fits one method, `choose_blend` decides between the methods and each member alone.
"""

from mlx_kaggle.blend.choose import Choice, choose_blend, leave_one_out
from mlx_kaggle.blend.fit import METHODS, Blend, Predictions, cross_fit, describe, fit_blend
from mlx_kaggle.blend.loss import Loss

__all__ = [
    "METHODS",
    "Blend",
    "Choice",
    "Loss",
    "Predictions",
    "choose_blend",
    "cross_fit",
    "describe",
    "fit_blend",
    "leave_one_out",
]
