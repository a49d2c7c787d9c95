"""Generate completions of requests, in batches or as a stream."""

from mlx_gpt.engine.drafts import Speculation
from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.generation import Generation
from mlx_gpt.engine.requests import Completion, Piece, Request, TextStream
from mlx_gpt.engine.sampler import Sampler
from mlx_gpt.engine.sampling import Sampling
from mlx_gpt.engine.tools import calculate, content_parts
from mlx_gpt.models.cache import PromptCache

__all__ = [
    "Completion",
    "Engine",
    "Generation",
    "Piece",
    "PromptCache",
    "Request",
    "Sampler",
    "Sampling",
    "Speculation",
    "TextStream",
    "calculate",
    "content_parts",
]
