"""Sentence embeddings: an encoder with pooling, as in sentence-transformers."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_encoders._suggest import did_you_mean
from mlx_encoders.files import find_folder
from mlx_encoders.folders import load
from mlx_encoders.inputs import Array, check_inputs
from mlx_encoders.pooling import Dense, Pooling
from mlx_encoders.pretrained import EncoderModel
from mlx_encoders.progress import track
from mlx_encoders.sentence_folders import (
    SentenceSettings,
    add_lowercase,
    lowercases,
    read_modules,
    write_modules,
)
from mlx_encoders.tokenizer import Tokenizer

_LOGGER = logging.getLogger(__name__)
_BATCH_TOKENS = 256  # of a batch, for each row of batch_size


class SentenceEncoder(nn.Module):
    """Texts to vectors: an encoder, pooling, optional dense layers and normalization.

    `pooling` is "cls", "mean", "max", "last", "attention", or several joined by a plus; see
    `Pooling`. `max_length` None is the limit of the model and its tokenizer. `prompts` are named
    texts to put before each text; the one named `default_prompt_name` is used when `encode` names
    none. Without `include_prompt`, its tokens are not pooled.

    A call maps ids (B, L) to float32 vectors (B, `embedding_size`), and can be trained. `encode`
    maps texts to a NumPy array.
    """

    def __init__(
        self,
        model: EncoderModel,
        tokenizer: Tokenizer,
        pooling: str = "mean",
        normalize: bool = True,
        max_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        *,
        default_prompt_name: str | None = None,
        include_prompt: bool = True,
        dense: Sequence[Dense] = (),
    ):
        super().__init__()
        if not isinstance(model, EncoderModel):
            raise TypeError(
                f"model must be an encoder, got {type(model).__name__}; of a model with a task "
                f"head give model.encoder_model"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.pooling = Pooling(model.config.hidden_size, pooling)
        self.dense = list(dense)
        self.normalize = normalize
        config = model.config
        positions = getattr(config, "max_position_embeddings", None) or config.max_length
        self._positions: int = positions
        self.max_length = self._checked_length(max_length)
        self.include_prompt = include_prompt
        # Not `prompts`: the parameters of a module include its dicts.
        self._prompts = dict(prompts or {})
        self.default_prompt_name = default_prompt_name
        if default_prompt_name is not None:
            self._prompt(default_prompt_name)
        self.embedding_size = self._checked_sizes()
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        max_length: int | None = None,
        dtype: mx.Dtype | None = None,
    ) -> Self:
        """Load a folder or hub id of sentence-transformers, or of a plain encoder.

        The arguments replace what the folder says. A plain encoder gets mean pooling and
        normalization, which is logged, unless both are given. Raises `ValueError` for modules that
        this package does not have.
        """
        folder = find_folder(name)
        settings = read_modules(folder)
        if settings is None:
            settings = SentenceSettings()
            if pooling is None or normalize is None:
                _LOGGER.warning(
                    "%s has no modules.json of sentence-transformers: using %s pooling, vectors %s",
                    folder,
                    pooling or settings.pooling,
                    "as they are" if normalize is False else "of length 1",
                )
        model, tokenizer = load(folder / settings.encoder, dtype)
        encoder = cls(
            model,
            tokenizer,
            settings.pooling if pooling is None else pooling,
            settings.normalize if normalize is None else normalize,
            settings.max_length if max_length is None else max_length,
            settings.prompts,
            default_prompt_name=settings.default_prompt_name,
            include_prompt=settings.include_prompt,
            dense=settings.dense,
        )
        if settings.query is not None and "query" in encoder.pooling:
            encoder.pooling.query = settings.query
        if settings.lowercase:
            add_lowercase(tokenizer)
        return encoder

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` and sentence-transformers read.

        sentence-transformers has no attention pooling, and refuses such a folder.
        """
        settings = SentenceSettings(
            pooling="+".join(self.pooling.names),
            normalize=self.normalize,
            max_length=self.max_length,
            lowercase=lowercases(self.tokenizer),
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            include_prompt=self.include_prompt,
            dense=tuple(self.dense),
            query=self.pooling.query if "query" in self.pooling else None,
        )
        self.model.save_pretrained(folder, self.tokenizer)
        write_modules(Path(folder), settings, self.model.config.hidden_size)

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts by name."""
        return dict(self._prompts)

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
        *,
        prompt_length: int = 0,
        normalize: bool | None = None,
    ) -> mx.array:
        """Return float32 vectors (B, embedding_size) of ids (B, L).

        The first `prompt_length` tokens are not pooled. `normalize` None is as of the encoder.
        """
        valid = check_inputs(input_ids, attention_mask).valid
        hidden = self.model(input_ids, attention_mask, token_type_ids)
        if valid is None:
            valid = mx.ones(hidden.shape[:2], mx.bool_)
        vectors = self.pooling(hidden, valid, prompt_length)
        for layer in self.dense:
            vectors = layer(vectors)
        if not (self.normalize if normalize is None else normalize):
            return vectors
        # The gradient of a norm would be NaN at 0.
        square = (vectors * vectors).sum(axis=-1, keepdims=True)
        return vectors * mx.rsqrt(mx.maximum(square, 1e-24))

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int = 32,
        normalize: bool | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        progress: bool = False,
        prompt_name: str | None = None,
    ) -> np.ndarray:
        """Return the vectors of texts in their order, (N, embedding_size), without dropout.

        Texts are sorted by length inside, and a batch has at most `batch_size` rows of up to 256
        tokens, and fewer of longer ones. `normalize` None is as of the encoder. How many texts are
        longer than `max_length`, and lose their end, is logged. `progress` shows a bar on standard
        error, or lines where that is not a terminal.
        """
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be 'float32' or 'float16', got {dtype!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        prompt = self._prompt(self.default_prompt_name if prompt_name is None else prompt_name)
        ids = self._tokenize(texts, prompt)
        prompt_length = 0 if self.include_prompt or not prompt else self._length_of(prompt)
        vectors = np.zeros((len(ids), self.embedding_size), dtype)

        def forward(batch: dict[str, mx.array]) -> mx.array:
            return self(**batch, prompt_length=prompt_length, normalize=normalize)

        training = self.training
        self.eval()
        try:
            # Traced for each shape; on a CPU 1.5 times faster than operation by operation.
            compiled = mx.compile(forward, inputs=[self.state])
            with track(len(ids), "texts", progress) as advance:
                for rows in _plan(ids, batch_size):
                    batch = self._padded([ids[row] for row in rows])
                    arrays = {name: mx.array(array) for name, array in batch.items()}
                    vectors[rows] = np.array(compiled(arrays))
                    advance(len(rows))
        finally:
            self.train(training)
        return vectors

    def _tokenize(self, texts: Sequence[str], prompt: str) -> list[list[int]]:
        """Return ids of at most `max_length` tokens; log how many texts lose their end."""
        if isinstance(texts, str):
            raise TypeError(f"texts must be a sequence of strings, got one; use [{texts[:20]!r}]")
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts must be strings, but texts[{i}] is {text!r}")
        prompted = [prompt + text for text in texts] if prompt else list(texts)
        ids = self.tokenizer.encode(prompted, self.max_length)
        full = [
            text for text, row in zip(prompted, ids, strict=True) if len(row) == self.max_length
        ]
        room = self.max_length - self.tokenizer.num_special_tokens
        cut = sum(count > room for count in self.tokenizer.count(full))
        if cut:
            _LOGGER.warning(
                "%d of %d texts are longer than max_length=%d tokens; their ends have no effect",
                cut,
                len(ids),
                self.max_length,
            )
        return ids

    def _padded(self, ids: list[list[int]]) -> dict[str, np.ndarray]:
        """Pad to a multiple of 8, but not beyond the positions of the model."""
        longest = max(1, *map(len, ids))
        return self.tokenizer.pad(ids, max(longest, min(-(-longest // 8) * 8, self._positions)))

    def _prompt(self, name: str | None) -> str:
        if name is None:
            return ""
        if name not in self._prompts:
            raise ValueError(f"no prompt {name!r}{did_you_mean(name, self._prompts)}")
        return self._prompts[name]

    def _length_of(self, prompt: str) -> int:
        """Return the number of tokens of a prompt, with special ones before it, not after."""
        (ids,) = self.tokenizer.encode([prompt], self.max_length)
        after = ids[-1:] and ids[-1] == self.tokenizer.special_id("sep_token")
        return len(ids) - bool(after)

    def _checked_length(self, max_length: int | None) -> int:
        if max_length is None:
            return min(self._positions, self.tokenizer.model_max_length or self._positions)
        if max_length > self._positions:
            raise ValueError(f"max_length={max_length} exceeds the {self._positions} of the model")
        return max_length

    def _checked_sizes(self) -> int:
        size = self.pooling.output_size
        for layer in self.dense:
            outputs, inputs = layer.linear.weight.shape
            if inputs != size:
                raise ValueError(
                    f"a dense layer has {inputs} inputs, but is given vectors of size {size}"
                )
            size = outputs
        return size


def _plan(ids: Sequence[Sequence[int]], batch_size: int) -> Iterator[np.ndarray]:
    """Yield the rows of each batch, by falling length."""
    lengths = np.array([len(row) for row in ids])
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        count = max(1, min(batch_size, batch_size * _BATCH_TOKENS // longest))
        yield order[start : start + count]
        start += count
