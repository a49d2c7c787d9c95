"""Text to token ids and back: nanochat's byte-pair tokenizer, its files and its training."""

from mlx_gpt.tokenizer.tokenizer import SPECIALS, Tokenizer
from mlx_gpt.tokenizer.training import SPLIT_PATTERN

__all__ = ["SPECIALS", "SPLIT_PATTERN", "Tokenizer"]
