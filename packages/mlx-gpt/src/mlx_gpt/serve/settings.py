"""The settings of `mlx-gpt serve`, named as in its `--config` file; flags are made from them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlx_trainer import setting

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])i?)?b?", re.IGNORECASE)
_SECONDS: dict[str, Any] = {"above": 0, "at_most": 10**7}
# A name goes into JSON, log lines and URLs.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


def parse_size(text: str) -> int:
    """Return the bytes of `4096`, `512KiB`, `1.5GB`: units count in 1024."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"expected a size such as 4096, 512KiB or 2GiB, got {text!r}")
    return int(float(found[1]) * 1024 ** " kmgt".index((found[2] or " ").lower()))


def _parse_bits(text: str) -> int:
    if text not in ("0", "4", "8"):
        raise ValueError(f"bits must be 4 or 8, or 0 for none, got {text!r}")
    return int(text)


def _check_name(name: str) -> None:
    if name and not _NAME.fullmatch(name):
        raise ValueError(
            f"must be letters, digits and ._/-, and begin with a letter or digit, got {name!r}"
        )


def _check_names(names: list[str] | dict[str, str]) -> None:
    for name in names:
        _check_name(name)


@dataclass(frozen=True)
class ServedModel:
    """What is served, and by which names."""

    folder: str = setting(help="Model or run folder.", flag="--model", path="folder")
    name: str = setting("", "Name of the model in requests.", flag="--name", check=_check_name,
        default_text="the folder's")  # fmt: skip
    aliases: list[str] = setting([], "Another name of it; repeatable.", flag="--alias",
        metavar="NAME", check=_check_names)  # fmt: skip
    adapters: dict[str, str] = setting({}, "Adapter, for requests that name it; repeatable.",
        flag="--adapter", metavar="NAME=FOLDER", check=_check_names)  # fmt: skip
    chat_template: str = setting("", "Format of chats: chatml, plain, or a .jinja file.",
        flag="--chat-template", default_text="the model's")  # fmt: skip

    @property
    def id(self) -> str:
        """The name, by default the folder's."""
        return self.name or Path(self.folder).resolve().name


@dataclass(frozen=True)
class ServeEngine:
    """How requests are computed."""

    max_batch: int = setting(16, "Requests that generate together.", flag="--max-batch",
        at_least=1, at_most=1024)  # fmt: skip
    max_queue: int = setting(64, "Requests that may wait; more get 429.", flag="--max-queue",
        at_least=1, at_most=100_000)  # fmt: skip
    prefill_chunk: int | None = setting(None, "Tokens of prompts that are read in a pass.",
        flag="--prefill-chunk", at_least=1, default_text="64 on a CPU, 256 on a GPU")  # fmt: skip
    prefix_cache: int | None = setting(None, "Memory for beginnings of prompts that are kept; 0: "
        "none.", flag="--prefix-cache", metavar="SIZE", parse=parse_size, at_least=0,
        default_text="1GiB, but at most a quarter of --memory-limit")  # fmt: skip
    memory_limit: int | None = setting(None, "Memory for keys and values of all requests.",
        flag="--memory-limit", metavar="SIZE", parse=parse_size, at_least=1,
        default_text="most of what is free")  # fmt: skip
    kv_bits: Literal[0, 4, 8] = setting(0, "Quantize keys and values to 4 or 8 bits.",
        flag="--kv-bits", metavar="BITS", parse=_parse_bits, default_text="not")  # fmt: skip
    kv_group_size: Literal[32, 64, 128] = setting(64, "Numbers that share a scale.")
    draft_model: str | None = setting(None, "Guess tokens with this smaller model.",
        flag="--draft-model", path="folder", metavar="FOLDER")  # fmt: skip
    num_draft_tokens: int = setting(4, "Tokens to guess at a time.", at_least=1, at_most=32)
    ngram: int = setting(0, "Guess tokens from places with the same last N tokens.",
        flag="--ngram", metavar="N", at_least=0, at_most=8, default_text="not")  # fmt: skip

    def __post_init__(self):
        if self.draft_model and self.ngram:
            raise ValueError("ngram and draft_model exclude each other")


@dataclass(frozen=True)
class ServeAnswers:
    """Answers: what requests may ask, and what applies if they do not say."""

    max_tokens: int = setting(0, "Most tokens of an answer.", flag="--max-tokens", at_least=0,
        default_text="the model's context")  # fmt: skip
    max_choices: int = setting(64, "Most answers of a request, n times its prompts.", at_least=1)
    seconds: float = setting(600.0, "Time for an answer, waiting included.",
        flag="--answer-seconds", **_SECONDS)  # fmt: skip
    temperature: float | None = setting(None, "Of requests that set none.", flag="--temperature",
        at_least=0, at_most=100,
        default_text="the model's generation_config.json, else 1")  # fmt: skip
    top_p: float | None = setting(None, "Of requests that set none.", above=0, at_most=1)
    top_k: int | None = setting(None, "Of requests that set none.", at_least=0)
    min_p: float | None = setting(None, "Of requests that set none.", at_least=0, at_most=1)
    repetition_penalty: float | None = setting(None, "Of requests that set none.", above=0,
        at_most=100)  # fmt: skip


@dataclass(frozen=True)
class ServeNetwork:
    """Who may connect, and for how long."""

    host: str = setting("127.0.0.1", "Address to listen on.", flag="--host")
    port: int = setting(8080, "Port; 0 chooses a free one.", flag="--port", at_least=0,
        at_most=65535)  # fmt: skip
    api_key_file: str | None = setting(None, "File with a key in each line; or set MLX_GPT_API_KEY "
        "in the environment.", flag="--api-key-file", path="file", metavar="FILE")  # fmt: skip
    no_key: bool = setting(False, "Serve other machines without a key.", flag="--no-key")
    allowed_hosts: list[str] = setting([], "Name by which browsers may reach the server, besides "
        "localhost and addresses; repeatable.", flag="--allowed-host", metavar="NAME")  # fmt: skip
    cors_origins: list[str] = setting([], "Web site whose pages may use the server, as "
        "https://example.org; repeatable.", flag="--cors-origin", metavar="ORIGIN")  # fmt: skip
    max_body: int = setting(1 << 20, "Largest request.", flag="--max-body", metavar="SIZE",
        parse=parse_size, at_least=1024, at_most=1 << 30, default_text="1MiB")  # fmt: skip
    max_requests: int = setting(256, "Requests at a time; more get 429.", at_least=1)
    max_connections: int = setting(512, "Connections at a time; more get 503.", at_least=1)
    header_seconds: float = setting(10.0, "Time for the head of a request.", **_SECONDS)
    body_seconds: float = setting(30.0, "Time for the body of a request.", **_SECONDS)
    write_seconds: float = setting(60.0, "Time in which a client must read.", **_SECONDS)
    keep_alive_seconds: int = setting(75, "Time that an idle connection is kept.", at_least=1)
    drain_seconds: float = setting(30.0, "Time for answers in progress when stopped.",
        flag="--drain-seconds", at_least=0, at_most=10**7)  # fmt: skip
    log_prompts: bool = setting(False, "Log prompts and answers.", flag="--log-prompts")


@dataclass(frozen=True)
class ServeSettings:
    """All settings of a server."""

    model: ServedModel
    engine: ServeEngine = field(default_factory=ServeEngine)
    answers: ServeAnswers = field(default_factory=ServeAnswers)
    network: ServeNetwork = field(default_factory=ServeNetwork)
