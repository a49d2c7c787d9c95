"""Text to token ids and back: nanochat's byte-pair tokenizer, and those of Hugging Face models."""

from mlx_gpt.tokenizer.chat_encoding import EncodedChat, encode_chat, encode_prompt
from mlx_gpt.tokenizer.chat_template import ChatTemplate
from mlx_gpt.tokenizer.loading import AnyTokenizer, load_chat_tokenizer, load_tokenizer
from mlx_gpt.tokenizer.pretrained import PretrainedTokenizer
from mlx_gpt.tokenizer.tokenizer import SPECIALS, Tokenizer
from mlx_gpt.tokenizer.training import SPLIT_PATTERN

__all__ = [
    "SPECIALS",
    "SPLIT_PATTERN",
    "AnyTokenizer",
    "ChatTemplate",
    "EncodedChat",
    "PretrainedTokenizer",
    "Tokenizer",
    "encode_chat",
    "encode_prompt",
    "load_chat_tokenizer",
    "load_tokenizer",
]
