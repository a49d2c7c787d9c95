"""Make the parity fixtures of mlx-encoders' task models, and those of NeoBERT.

Run in an environment with torch, transformers and safetensors:

    python tools/make_fixtures_tasks.py

Run make_fixtures_encoders.py first: the encoders of BERT and ModernBERT are its. Each file of
packages/mlx-encoders/tests/fixtures/tasks has the tensors of a head, the inputs, the logits for
right and left padding, and gradients of the head and of two tensors of the encoder. Made with
transformers 5.23.0 and torch 2.13.0.
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from make_fixtures_encoders import FIXTURES, make_inputs, randomize
from neobert_torch import NeoBERT, NeoBERTForSequenceClassification, NeoBERTLMHead

OUT = FIXTURES / "tasks"
NEOBERT = {
    "model_type": "neobert",
    "architectures": ["NeoBERTLMHead"],
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "norm_eps": 1e-5,
    "max_length": 64,
    "pad_token_id": 0,
}
UNTIED = {"tie_word_embeddings": False}
UNBIASED = {"decoder_bias": False}
CASES = [
    ("BertForMaskedLM", {}),
    ("BertForMaskedLM", UNTIED),
    ("BertForSequenceClassification", {"num_labels": 3}),
    ("BertForTokenClassification", {"num_labels": 5}),
    ("BertForQuestionAnswering", {}),
    ("BertForMultipleChoice", {}),
    ("BertForNextSentencePrediction", {}),
    ("ModernBertForMaskedLM", {}),
    ("ModernBertForMaskedLM", UNTIED),
    ("ModernBertForMaskedLM", UNBIASED),
    ("ModernBertForSequenceClassification", {"num_labels": 3}),
    ("ModernBertForSequenceClassification", {"num_labels": 3, "classifier_pooling": "mean"}),
    ("ModernBertForTokenClassification", {"num_labels": 5}),
    (
        "ModernBertForTokenClassification",
        {"num_labels": 5, "classifier_bias": True, "classifier_activation": "silu"},
    ),
    ("ModernBertForQuestionAnswering", {}),
    ("ModernBertForMultipleChoice", {}),
]
# Tensors of the encoder whose gradients are kept: one before and one after the attention.
WATCHED = {
    "Bert": ("embeddings.LayerNorm.weight", "encoder.layer.1.output.dense.weight"),
    "ModernBert": ("embeddings.norm.weight", "layers.3.mlp.Wo.weight"),
    "NeoBERT": (
        "transformer_encoder.0.attention_norm.weight",
        "transformer_encoder.1.ffn.w3.weight",
    ),
}


def logits_of(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits; (..., 2) of start and end for question answering."""
    output = model(**inputs)
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return output.logits


def keep(model: torch.nn.Module, call, prefix: str, watched: tuple[str, ...], choices: int) -> dict:
    """Return head, inputs, logits and, with right padding and a fixed cotangent, gradients."""
    kept = {
        f"head.{name}": value for name, value in model.state_dict().items()
        if not name.startswith(prefix)
    }  # fmt: skip
    for padding in ("left", "right"):
        inputs = make_inputs(3, 14, padding, 11)
        if choices:
            inputs = {name: torch.stack([each, each.flip(0)], 1) for name, each in inputs.items()}
        model.zero_grad()
        logits = call(model, inputs)
        cotangent = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
        if logits.ndim == 3 and not choices:  # of tokens: padding counts for nothing
            cotangent = cotangent * inputs["attention_mask"][..., None]
        kept |= {f"{padding}.{name}": value for name, value in inputs.items()}
        kept |= {f"{padding}.logits": logits, f"{padding}.cotangent": cotangent}
    (logits * cotangent).sum().backward()
    for name, value in model.named_parameters():
        is_watched = name.removeprefix(prefix) in watched
        if value.grad is not None and (is_watched or not name.startswith(prefix)):
            kept[f"gradient.{name}"] = value.grad
    return {name: value.detach().contiguous().clone() for name, value in kept.items()}


def make_task(name: str, changes: dict) -> None:
    family = "ModernBert" if name.startswith("Modern") else "Bert"
    folder = FIXTURES / family.lower()
    config = transformers.AutoConfig.from_pretrained(folder, **changes)
    model = getattr(transformers, name)(config).eval()
    prefix = "bert." if family == "Bert" else "model."
    encoder = transformers.AutoModel.from_pretrained(folder)
    randomize(model)
    missing = model.get_submodule(prefix[:-1]).load_state_dict(encoder.state_dict(), strict=False)
    assert not missing.missing_keys
    model.tie_weights()
    found = keep(
        model,
        lambda model, inputs: logits_of(model, inputs),
        prefix,
        WATCHED[family],
        choices=2 if "Choice" in name else 0,
    )
    suffix = "".join(f"-{value}" for value in changes.values() if isinstance(value, str))
    suffix += {id(UNTIED): "-untied", id(UNBIASED): "-unbiased"}.get(id(changes), "")
    values = {**config.to_dict(), "architectures": [name]}
    del values["_name_or_path"]  # a path of this machine
    (OUT / f"{name}{suffix}.json").write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    save_file(found, OUT / f"{name}{suffix}.safetensors")


def make_neobert() -> None:
    folder = FIXTURES / "neobert"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(NEOBERT, indent=2) + "\n")
    language_model = NeoBERTLMHead(NEOBERT).eval()
    randomize(language_model)
    state = {name: value.contiguous() for name, value in language_model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    make_neobert_cases(language_model.model, folder)

    classifier = NeoBERTForSequenceClassification({**NEOBERT, "num_labels": 3}).eval()
    randomize(classifier)
    classifier.model.load_state_dict(language_model.model.state_dict())
    labels = {"id2label": {index: f"LABEL_{index}" for index in range(3)}}
    for model, changes in ((language_model, {}), (classifier, labels)):
        found = keep(
            model,
            lambda model, inputs: model(inputs["input_ids"], inputs["attention_mask"]),
            "model.",
            WATCHED["NeoBERT"],
            choices=0,
        )
        name = type(model).__name__
        values = {**NEOBERT, **changes, "architectures": [name]}
        (OUT / f"{name}.json").write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
        save_file(found, OUT / f"{name}.safetensors")


def make_neobert_cases(model: NeoBERT, folder: Path) -> None:
    """Write all hidden states for each padding, and the gradients of every weight for left."""
    for padding in ("none", "right", "left"):
        inputs = make_inputs(3, 22, padding, 4)
        valid = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        model.zero_grad()
        states = model(inputs["input_ids"], valid)
        cotangent = torch.randn(states[-1].shape, generator=torch.Generator().manual_seed(9))
        cotangent = cotangent * valid[..., None]
        (states[-1] * cotangent).sum().backward()
        found = {**inputs, "cotangent": cotangent}
        found |= {f"hidden.{index}": state for index, state in enumerate(states)}
        if padding == "left":
            found |= {f"gradient.{name}": each.grad for name, each in model.named_parameters()}
        save_file(
            {name: value.detach().contiguous() for name, value in found.items()},
            folder / f"{padding}_padding.safetensors",
        )


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name, changes in CASES:
        make_task(name, changes)
    make_neobert()
