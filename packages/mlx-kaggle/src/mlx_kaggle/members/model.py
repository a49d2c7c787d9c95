"""The text model, an encoder with a head, and the folder of a trained member."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

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
from mlx_heads import (
    CoralHead,
    CumulativeLinkHead,
    GaussianHead,
    LayerMix,
    Objective,
    PooledHead,
    QuantileHead,
    get_objective,
)
from mlx_kaggle import RunError
from mlx_kaggle.config import EncoderSettings, RunConfig
from mlx_kaggle.members.features import HeadFeatures
from mlx_kaggle.members.linear import LinearModel
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.targets import Scaler
from mlx_kaggle.tables.windows import WindowScaler
from mlx_tabtext import TableText
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
    "optimizer.txt",
    "history.json",
    "validation.npy",
)
# softplus of this is nearly 0: thresholds that the linear model already has.
NO_STEP = -4.0
REQUIRED = ("member.json", "head.safetensors", "encoder/config.json", "encoder/model.safetensors")


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
        input_ids: mx.array,
        attention_mask: mx.array,
        features: mx.array | None = None,
        linear: mx.array | None = None,
        history: mx.array | None = None,
    ) -> mx.array:
        """Return the outputs of the head, plus `linear`.

        `input_ids` and `attention_mask` are (B, L), `features` (B, F), `history` (B, lookback).
        `linear` is added, so it has the shape of the outputs or broadcasts to it.
        """
        if "layer_mix" in self:
            hidden = self.layer_mix(self.encoder.hidden_states(input_ids, attention_mask))
        else:
            hidden = self.encoder(input_ids, attention_mask)
        past = {} if history is None else {"history": history}
        outputs = self.head(hidden, attention_mask, features, **past)
        return outputs if linear is None else linear + outputs


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

    @property
    def features(self) -> HeadFeatures | None:
        """The numeric and categorical input of the head."""
        return self.linear.features if self.linear else None

    def save(self, folder: Path) -> None:
        """Write `encoder/` (Hugging Face layout), head, linear model, `member.json`, manifest."""
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / "encoder", self.model.encoder, self.tokenizer)
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
        encoder, tokenizer = load(folder / "encoder")
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
    if part == "all":
        encoder.freeze()
    elif part != "none":
        encoder.embeddings.freeze()
    if part == "half":
        layers = encoder.encoder.layer if isinstance(encoder, BertModel) else encoder.layers
        for layer in layers[: len(layers) // 2]:
            layer.freeze()


def objective_of(config: RunConfig, competition: Competition) -> Objective:
    """Return the head and the loss of a run, as `get_objective`."""
    name = config.loss.name
    # The targets are scaled logarithms already, which the squared error is then the loss of.
    return get_objective(competition.task, "mse" if name == "msle" else name)


def head_arguments(
    config: RunConfig, competition: Competition, hidden_size: int, num_features: int, seed: int
) -> dict[str, Any]:
    """Return the arguments of `make_model`, as JSON for `member.json`."""
    settings = config.head
    objective = objective_of(config, competition)
    options: dict[str, Any] = {}
    if "levels" in objective.head_options or objective.head is QuantileHead:
        options["levels"] = quantile_levels(config)
    if competition.forecast:
        # The windows are normalized by the table.
        options |= {"history_length": competition.forecast.lookback, "normalize": False}
    return {
        "task": competition.task,
        "loss": objective.name,
        "hidden_size": hidden_size,
        "size": competition.outputs,
        "pooling": settings.pooling,
        "layer_mix": settings.layer_mix,
        "dropout": settings.dropout,
        "hidden_layer_size": settings.hidden_size,
        "num_features": num_features,
        "feature_size": settings.feature_size,
        "seed": seed,
        **options,
    }


def quantile_levels(config: RunConfig) -> tuple[float, float, float]:
    """Return the levels of lower bound, median and upper bound."""
    tail = (1 - config.loss.coverage) / 2
    return tail, 0.5, 1 - tail


def start_from_linear(head: PooledHead, residual: np.ndarray | None) -> None:
    """Let an untrained head add (nearly) nothing to the linear model.

    Its distribution gets the spread of the linear model: `residual` are the standard deviations
    (targets,) of the cross-fitted errors, `None` for classes.
    """
    levels = head.loss_options.get("levels")
    if isinstance(head, CoralHead):
        head.biases = mx.zeros_like(head.biases)
    elif isinstance(head, CumulativeLinkHead):
        steps = np.full(head.threshold_steps.shape, NO_STEP, np.float32)
        steps[0] = 0
        head.threshold_steps = mx.array(steps)
    elif residual is not None and levels:
        quantiles = np.array([NormalDist().inv_cdf(level) for level in levels]) * residual[:, None]
        steps = np.log(np.expm1(np.diff(quantiles)))
        bias = np.concatenate([quantiles[:, :1], steps], 1).ravel()
        head.output.bias = mx.array(bias.astype(np.float32))
    elif residual is not None and is_gaussian(head):
        bias = np.stack([np.zeros_like(residual), 2 * np.log(residual)], 1).ravel()
        head.output.bias = mx.array(bias.astype(np.float32))
    else:
        head.output.bias = mx.zeros_like(head.output.bias)


def is_gaussian(head: PooledHead) -> bool:
    """Whether the outputs are means and log variances."""
    return isinstance(head, GaussianHead) or getattr(head, "distribution", None) == "gaussian"
