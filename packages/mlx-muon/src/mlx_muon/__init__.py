"""Muon and its variants for MLX: `Muon` is a drop-in replacement for `mlx.optimizers.AdamW`."""

from mlx_muon.groups import Group
from mlx_muon.mlx_state import load_mlx_state
from mlx_muon.optimizer import Muon
from mlx_muon.orthogonalize import COEFFICIENTS, orthogonalize
from mlx_muon.presets import adamuon, keller, moonlight, nanochat, normuon
from mlx_muon.qk_clip import qk_clip
from mlx_muon.rules import AdamWRule, MuonRule, Rule

__all__ = [
    "COEFFICIENTS",
    "AdamWRule",
    "Group",
    "Muon",
    "MuonRule",
    "Rule",
    "adamuon",
    "keller",
    "load_mlx_state",
    "moonlight",
    "nanochat",
    "normuon",
    "orthogonalize",
    "qk_clip",
]
