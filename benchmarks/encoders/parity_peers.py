"""Folders of mlx-encoders loaded by others, and known defects of mlx-embeddings, measured."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
import transformers

import mlx_encoders
from encoders.random_models import (
    FAMILIES,
    MODERNBERT_OPTIONS,
    Case,
    Family,
    counted,
    load_ours,
    make_inputs,
    random_model,
    run_mlx,
    run_torch,
)

# What the config of transformers 5 writes, and mlx-embeddings does not read.
NEW_KEYS = {key: MODERNBERT_OPTIONS[key] for key in ("layer_types", "rope_parameters")}


def round_trips(family: Family) -> Iterator[tuple[str, str, float | None]]:
    """Yield the differences of folders that mlx-encoders saved and others load.

    None where mlx-embeddings is not installed. Of the classes it has ModernBERT's masked LM and
    sequence classification, and both encoders.
    """
    for case in family.cases:
        theirs = random_model(family, case, 0.1)
        ours = load_ours(theirs, case)
        inputs = make_inputs(case, "right")
        expected = np.array(run_mlx(ours, inputs))
        with tempfile.TemporaryDirectory() as name:
            ours.save_pretrained(name)
            if isinstance(theirs, transformers.PreTrainedModel):
                again = type(theirs).from_pretrained(name).eval()
                with torch.no_grad():
                    found = run_torch(again, inputs).numpy()
                yield case.title, "transformers", _error(found, expected, inputs)
            if case.title in ("BertModel", "ModernBertModel", "ModernBertForMaskedLM",
                              "ModernBertForSequenceClassification"):  # fmt: skip
                yield case.title, "mlx-embeddings", _in_peer(Path(name), case, expected, inputs)


def defects() -> Iterator[tuple[str, str, str]]:
    """Yield four defects of mlx-embeddings: what, its result, ours; nothing if not installed."""
    if _peer_loader() is None:
        return
    family, case = FAMILIES[1], Case("ModernBertModel")
    inputs = make_inputs(case, "right")
    boolean = {**inputs, "attention_mask": inputs["attention_mask"].astype(bool)}
    for title, given, changes in (
        ("GELU by tanh instead of erf: hidden states", inputs, {}),
        ("boolean mask: hidden states", boolean, {}),
        ("config.json of transformers 5: hidden states", inputs, NEW_KEYS),
    ):
        case = Case("ModernBertModel", changes)
        theirs = random_model(family, case, 0.3)
        with torch.no_grad():
            expected = run_torch(theirs, inputs).numpy()
        with tempfile.TemporaryDirectory() as name:
            theirs.save_pretrained(name)
            peer = _hidden_of_peer(Path(name), given)
            mine = np.array(mlx_encoders.load_model(name)[0](**given))
        errors = (f"{_error(each, expected, inputs):.1e}" for each in (peer, mine))
        yield title, *errors
    yield "float16, 128 tokens, padded rows: not finite", *_share_of_nan()


def _share_of_nan() -> tuple[str, str]:
    case = Case("ModernBertModel")
    valid = np.arange(128) < np.array([[128], [40], [1]])
    inputs = {"input_ids": np.full(valid.shape, 5), "attention_mask": valid.astype(np.int64)}
    ours = load_ours(random_model(FAMILIES[1], case, 0.1), case)
    with tempfile.TemporaryDirectory() as name:
        ours.save_pretrained(name)
        peer = _hidden_of_peer(Path(name), inputs, mx.float16)
    ours.set_dtype(mx.float16)
    mine = np.array(run_mlx(ours, inputs))
    peer_share, share = (1 - np.isfinite(each).mean() for each in (peer, mine))
    return f"{100 * peer_share:.0f} %", f"{100 * share:.0f} %"


def _in_peer(
    folder: Path, case: Case, expected: np.ndarray, inputs: dict[str, np.ndarray]
) -> float | None:
    if _peer_loader() is None:
        return None
    if case.name.endswith("Model"):
        return _error(_hidden_of_peer(folder, inputs), expected, inputs)
    ids, mask = (mx.array(each) for each in inputs.values())
    found = np.array(_load_peer(folder)(ids, attention_mask=mask).pooler_output)
    if case.name.endswith("Classification"):  # it returns probabilities
        expected = np.array(mx.softmax(mx.array(expected), axis=-1))
    return _error(found, expected, inputs)


def _hidden_of_peer(
    folder: Path, inputs: dict[str, np.ndarray], dtype: mx.Dtype | None = None
) -> np.ndarray:
    model = _load_peer(folder)
    if dtype is not None:
        model.set_dtype(dtype)
    ids, mask = (mx.array(each) for each in inputs.values())
    # Its ModernBERT pools hidden states; those of all tokens are the inner model's.
    if hasattr(model, "model"):
        return np.array(model.model(ids, attention_mask=mask)["last_hidden_state"])
    return np.array(model(ids, attention_mask=mask).last_hidden_state)


def _load_peer(folder: Path) -> Any:
    loader = _peer_loader()
    assert loader is not None
    found = loader(folder)
    return found[0] if isinstance(found, tuple) else found


def _peer_loader() -> Any:
    try:
        from mlx_embeddings.utils import load_model
    except ImportError:
        return None
    return load_model


def real_model(folder: Path) -> Iterator[str]:
    """Yield lines on a pretrained MiniLM."""
    texts = ["A woman.", "Forest fire near La Ronge Sask. Canada", "13,000 people receive orders"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = transformers.AutoModel.from_pretrained(folder).eval()(**batch)
    ours, our_tokenizer = mlx_encoders.load(folder)
    padded = our_tokenizer.pad(our_tokenizer.encode(texts), multiple=1)
    same = bool((padded["input_ids"] == batch["input_ids"].numpy()).all())
    hidden = ours(**padded)
    difference = np.abs(np.array(hidden) - expected.last_hidden_state.numpy())
    yield f"token ids equal: {same}"
    yield f"hidden states: {difference[padded['attention_mask']].max():.1e}"
    assert isinstance(ours, mlx_encoders.BertModel)
    pooled = np.abs(np.array(ours.pooled(hidden)) - expected.pooler_output.numpy()).max()
    yield f"pooled output: {pooled:.1e}"


def _error(found: np.ndarray, expected: np.ndarray, inputs: dict[str, np.ndarray]) -> float:
    return float(np.abs(found - expected)[counted(expected.shape, inputs)].max())
