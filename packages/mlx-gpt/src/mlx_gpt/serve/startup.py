"""From the settings to a scheduler that has loaded the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.loading import EngineOptions, choose_sampling, load_engine
from mlx_gpt.serve.logs import LOG
from mlx_gpt.serve.scheduler import Scheduler
from mlx_gpt.serve.settings import ServeSettings
from mlx_gpt.tokenizer import PretrainedTokenizer

# Bytes of free buffers that a CPU's server keeps: a step uses them again, but with requests of all
# lengths more would be kept than is ever used at once.
_CACHE_LIMIT = 256 << 20
# OpenAI's; those of the model's author come before them.
_NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}


def start_scheduler(settings: ServeSettings) -> Scheduler:
    """Return the scheduler of the settings, with the model loaded; raises what loading raises."""
    device = mx.default_device()

    def load() -> Engine:
        mx.set_default_device(device)  # in the engine's thread too
        if device == mx.cpu:
            mx.set_cache_limit(_CACHE_LIMIT)
        return load_served(settings)

    engine = settings.engine
    scheduler = Scheduler(
        load, max_batch=engine.max_batch, max_queue=engine.max_queue,
        prefill_chunk=engine.prefill_chunk, prefix_cache_bytes=engine.prefix_cache,
        adapters={name: Path(each) for name, each in settings.model.adapters.items()},
        memory_limit=engine.memory_limit,
    )  # fmt: skip
    scheduler.start()
    return scheduler


def load_served(settings: ServeSettings) -> Engine:
    """Load the model, with nanochat's calculator; requests name adapters, so none is merged."""
    engine = settings.engine
    options = EngineOptions(
        kv_bits=engine.kv_bits or None, kv_group_size=engine.kv_group_size,
        draft_model=Path(engine.draft_model) if engine.draft_model else None,
        num_draft_tokens=engine.num_draft_tokens, ngram=engine.ngram,
    )  # fmt: skip
    loaded = load_engine(Path(settings.model.folder), options)
    if template := settings.model.chat_template:
        if not isinstance(loaded.tokenizer, PretrainedTokenizer):
            raise ValueError("--chat-template is for models of Hugging Face, not nanochat's")
        loaded.tokenizer.use_chat_template(template)
    return loaded


def default_sampling(settings: ServeSettings) -> dict[str, Any]:
    """Return the sampling of requests that name none: of the settings, else the model's author."""
    given = {name: getattr(settings.answers, name) for name in _NEUTRAL}
    chosen, note = choose_sampling(given, _NEUTRAL, Path(settings.model.folder))
    if note:
        LOG.info("requests that set nothing else use %s", note)
    return {name: getattr(chosen, name) for name in _NEUTRAL}
