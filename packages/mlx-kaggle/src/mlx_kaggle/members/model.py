"""The text model, an encoder with a head, and the folder of a trained member."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_encoders import (
    BertConfig,
    EncoderModel,
    Tokenizer,
    build_model,
    layer_index,
    load,
    load_model,
    save,
)
from mlx_fastcpu import patch_nn
from mlx_heads import LayerMix, PooledHead, get_objective
from mlx_kaggle import RunError
from mlx_kaggle.members.adapters import ADAPTER, Base, adapt
from mlx_kaggle.members.linear import LinearModel
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.settings.model_settings import EncoderSettings
from mlx_kaggle.tables.targets import Scaler
from mlx_kaggle.tables.windows import WindowScaler
from mlx_lora import load_adapter, save_adapter
from mlx_tabtext import RowFeatures, TableText
from mlx_trainer import check_manifest, write_atomic, write_manifest

# All files that a member's folder may have; the manifest lists those that exist.
MEMBER_FILES = (
    "manifest.json",
    "member.json",
    "head.safetensors",
    "linear.safetensors",
    "encoder/config.json",
    "encoder/model.safetensors",
    "encoder/tokenizer.json",
    "encoder/tokenizer_config.json",
    "encoder/special_tokens_map.json",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "adapter.txt",
    "optimizer.txt",
    "history.json",
    "validation.npy",
    "time.json",
)
REQUIRED = ("member.json", "head.safetensors")
ENCODER = ("encoder/config.json", "encoder/model.safetensors")


class TextModel(nn.Module):
    """Encoder and head, which learn the residual over a linear model of the row."""

    def __init__(self, encoder: EncoderModel, head: PooledHead, layer_mix: bool = False):
        super().__init__()
        self.encoder = encoder
        self.head = head
        if layer_mix:
            self.layer_mix = LayerMix(encoder.config.num_hidden_layers + 1)

    def __call__(
        self,
        input_ids: mx.array | None,
        attention_mask: mx.array,
        features: mx.array | None = None,
        linear: mx.array | None = None,
        history: mx.array | None = None,
        inputs_embeds: mx.array | None = None,
    ) -> mx.array:
        """Return the outputs of the head, plus `linear`.

        `input_ids` and `attention_mask` are (B, L), `features` (B, F), `history` (B, lookback).
        `linear` is added, so it has the shape of the outputs or broadcasts to it. `inputs_embeds`
        (B, L, D) replaces `input_ids`.
        """
        if "layer_mix" in self:
            states = self.encoder.hidden_states(
                input_ids, attention_mask, inputs_embeds=inputs_embeds
            )
            hidden = self.layer_mix(states)
        else:
            hidden = self.encoder(input_ids, attention_mask, inputs_embeds=inputs_embeds)
        past = {} if history is None else {"history": history}
        outputs = self.head(hidden, attention_mask, features, **past)
        return outputs if linear is None else linear + outputs

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embeddings of the encoder."""
        return self.encoder.get_input_embeddings()


def make_model(encoder: EncoderModel, arguments: dict[str, Any]) -> TextModel:
    """Join an encoder and the head of `head_arguments`; on a CPU, use the layers of mlx-fastcpu."""
    options = dict(arguments)
    objective = get_objective(options.pop("task"), options.pop("loss"))
    layer_mix = options.pop("layer_mix")
    return patch_nn(TextModel(encoder, objective.build_head(**options), layer_mix))


@dataclass
class Member:
    """A model with everything that is needed to predict from a table."""

    model: TextModel
    tokenizer: Tokenizer
    text: TableText
    linear: LinearModel | None
    scaler: Scaler | WindowScaler | None
    head_arguments: dict[str, Any]
    base: Base | None = None
    """The pretrained encoder that is adapted; `None` if the encoder is trained itself."""

    @property
    def features(self) -> RowFeatures | None:
        """The numeric and categorical input of the head."""
        return self.linear.features if self.linear else None

    def save(self, folder: Path) -> None:
        """Write `encoder/` (Hugging Face layout), head, linear model, `member.json`, manifest.

        Of an adapted encoder only `adapter/` (PEFT's layout) and the tokenizer are written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.base is None:
            save(folder / "encoder", self.model.encoder, self.tokenizer)
        else:
            save_adapter(self.model.encoder, folder / "adapter")
            self.tokenizer.save(folder / "encoder")
        parameters: dict[str, mx.array] = dict(tree_flatten(self.model.parameters()))
        others = {k: v for k, v in parameters.items() if not k.startswith("encoder.")}
        _save_arrays(folder / "head.safetensors", others)
        linear = self.linear
        if linear:
            arrays = {"weight": mx.array(linear.weight), "bias": mx.array(linear.bias)}
            _save_arrays(folder / "linear.safetensors", arrays)
        values = {
            "head": self.head_arguments,
            "text": self.text.to_dict(),
            **(linear.to_dict() if linear else {"features": None, "words": None}),
            "scaler": self.scaler.to_dict() if self.scaler else None,
            "base": asdict(self.base) if self.base else None,
        }
        text = json.dumps(values, indent=1, ensure_ascii=False)
        write_atomic(folder / "member.json", lambda path: path.write_text(text, "utf-8"))
        # Last, as it marks the member as complete.
        write_manifest(folder, (name for name in MEMBER_FILES[1:] if (folder / name).is_file()))

    @classmethod
    def load(cls, folder: Path) -> "Member":
        """Read what `save` wrote.

        Raises `RunError` when the training did not finish, `ChangedFileError` when a file changed.
        """
        if not (folder / "manifest.json").is_file():
            raise RunError(f"{folder}: no manifest.json; the training of this model did not finish")
        check_manifest(folder, REQUIRED)
        values = json.loads((folder / "member.json").read_text("utf-8"))
        base = Base(**values["base"]) if values.get("base") else None
        check_manifest(folder, ADAPTER if base else ENCODER)
        if base is None:
            encoder, tokenizer = load(folder / "encoder")
        else:
            encoder = base.load(folder)
            load_adapter(encoder, folder / "adapter")
            tokenizer = Tokenizer.from_folder(folder / "encoder")
        model = make_model(encoder, values["head"])
        weights = mx.load(str(folder / "head.safetensors"))
        assert isinstance(weights, dict)
        encoder_weights: dict[str, mx.array] = dict(tree_flatten(encoder.parameters()))
        weights |= {f"encoder.{name}": each for name, each in encoder_weights.items()}
        model.load_weights(list(weights.items()))
        model.eval()
        mx.eval(model.parameters())
        return cls(
            model,
            tokenizer,
            TableText.from_dict(values["text"], count_tokens=tokenizer.count),
            LinearModel.from_dict(values, folder / "linear.safetensors"),
            Scaler.from_dict(values["scaler"]) if values["scaler"] else None,
            values["head"],
            base,
        )


def _save_arrays(path: Path, arrays: dict[str, mx.array]) -> None:
    write_atomic(path, lambda temporary: mx.save_safetensors(str(temporary), arrays))


def make_encoder(config: RunConfig, tokenizer: Tokenizer, seed: int) -> EncoderModel:
    """Load a pretrained encoder, or make a small one from scratch; freeze as configured."""
    settings = config.encoder
    if settings.path:
        encoder, _ = load_model(
            settings.path, dropout=settings.dropout, attention_dropout=settings.attention_dropout
        )
        if config.lora.preset != "none":
            adapt(encoder, config, seed)
            return encoder
    else:
        encoder = build_model(_bert_config(settings, config.text.max_tokens, tokenizer), seed=seed)
    freeze(encoder, settings.freeze)
    return encoder


def _bert_config(settings: EncoderSettings, max_tokens: int, tokenizer: Tokenizer) -> BertConfig:
    return BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_hidden_layers,
        num_attention_heads=settings.num_attention_heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=max(max_tokens, 16),
        type_vocab_size=1,
        hidden_dropout_prob=0.1 if settings.dropout is None else settings.dropout,
        attention_probs_dropout_prob=settings.attention_dropout,
        pad_token_id=tokenizer.pad_token_id,
        add_pooling_layer=False,
    )


def freeze(encoder: EncoderModel, part: str) -> None:
    """Freeze the "embeddings", the lower "half", "all" or "none" of an encoder.

    Gradients stop at the lowest trained layer, so frozen lower layers also save time.
    """
    last = encoder.config.num_hidden_layers
    highest = {"none": -1, "embeddings": 0, "half": last // 2, "all": last + 1}[part]
    for path, module in encoder.named_modules():
        arrays = [name for name, value in module.items() if isinstance(value, mx.array)]
        depths = {name: layer_index(f"{path}.{name}", encoder.config) for name in arrays}
        frozen = [name for name, depth in depths.items() if depth <= highest]
        module.freeze(recurse=False, keys=frozen)
