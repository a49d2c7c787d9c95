"""What all models have in common: loading and saving folders, and the forward pass of encoders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import mlx.core as mx
import mlx.nn as nn

from mlx_encoders.attention import Context
from mlx_encoders.inputs import Array, check_inputs

if TYPE_CHECKING:
    from mlx_encoders.tokenizer import Tokenizer


class PretrainedModel(nn.Module):
    """An encoder, or an encoder with a task head, whose parameter paths are tensor names."""

    config_class: ClassVar[type]
    base_prefix: ClassVar[str] = ""
    """Path of the encoder within the model, such as "bert."; empty for an encoder."""
    architecture: ClassVar[str | None] = None
    """Name in `config.json`; None is the name of the class."""
    config: Any

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        new: Sequence[str] = (),
        seed: int = 0,
        dtype: mx.Dtype | None = None,
        dropout: float | None = None,
        attention_dropout: float | None = None,
        **changes: Any,
    ) -> Self:
        """Load a folder or hub id into this class; see `load_model`.

        `changes` replace fields of the config, such as `num_labels=4`.
        """
        from mlx_encoders import folders  # imports this module

        load: Any = folders.load_model  # to pyright its classes may be those of an installed copy
        model, _ = load(
            name, new, seed, dtype, dropout, attention_dropout, model_class=cls, **changes
        )
        return model

    def save_pretrained(self, folder: str | Path, tokenizer: "Tokenizer | None" = None) -> None:
        """Write a folder that `from_pretrained` and transformers read; see `save`."""
        from mlx_encoders import folders  # imports this module

        save: Any = folders.save
        save(folder, self, tokenizer)

    @property
    def encoder_model(self) -> "EncoderModel":
        """The encoder: this model, or the part under `base_prefix`."""
        found = self[self.base_prefix.removesuffix(".")] if self.base_prefix else self
        assert isinstance(found, EncoderModel)
        return found

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embeddings: `inputs_embeds` are their output for `input_ids`."""
        return self.encoder_model.get_input_embeddings()


@dataclass(frozen=True)
class EncoderOutput:
    """The result of `EncoderModel.outputs`."""

    last_hidden_state: mx.array
    """(B, L, hidden_size)."""
    hidden_states: tuple[mx.array, ...] | None = None
    """The embedding output and the output of each layer, each (B, L, hidden_size)."""
    attentions: tuple[mx.array, ...] | None = None
    """The attention weights of each layer, each (B, heads, L, L)."""


class EncoderModel(PretrainedModel):
    """Token ids to hidden states. A child defines its embeddings, layers and last norm.

    With `gradient_checkpointing` set, the backward pass computes each layer again instead of
    keeping its intermediate arrays. Gradients are the same, with dropout too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    def __call__(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
        *,
        position_ids: Array | None = None,
        inputs_embeds: mx.array | None = None,
        segment_ids: Array | None = None,
    ) -> mx.array:
        """Return hidden states (B, L, hidden_size) of ids (B, L).

        `attention_mask` (B, L) has any dtype and is 1 for tokens, 0 for padding; None means no
        padding. `token_type_ids` (B, L), of BERT only, default to 0, and `position_ids` (B, L) or
        (L,) to 0, 1, 2, ... `inputs_embeds` (B, L, hidden_size) are word embeddings, given instead
        of `input_ids`. With `segment_ids` (B, L) tokens attend only within their segment, such as
        one of several rows packed into a sequence.

        Ids are not compared with `vocab_size`, which would synchronize with the device.
        """
        return self.outputs(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            segment_ids=segment_ids,
        ).last_hidden_state

    def hidden_states(self, *arguments: Any, **options: Any) -> list[mx.array]:
        """Return the embedding output and the output of each layer; arguments as of a call.

        These are `num_hidden_layers + 1` arrays. The last one includes the last norm, and equals
        the output of the model.
        """
        states = self.outputs(*arguments, output_hidden_states=True, **options).hidden_states
        return list(states or ())

    def outputs(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
        *,
        position_ids: Array | None = None,
        inputs_embeds: mx.array | None = None,
        segment_ids: Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """Return hidden states and, where asked for, those of all layers and attention weights.

        Attention weights take an explicit computation with equal results, whose memory grows with
        the square of the length.
        """
        inputs = check_inputs(input_ids, attention_mask, position_ids, inputs_embeds, segment_ids)
        weights: list[mx.array] | None = [] if output_attentions else None
        context = Context(inputs.length, inputs.valid, inputs.segments, inputs.positions, weights)
        explicit = output_attentions or (self.training and self._attention_dropout() > 0)
        context.prepare(self._reaches(), explicit)
        embeds = inputs.embeds
        if embeds is None:
            embeds = self.get_input_embeddings()(inputs.ids)
        states = [self._embed(embeds, token_type_ids, inputs.positions)]
        layers = self._layers()
        keys = mx.random.split(_new_key(), len(layers)) if self.training else [None] * len(layers)
        for layer, key in zip(layers, keys, strict=True):
            run = _recomputed(layer) if self.gradient_checkpointing and weights is None else layer
            states.append(run(states[-1], replace(context, key=key)))
        states[-1] = self._last_norm(states[-1])
        return EncoderOutput(
            states[-1],
            tuple(states) if output_hidden_states else None,
            None if weights is None else tuple(weights),
        )

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embeddings, which a child defines."""
        raise TypeError(f"{type(self).__name__} does not define its word embeddings")

    def _embed(
        self, embeds: mx.array, token_type_ids: Array | None, positions: mx.array | None
    ) -> mx.array:
        raise TypeError(f"{type(self).__name__} does not define its embeddings")

    def _layers(self) -> list[Any]:
        raise TypeError(f"{type(self).__name__} does not define its layers")

    def _last_norm(self, hidden: mx.array) -> mx.array:
        return hidden

    def _reaches(self) -> set[int | None]:
        """Return the windows of the layers; None is the whole sequence."""
        return {None}

    def _attention_dropout(self) -> float:
        return 0.0


def _new_key() -> mx.array:
    """Return a key drawn from the global random state."""
    return mx.random.randint(-(2**31), 2**31 - 1, (2,)).view(mx.uint32)


def _recomputed(layer: nn.Module) -> Any:
    """Return `layer` with `mx.checkpoint`; the key of the context repeats its dropout."""

    def run(x: mx.array, context: Context) -> mx.array:
        def compute(parameters: dict, x: mx.array) -> mx.array:
            kept = layer.trainable_parameters()
            layer.update(parameters)
            out = layer(x, replace(context))  # a copy, as dropout advances its key
            layer.update(kept)
            return out

        return mx.checkpoint(compute)(layer.trainable_parameters(), x)

    return run
