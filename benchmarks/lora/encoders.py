"""Adapters on BERT and ModernBERT: PEFT's on transformers' models beside ours on ours."""

import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import torch
import transformers
from mlx.utils import tree_flatten, tree_unflatten
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict

import mlx_encoders
from mlx_lora import load_adapter, save_adapter
from mlx_lora.peft_files import adapter_tensors

STEPS = 10
RATE = 1e-3
SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
         "intermediate_size": 64, "max_position_embeddings": 64, "num_labels": 3}  # fmt: skip
NO_DROPOUT = {
    "BERT": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "ModernBERT": {
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
        "sep_token_id": 2, "local_attention": 16, "embedding_dropout": 0.0,
    },
}  # fmt: skip
TARGETS = {"BERT": ["query", "value", "dense"], "ModernBERT": ["Wqkv", "Wo", "Wi"]}
EMBEDDINGS = {"BERT": ["word_embeddings", "query"], "ModernBERT": ["tok_embeddings", "Wqkv"]}
CASES: dict[str, dict[str, Any]] = {
    "LoRA": {}, "rsLoRA": {"use_rslora": True}, "DoRA": {"use_dora": True},
    "DoRA, rsLoRA": {"use_dora": True, "use_rslora": True}, "LoRA, embedding": {},
    "DoRA, embedding": {"use_dora": True}, "LoRA, bias all": {"bias": "all"},
}  # fmt: skip
COLUMNS = ("logits", "losses", "gradients", "tensors", "PEFT loads ours", "bytes kept")


def compare(family: str, case: str) -> list[float]:
    """Return the largest differences, in the order of `COLUMNS`; the last is 0 or 1."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = _make(family)
        theirs.save_pretrained(folder / "base")
        targets = (EMBEDDINGS if "embedding" in case else TARGETS)[family]
        config = LoraConfig(
            task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=targets, **CASES[case]
        )
        adapted = get_peft_model(theirs, config)
        for path, parameter in adapted.named_parameters():
            if parameter.requires_grad and "classifier" not in path:
                parameter.data += 0.05 * torch.randn_like(parameter)
        adapted.save_pretrained(folder / "start")
        ours, _ = mlx_encoders.load_task_model(folder / "base")
        load_adapter(ours, folder / "start", trainable=True)
        save_adapter(ours, folder / "again")
        kept = _same_bytes(folder / "start", folder / "again")
        found = _train(adapted.eval(), ours.eval())
        save_adapter(ours, folder / "trained")
        base = type(theirs).from_pretrained(folder / "base")
        again = PeftModel.from_pretrained(base, folder / "trained").eval()
        batch = _batch()
        with torch.no_grad():
            expected = again(**batch).logits.numpy()
        return [*found, _largest(_logits(ours, batch), expected), float(kept)]


def _make(family: str) -> transformers.PreTrainedModel:
    kind = {"BERT": "Bert", "ModernBERT": "ModernBert"}[family]
    config = getattr(transformers, f"{kind}Config")(**SIZES, **NO_DROPOUT[family])
    return getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()


def _batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 60, (6, 40), generator=generator)
    mask = torch.ones_like(ids)
    mask[2, 25:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _logits(model: Any, batch: dict[str, torch.Tensor]) -> mx.array:
    return model(*(mx.array(each.numpy()) for each in batch.values()))


def _train(theirs: Any, ours: Any) -> list[float]:
    """Return the differences of logits, losses, gradients and final tensors of ten steps."""
    batch, labels = _batch(), torch.tensor([0, 1, 2, 0, 1, 2])
    trained = [each for each in theirs.parameters() if each.requires_grad]
    their_optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.01)
    our_optimizer = optim.AdamW(learning_rate=RATE, weight_decay=0.01, bias_correction=True)
    targets = mx.array(labels.numpy())
    step = nn.value_and_grad(
        ours, lambda: nn.losses.cross_entropy(_logits(ours, batch), targets, reduction="mean")
    )
    logits = losses = gradients = 0.0
    for index in range(STEPS):
        outputs = theirs(**batch).logits
        loss = torch.nn.functional.cross_entropy(outputs, labels)
        their_optimizer.zero_grad()
        loss.backward()
        if index == 0:
            logits = _largest(_logits(ours, batch), outputs.detach().numpy())
        value, ours_grad = step()
        if index == 0:
            gradients = _gradient_difference(theirs, ours, ours_grad)
        their_optimizer.step()
        our_optimizer.update(ours, ours_grad)
        mx.eval(ours.parameters(), our_optimizer.state)
        losses = max(losses, abs(float(value) - loss.item()))
    return [logits, losses, gradients, _tensor_difference(theirs, ours)]


def _gradient_difference(theirs: PeftModel, ours: Any, gradients: dict) -> float:
    """Relative to the largest entry of each tensor, or to a hundredth of the largest of all."""
    by_path = {path: each.grad for path, each in theirs.named_parameters() if each.requires_grad}
    state = {path: by_path.get(path, each) for path, each in theirs.state_dict().items()}
    expected = _without_repetitions(get_peft_model_state_dict(theirs, state_dict=state))
    kept = dict(tree_flatten(ours.trainable_parameters()))
    ours.update(gradients)
    found = adapter_tensors(ours, "default")
    ours.update(tree_unflatten(list(kept.items())))
    largest = max(float(each.abs().max()) for each in expected.values())
    worst = 0.0
    for path, each in expected.items():
        size = max(float(each.abs().max()), largest / 100)
        difference = _largest(found[path.removeprefix("base_model.model.")], each.numpy())
        worst = max(worst, difference / size)
    return worst


def _tensor_difference(theirs: PeftModel, ours: Any) -> float:
    found = adapter_tensors(ours, "default")
    expected = _without_repetitions(get_peft_model_state_dict(theirs))
    assert {path.removeprefix("base_model.model.") for path in expected} == found.keys()
    return max(
        _largest(found[path.removeprefix("base_model.model.")], each.detach().numpy())
        for path, each in expected.items()
    )


def _same_bytes(first: Path, second: Path) -> bool:
    one, two = (mx.load(str(each / "adapter_model.safetensors")) for each in (first, second))
    one = _without_repetitions(one)
    return one.keys() == two.keys() and all(
        bytes(memoryview(one[key])) == bytes(memoryview(two[key])) for key in one
    )


def _without_repetitions(tensors: dict) -> dict:
    """Leave out the two more copies that PEFT has of the bias of a module that is saved whole."""
    marks = (".original_module.", ".modules_to_save.")
    return {key: each for key, each in tensors.items() if not any(mark in key for mark in marks)}


def _largest(found: mx.array, expected: np.ndarray) -> float:
    return float(np.abs(np.array(found) - expected).max())
