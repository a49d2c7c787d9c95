"""An encoder and a head as one module, and the folder it is saved in."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_encoders import (
    BertConfig,
    BertModel,
    EncoderModel,
    Tokenizer,
    build_model,
    load,
    load_model,
    save,
)
from mlx_fastcpu import patch_nn
from mlx_heads import ClassificationHead, RegressionHead, TargetScaler
from mlx_kaggle._atomic import write_atomic
from mlx_kaggle.config import RunConfig
from mlx_kaggle.errors import RunError
from mlx_kaggle.members.linear import LinearModel
from mlx_kaggle.tables.features import HeadFeatures
from mlx_kaggle.tables.words import WordFeatures
from mlx_tabtext import TableText
from mlx_trainer import check_manifest, write_manifest

Head = ClassificationHead | RegressionHead

# All that is written into the folder of one model, by whomever; the manifest names what is there.
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
    "optimizer.txt",
    "history.json",
    "validation.npy",
)
REQUIRED = ("member.json", "head.safetensors", "encoder/config.json", "encoder/model.safetensors")


class TextModel(nn.Module):
    """Encoder and head: what they give is added to the output of a linear model of the row."""

    def __init__(self, encoder: EncoderModel, head: Head):
        super().__init__()
        self.encoder = encoder
        self.head = head

    def __call__(
        self,
        input_ids: mx.array,
        attention_mask: mx.array,
        features: mx.array | None = None,
        linear: mx.array | None = None,
    ) -> mx.array:
        """Return (B,) for binary and regression, (B, classes) for multiclass.

        `input_ids` and `attention_mask` are (B, L), `features` (B, F), `linear` as the result.
        """
        hidden = self.encoder(input_ids, attention_mask)
        outputs = self.head(hidden, attention_mask, features)
        return outputs if linear is None else linear + outputs


def make_model(encoder: EncoderModel, head: Head) -> TextModel:
    """An encoder and a head as one model, whose layers on a CPU are those of mlx-fastcpu."""
    return patch_nn(TextModel(encoder, head))


@dataclass
class Member:
    """One trained model with everything needed to predict from a table."""

    model: TextModel
    tokenizer: Tokenizer
    text: TableText
    linear: LinearModel | None
    scaler: TargetScaler | None

    @property
    def features(self) -> HeadFeatures | None:
        """What feeds the head beside the text."""
        return self.linear.features if self.linear else None

    def save(self, folder: Path, head_arguments: dict[str, Any]) -> None:
        """Write `encoder/` (Hugging Face layout), head, linear model, `member.json`, manifest."""
        from mlx.utils import tree_flatten

        folder.mkdir(parents=True, exist_ok=True)
        save(folder / "encoder", self.model.encoder, self.tokenizer)
        _save_arrays(folder / "head.safetensors", dict(tree_flatten(self.model.head.parameters())))
        words = None
        if self.linear:
            words = self.linear.words
            arrays = {"weight": mx.array(self.linear.weight), "bias": mx.array(self.linear.bias)}
            _save_arrays(folder / "linear.safetensors", arrays)
        values = {
            "head": head_arguments,
            "text": self.text.to_dict(),
            "features": self.features.to_dict() if self.features else None,
            "words": words.to_dict() if words else None,
            "scaler": self.scaler.to_dict() if self.scaler else None,
        }
        text = json.dumps(values, indent=1, ensure_ascii=False)
        write_atomic(folder / "member.json", lambda path: path.write_text(text, "utf-8"))
        # Last: it is what says that this model is whole.
        write_manifest(folder, (name for name in MEMBER_FILES[1:] if (folder / name).is_file()))

    @classmethod
    def load(cls, folder: Path) -> "Member":
        """Read what `save` wrote.

        Raises `RunError` when the model was not saved to the end, `ChangedFileError` when a file is
        not what it was then.
        """
        if not (folder / "manifest.json").is_file():
            raise RunError(f"{folder}: no manifest.json; this model was not trained to the end")
        check_manifest(folder, REQUIRED)
        values = json.loads((folder / "member.json").read_text("utf-8"))
        encoder, tokenizer = load(folder / "encoder")
        head = make_head(values["head"])
        head.load_weights(str(folder / "head.safetensors"))
        model = make_model(encoder, head)
        model.eval()
        mx.eval(model.parameters())
        return cls(
            model,
            tokenizer,
            TableText.from_dict(values["text"], count_tokens=tokenizer.count),
            _load_linear(folder, values),
            TargetScaler.from_dict(values["scaler"]) if values["scaler"] else None,
        )


def _load_linear(folder: Path, values: dict[str, Any]) -> LinearModel | None:
    features, words = values["features"], values["words"]
    if features is None and words is None:
        return None
    arrays = mx.load(str(folder / "linear.safetensors"))
    assert isinstance(arrays, dict)
    return LinearModel(
        HeadFeatures.from_dict(features) if features else None,
        WordFeatures.from_dict(words) if words else None,
        np.array(arrays["weight"]),
        np.array(arrays["bias"]),
    )


def _save_arrays(path: Path, arrays: dict[str, mx.array]) -> None:
    write_atomic(path, lambda temporary: mx.save_safetensors(str(temporary), arrays))


def make_encoder(config: RunConfig, tokenizer: Tokenizer, seed: int) -> EncoderModel:
    """A pretrained encoder with the dropout and freezing asked for, or a small fresh one."""
    settings = config.encoder
    if settings.path:
        encoder, _ = load_model(
            settings.path, dropout=settings.dropout, attention_dropout=settings.attention_dropout
        )
    else:
        dropout = 0.1 if settings.dropout is None else settings.dropout
        encoder = build_model(
            BertConfig(
                vocab_size=tokenizer.vocab_size,
                hidden_size=settings.hidden_size,
                num_hidden_layers=settings.num_hidden_layers,
                num_attention_heads=settings.num_attention_heads,
                intermediate_size=settings.intermediate_size,
                max_position_embeddings=max(config.text.max_tokens, 16),
                type_vocab_size=1,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=settings.attention_dropout,
                pad_token_id=tokenizer.pad_token_id,
                add_pooling_layer=False,
            ),
            seed=seed,
        )
    freeze(encoder, settings.freeze)
    return encoder


def freeze(encoder: EncoderModel, part: str) -> None:
    """Take "embeddings", the lower "half" or "all" of an encoder out of training; "none": nothing.

    Gradients stop at the lowest trained layer, so frozen lower layers also save time.
    """
    if part == "all":
        encoder.freeze()
    elif part != "none":
        encoder.embeddings.freeze()
    if part == "half":
        layers = encoder.encoder.layer if isinstance(encoder, BertModel) else encoder.layers
        for layer in layers[: len(layers) // 2]:
            layer.freeze()


def head_arguments(
    config: RunConfig, task: str, classes: int, hidden_size: int, features: int, seed: int
) -> dict[str, Any]:
    """Constructor arguments of the head, JSON-ready, kept in `member.json`."""
    settings = config.head
    return {
        "kind": "regression" if task == "regression" else "classification",
        "hidden_size": hidden_size,
        **({} if task == "regression" else {"num_classes": classes}),
        "pooling": settings.pooling,
        "dropout": settings.dropout,
        "hidden_layer_size": settings.hidden_size,
        "num_features": features,
        "feature_size": settings.feature_size,
        "seed": seed,
    }


def make_head(arguments: dict[str, Any]) -> Head:
    """Build the head `head_arguments` describes."""
    arguments = dict(arguments)
    kind = arguments.pop("kind")
    return (RegressionHead if kind == "regression" else ClassificationHead)(**arguments)
