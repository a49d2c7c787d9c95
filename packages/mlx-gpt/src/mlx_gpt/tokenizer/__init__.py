"""Text to token ids and back: nanochat's byte-pair tokenizer, its files and its training."""

from mlx_gpt.tokenizer.tokenizer import SPECIALS, SPLIT_PATTERN, Tokenizer

__all__ = ["SPECIALS", "SPLIT_PATTERN", "Tokenizer"]
