"""Make the parity fixtures of mlx-encoders' shrinking and distillation, with torch.

Run in an environment with torch, transformers and mlx-encoders, after make_fixtures_encoders.py and
make_fixtures_tasks.py, whose encoders these are:

    python tools/make_fixtures_shrinking.py

Heads and units are gated by hooks, which shares nothing with how mlx-encoders computes importance
and removes them. The round trips at the end write nothing: they raise when transformers reads a
smaller folder differently, or accepts one with fewer heads. Made with transformers 5.23.0 and torch
2.13.0.
"""

import tempfile

import mlx.core as mx
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import mlx_encoders
from make_fixtures_encoders import FIXTURES, make_inputs
from make_fixtures_tasks import NEOBERT
from neobert_torch import NeoBERT

OUT = FIXTURES / "shrinking"
# Layers to keep, and the modules that read the outputs of heads and of units.
FAMILIES = {
    "bert": ("encoder.layer", [1], "attention.output.dense", "output.dense"),
    "modernbert": ("layers", [0, 3], "attn.Wo", "mlp.Wo"),
    "neobert": ("transformer_encoder", [1], "wo", "ffn.w3"),
}
HEADS, UNITS = 2, 16  # to keep


def load_encoder(name: str) -> torch.nn.Module:
    if name != "neobert":
        return transformers.AutoModel.from_pretrained(FIXTURES / name).eval()
    model = NeoBERT(NEOBERT).eval()
    state = load_file(FIXTURES / name / "model.safetensors")
    kept = {key[6:]: value for key, value in state.items() if key.startswith("model.")}
    model.load_state_dict(kept)
    return model


def last_state(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    if isinstance(model, NeoBERT):
        return model(inputs["input_ids"], inputs["attention_mask"])[-1]
    return model(**inputs).last_hidden_state


def gated(reader: torch.nn.Module, gate: torch.Tensor, width: int):
    """Multiply the input of a module by the gate of each unit, `width` columns wide."""
    return reader.register_forward_pre_hook(
        lambda _, arguments: (arguments[0] * gate.repeat_interleave(width), *arguments[1:])
    )


def make_family(name: str) -> None:
    path, layers, out, down = FAMILIES[name]
    model = load_encoder(name)
    blocks = model.get_submodule(path)
    inputs = make_inputs(3, 14, "right", 7)
    cotangent = torch.randn(3, 14, 32, generator=torch.Generator().manual_seed(5))
    cotangent = cotangent * inputs["attention_mask"][..., None]
    found = {**inputs, "cotangent": cotangent}
    for kind, reader, keep in (("heads", out, HEADS), ("units", down, UNITS)):
        readers = [block.get_submodule(reader) for block in blocks]
        inner = readers[0].in_features
        count = 4 if kind == "heads" else inner
        gates = [torch.ones(count, requires_grad=True) for _ in readers]
        hooks = [gated(*pair, inner // count) for pair in zip(readers, gates, strict=True)]
        (last_state(model, inputs) * cotangent).sum().backward()
        importance = torch.stack([gate.grad.abs() for gate in gates])
        for hook in hooks:
            hook.remove()
        gates = []
        for scores in importance:
            gate = torch.zeros(count)
            gate[scores.topk(keep).indices] = 1
            gates.append(gate)
        hooks = [gated(*pair, inner // count) for pair in zip(readers, gates, strict=True)]
        found |= {f"{kind}.importance": importance, f"{kind}.hidden": last_state(model, inputs)}
        for hook in hooks:
            hook.remove()
    if name != "neobert":
        model.config.num_hidden_layers = len(layers)
    if name == "modernbert":
        model.config.layer_types = [model.config.layer_types[index] for index in layers]
    kept = torch.nn.ModuleList(blocks[index] for index in layers)
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, kept)
    found |= {"layers": torch.tensor(layers), "layers.hidden": last_state(model, inputs)}
    save(name, found)


def make_distillation() -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 6, 4, generator=generator) * 3
    labels, weight = torch.tensor([0, 3, 1, 2, 2, 0]), torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 3.0])
    student.requires_grad_()
    T, alpha = 3.0, 0.3
    soft = F.kl_div((student / T).log_softmax(-1), (teacher / T).softmax(-1), reduction="none").sum(
        -1
    )
    hard = F.cross_entropy(student, labels, reduction="none")
    losses = alpha * T**2 * soft + (1 - alpha) * hard
    loss = (losses * weight).sum() / weight.sum()
    loss.backward()
    found = {"student": student, "teacher": teacher, "labels": labels, "weight": weight}
    save("distillation", {**found, "loss": loss, "gradient": student.grad})


def save(name: str, found: dict[str, torch.Tensor]) -> None:
    OUT.mkdir(exist_ok=True)
    tensors = {key: value.detach().contiguous().clone() for key, value in found.items()}
    save_file(tensors, OUT / f"{name}.safetensors")


def check_round_trips() -> None:
    """Raise if transformers reads fewer layers, units or tokens differently from mlx-encoders."""
    texts = ["forest fire near La Ronge", "residents asked to shelter in place"]
    tokenizer = mlx_encoders.train_tokenizer([*texts, "many other words " * 3], vocab_size=200)
    for name, (_, layers, *_) in FAMILIES.items():
        if name == "neobert":
            continue
        config = mlx_encoders.load_config(FIXTURES / name)
        values = config.to_dict() | {
            "vocab_size": tokenizer.vocab_size,
            "max_position_embeddings": 64,
        }
        model = mlx_encoders.build_model(type(config).from_dict(values))
        smaller = mlx_encoders.prune_units(mlx_encoders.keep_layers(model, layers), UNITS)
        smaller, trimmed, _ = mlx_encoders.trim_vocabulary(smaller, tokenizer, texts)
        with tempfile.TemporaryDirectory() as folder:
            smaller.save_pretrained(folder, trimmed)
            theirs = transformers.AutoModel.from_pretrained(folder).eval()
            their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            encoded = their_tokenizer(texts, padding=True, return_tensors="pt")
            ours = trimmed.pad(trimmed.encode(texts), encoded["input_ids"].shape[1])
            assert ours["input_ids"].tolist() == encoded["input_ids"].tolist()
            inputs = {key: encoded[key] for key in ("input_ids", "attention_mask")}
            with torch.no_grad():
                expected = theirs(**inputs).last_hidden_state.numpy()
            difference = np.abs(np.array(smaller(**ours)) - expected)[ours["attention_mask"]].max()
            assert difference < 1e-5, difference
            mlx_encoders.save(folder, mlx_encoders.prune_heads(model, HEADS), tokenizer)
            try:
                transformers.AutoModel.from_pretrained(folder)
            except RuntimeError:
                pass
            else:
                raise AssertionError(f"transformers accepts a {name} with fewer heads")
        print(name, "read by transformers, difference", difference)


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    for family in FAMILIES:
        make_family(family)
    make_distillation()
    check_round_trips()
