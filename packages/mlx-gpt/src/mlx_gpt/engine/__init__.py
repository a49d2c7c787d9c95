"""Generation: requests in, completions out, as a whole or as a stream."""

from mlx_gpt.engine.calculator import calculate
from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.generation import Generation
from mlx_gpt.engine.prefill import PromptCache
from mlx_gpt.engine.requests import Completion, Piece, Request
from mlx_gpt.engine.sampler import Sampler, Sampling
from mlx_gpt.engine.text import TextStream
from mlx_gpt.engine.tools import content_parts

__all__ = [
    "Completion",
    "Engine",
    "Generation",
    "Piece",
    "PromptCache",
    "Request",
    "Sampler",
    "Sampling",
    "TextStream",
    "calculate",
    "content_parts",
]
