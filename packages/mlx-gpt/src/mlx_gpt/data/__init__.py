"""Conversations for fine-tuning: read from JSON lines, mixed, packed into rows."""

from mlx_gpt.data.formats import read_conversations
from mlx_gpt.data.mixture import Source, read_mixture
from mlx_gpt.data.packing import Batch, PackedBatches

__all__ = ["Batch", "PackedBatches", "Source", "read_conversations", "read_mixture"]
