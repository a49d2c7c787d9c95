"""A text member as a Hugging Face folder.

BERT with cls pooling and a linear output alone is a `BertForSequenceClassification`. All others are
an encoder's folder, with the head and the linear model of the row in `head.safetensors`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_encoders import BertConfig, Tokenizer, build_model, load, load_task_model, save
from mlx_encoders.tasks import TASK_CLASSES
from mlx_heads import ClassificationHead, ClassNumberHead, MultilabelHead, RegressionHead
from mlx_kaggle.members.linear import LinearModel
from mlx_kaggle.members.model import Member, make_model
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.targets import Scaler
from mlx_tabtext import TableText

TASK_CLASS = "BertForSequenceClassification"
# transformers pools BERT through tanh(W x + b). With W of 2^-14 it is linear to the precision of
# float32 for |x| < 8: tanh(y) = y (1 - y^2 / 3 ...), and a power of two changes no digit.
POOLER_SCALE = 2.0**-14


def write_huggingface(folder: Path, member: Member, encoder: Any, competition: Competition) -> str:
    """Write weights and config of a member; return one line on what loads them."""
    why = _why_no_task_class(member)
    if not why:
        save(folder, _task_model(member, encoder, competition))
        return f"AutoModelForSequenceClassification of transformers loads it as {TASK_CLASS}"
    save(folder, encoder)
    parameters: Any = tree_flatten(member.model.parameters())
    arrays = {name: each for name, each in parameters if not name.startswith("encoder.")}
    if linear := member.linear:
        arrays |= {"linear.weight": mx.array(linear.weight), "linear.bias": mx.array(linear.bias)}
    mx.save_safetensors(str(folder / "head.safetensors"), arrays)
    values = {
        "head": member.head_arguments,
        "tensors": {
            "head.*": f"{type(member.model.head).__name__} of mlx-heads on the hidden states",
            "layer_mix.*": "LayerMix of mlx-heads: a learned mean of all layers",
            "linear.*": "(features + words, outputs) and (outputs,); added to the head's outputs",
        },
    }
    text = json.dumps(values, indent=1) + "\n"
    (folder / "head.json").write_text(text, "utf-8")
    return (
        f"AutoModel of transformers loads the encoder; the head is in head.safetensors, as "
        f"described in head.json, because {why}"
    )


def _why_no_task_class(member: Member) -> str:
    """Return why no class of transformers computes this member, or ""."""
    head, model = member.model.head, member.model
    if member.linear:
        return "it reads numbers or words beside the text"
    if "layer_mix" in model:
        return "it mixes all layers"
    if not isinstance(model.encoder.config, BertConfig) or head.pooling != "cls":
        return f"no class of transformers has a linear layer on {head.pooling} pooling"
    if "hidden_layer" in head:
        return "its head has a hidden layer"
    plain = ClassificationHead | MultilabelHead | RegressionHead
    if not isinstance(head, plain) or isinstance(head, ClassNumberHead):
        return f"transformers has no {type(head).__name__}"
    return ""


def _task_model(member: Member, encoder: Any, competition: Competition) -> Any:
    head = member.model.head
    weight, bias = np.array(head.output.weight), np.array(head.output.bias)
    kind = "regression"
    if isinstance(head, MultilabelHead):
        kind = "multi_label_classification"
    elif isinstance(head, ClassificationHead):
        kind = "single_label_classification"
        if head.num_classes == 2:  # one logit of the second class
            weight, bias = (np.concatenate([-each, each]) / 2 for each in (weight, bias))
    names = competition.classes or competition.targets
    config = replace(
        encoder.config,
        add_pooling_layer=True,
        num_labels=len(bias),
        id2label=dict(enumerate(names)),
        problem_type=kind,
    )
    model = build_model(config, model_class=TASK_CLASSES[TASK_CLASS])
    parameters: Any = tree_flatten(encoder.parameters())
    weights: dict[str, mx.array] = {
        f"bert.{name}": each for name, each in parameters if not name.startswith("pooler.")
    }
    size = config.hidden_size
    weights |= {
        "bert.pooler.dense.weight": POOLER_SCALE * mx.eye(size),
        "bert.pooler.dense.bias": mx.zeros((size,)),
        "classifier.weight": mx.array(weight / POOLER_SCALE),
        "classifier.bias": mx.array(bias),
    }
    model.load_weights(list(weights.items()))
    model.eval()
    return model


def load_huggingface(folder: Path, member: Member) -> Member:
    """Return the member as it is in the folder; `member` has the arguments of its head.

    The weights of a `BertForSequenceClassification` are turned back into those of the head.
    """
    values = json.loads((folder / "features.json").read_text("utf-8"))
    weights: Any = {}
    encoder: Any = None
    if (folder / "head.safetensors").is_file():
        encoder, tokenizer = load(folder)
        weights = mx.load(str(folder / "head.safetensors"))
        arguments = json.loads((folder / "head.json").read_text("utf-8"))["head"]
    else:
        task, _ = load_task_model(folder)
        encoder, tokenizer = task.bert, Tokenizer.from_folder(folder)  # type: ignore[attr-defined]
        arguments = member.head_arguments
        weight, bias = task.classifier.weight, task.classifier.bias  # type: ignore[attr-defined]
        if len(bias) == 2 and arguments["task"] == "binary":
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        weights = {"head.output.weight": weight * POOLER_SCALE, "head.output.bias": bias}
    model = make_model(encoder, arguments)
    linear = None
    if "linear.weight" in weights:
        linear = LinearModel.from_dict(values, folder / "head.safetensors", "linear.")
    found: Any = {name: each for name, each in weights.items() if not name.startswith("linear.")}
    found |= {f"encoder.{name}": each for name, each in tree_flatten(encoder.parameters())}
    model.load_weights(list(found.items()))
    model.eval()
    text = TableText.from_dict(
        json.loads((folder / "text.json").read_text("utf-8")), count_tokens=tokenizer.count
    )
    path = folder / "scaler.json"
    scaler = Scaler.from_dict(json.loads(path.read_text("utf-8"))) if path.is_file() else None
    return Member(model, tokenizer, text, linear, scaler, arguments)
