"""Random models of PyTorch and the same in mlx-encoders, for `benchmarks/encoders_parity.py`."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import mlx_encoders
from neobert_torch import NeoBERT, NeoBERTForSequenceClassification, NeoBERTLMHead

LENGTH = 40  # of ModernBERT more than twice its window of 2 * 8 + 1
SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
           "sep_token_id": 2}  # fmt: skip
NEOBERT = {**SIZES, "model_type": "neobert", "intermediate_size": 44, "norm_eps": 1e-5,
           "max_length": 64, "pad_token_id": 0}  # fmt: skip
BERT_OPTIONS = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3, "type_vocab_size": 3}
MODERNBERT_OPTIONS = {
    "attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True,
    "classifier_activation": "silu", "hidden_activation": "gelu_pytorch_tanh", "norm_eps": 1e-3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A class, the fields that differ from the defaults, and what to call that."""

    name: str
    changes: dict = field(default_factory=dict)
    mark: str = ""

    @property
    def title(self) -> str:
        """The class, and what distinguishes the case."""
        return f"{self.name} ({self.mark})" if self.mark else self.name

    @property
    def pools_padding(self) -> bool:
        """Whether transformers classifies the state of padding on the left."""
        pooling = self.changes.get("classifier_pooling")
        return self.name == "ModernBertForSequenceClassification" and pooling != "mean"


@dataclass(frozen=True)
class Family:
    """An encoder, how PyTorch makes a model of it, and its cases; the first is the encoder."""

    make: Callable[[Case], torch.nn.Module]
    cases: tuple[Case, ...]


def random_model(family: Family, case: Case, spread: float) -> torch.nn.Module:
    """Return a model with normal weights, and gains around 1, in evaluation mode."""
    model = family.make(case)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = spread * torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + noise if parameter.ndim == 1 and parameter.data.mean() == 1 else noise
    return model.eval()


def load_ours(theirs: torch.nn.Module, case: Case) -> mlx_encoders.PretrainedModel:
    """Return our model of the folder that PyTorch's model is saved to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if isinstance(theirs, transformers.PreTrainedModel):
            theirs.save_pretrained(folder)
        else:
            state = {name: value.contiguous() for name, value in theirs.state_dict().items()}
            save_file(state, folder / "model.safetensors")
            labels = {str(i): str(i) for i in range(case.changes.get("num_labels", 2))}
            values = {**NEOBERT, "architectures": [case.name], "id2label": labels}
            (folder / "config.json").write_text(json.dumps(values))
        is_task = case.name in mlx_encoders.TASK_CLASSES
        load = mlx_encoders.load_task_model if is_task else mlx_encoders.load_model
        model = load(folder)[0]
        mx.eval(model.parameters())
        return model


def make_inputs(case: Case, padding: str) -> dict[str, np.ndarray]:
    """Return ids and mask of three rows; with padding, of 40, 20 and one token."""
    generator = np.random.default_rng(3)
    ids = generator.integers(3, 50, (3, LENGTH))
    lengths = {"none": [LENGTH] * 3}.get(padding, [LENGTH, LENGTH // 2, 1])
    valid = np.arange(LENGTH) < np.array(lengths)[:, None]
    valid = valid[:, ::-1] if padding == "left" else valid
    found = {"input_ids": ids * valid, "attention_mask": valid.astype(np.int64)}
    if case.name.endswith("Choice"):
        found = {name: np.stack([each, each[::-1]], axis=1) for name, each in found.items()}
    return found


def run_torch(model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> torch.Tensor:
    """Return logits or hidden states; (..., 2) of start and end for question answering."""
    tensors = {name: torch.from_numpy(each.copy()) for name, each in inputs.items()}
    if not isinstance(model, transformers.PreTrainedModel):
        found = model(*tensors.values())
        return found[-1] if isinstance(found, list) else found
    found = model(**tensors)
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], dim=-1)
    return found.logits if "logits" in found else found.last_hidden_state


def run_mlx(model: mlx_encoders.PretrainedModel, inputs: dict[str, np.ndarray]) -> mx.array:
    """Return the same as `run_torch`."""
    found = model(**inputs)
    return mx.stack(found, axis=-1) if isinstance(found, tuple) else found


def counted(shape: tuple[int, ...], inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return which entries of an output count: those of padding do not."""
    mask = inputs["attention_mask"].astype(bool)
    if len(shape) == 3 and shape[:2] == mask.shape:
        return np.broadcast_to(mask[..., None], shape)
    return np.ones(shape, bool)


def _transformers(config_class: type, values: dict) -> Callable[[Case], torch.nn.Module]:
    def make(case: Case) -> torch.nn.Module:
        return getattr(transformers, case.name)(config_class(**{**values, **case.changes}))

    return make


def _neobert(case: Case) -> torch.nn.Module:
    kinds = (NeoBERT, NeoBERTLMHead, NeoBERTForSequenceClassification)
    kind = next(each for each in kinds if each.__name__ == case.name)
    return kind({**NEOBERT, **case.changes})


def _tasks(family: str, options: dict) -> tuple[Case, ...]:
    names = ("Model", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering",
             "ForMultipleChoice")  # fmt: skip
    found = [Case(family + name) for name in names]
    found.append(Case(f"{family}ForMaskedLM", {"tie_word_embeddings": False}, "untied"))
    found.append(Case(f"{family}ForMaskedLM", options, "other options"))
    found.append(Case(f"{family}ForTokenClassification", options, "other options"))
    found.append(Case(f"{family}ForSequenceClassification", {"num_labels": 3}))
    return tuple(found)


FAMILIES = (
    Family(
        _transformers(transformers.BertConfig, {**SIZES, "intermediate_size": 48}),
        (*_tasks("Bert", BERT_OPTIONS), Case("BertForNextSentencePrediction")),
    ),
    Family(
        _transformers(
            transformers.ModernBertConfig,
            {**SIZES, **SPECIAL, "intermediate_size": 24, "local_attention": 16},
        ),
        (
            *_tasks("ModernBert", MODERNBERT_OPTIONS),
            Case("ModernBertForMaskedLM", {"decoder_bias": False}, "no decoder bias"),
            Case("ModernBertForSequenceClassification", {"classifier_pooling": "mean"}, "mean"),
        ),
    ),
    Family(
        _neobert,
        (
            Case("NeoBERT"),
            Case("NeoBERTLMHead"),
            Case("NeoBERTForSequenceClassification", {"num_labels": 3}),
        ),
    ),
)
