"""Make the reference of mlx-lora's tests with PEFT: adapters before and after 10 steps of AdamW.

Run in an environment with torch and peft:

    python tools/make_fixtures_lora.py

Writes packages/mlx-lora/tests/fixtures/peft; made with peft 0.21.2 and torch 2.13.0. Each case has
`start/` and `end/` as `save_pretrained` writes them, and `case.safetensors`: losses, gradients of
the first step by the names of the files, logits before and after, and merged weights.
"""

import json
import shutil
from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

FIXTURES = Path(__file__).parents[1] / "packages/mlx-lora/tests/fixtures/peft"
EVERYTHING = ["embedding", "conv", "conv2d", "query", "value", "output"]
LINEAR = ["query", "value", "dense"]
CASES = {
    "lora": LoraConfig(r=3, lora_alpha=6, target_modules=LINEAR),
    "rslora": LoraConfig(r=4, lora_alpha=6, target_modules=LINEAR, use_rslora=True),
    "dora": LoraConfig(r=3, lora_alpha=6, target_modules=LINEAR, use_dora=True),
    "pissa": LoraConfig(r=3, lora_alpha=6, target_modules=LINEAR, init_lora_weights="pissa"),
    "olora": LoraConfig(r=3, lora_alpha=6, target_modules=LINEAR, init_lora_weights="olora"),
    "lora_bias": LoraConfig(r=3, lora_alpha=6, target_modules=["query", "dense"], lora_bias=True),
    "bias_all": LoraConfig(r=3, target_modules=["query", "value"], bias="all"),
    "bias_lora_only": LoraConfig(r=3, target_modules=["query", "value"], bias="lora_only"),
    "patterns": LoraConfig(
        r=3,
        lora_alpha=6,
        target_modules=r"layers\.\d\.(query|value|dense)",
        rank_pattern={r"layers\.1\.value": 5, "dense": 2},
        alpha_pattern={"value": 9},
        layers_to_transform=None,
    ),
    "layers": LoraConfig(
        r=3, target_modules=["query", "dense"], layers_to_transform=[1], layers_pattern="layers"
    ),
    "embedding": LoraConfig(r=3, lora_alpha=6, target_modules=["embedding", "query"]),
    "embedding_dora": LoraConfig(
        r=3, lora_alpha=6, target_modules=["embedding", "query"], use_dora=True
    ),
    "conv": LoraConfig(r=3, lora_alpha=6, target_modules=["conv", "conv2d"]),
    "conv_dora": LoraConfig(r=3, lora_alpha=6, target_modules=["conv", "conv2d"], use_dora=True),
    "head": LoraConfig(r=3, target_modules=["query", "value"], modules_to_save=["classifier"]),
    "ia3": IA3Config(target_modules=["query", "value", "output"], feedforward_modules=["output"]),
}
WEIGHTS = {
    "linear": [0.7, 0.4], "linear-negative": [0.7, -0.4], "cat": [0.7, 0.4], "svd": [0.7, 0.4],
    "ties": [0.7, 0.4], "ties-negative": [1.3, -0.2],
}  # fmt: skip


class Block(nn.Module):
    """As in packages/mlx-lora/tests/conftest.py."""

    def __init__(self, size: int):
        super().__init__()
        self.query = nn.Linear(size, size)
        self.value = nn.Linear(size, size, bias=False)
        self.dense = nn.Linear(size, 2 * size)
        self.output = nn.Linear(2 * size, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + torch.tanh(self.query(x)) * self.value(x)
        return self.norm(x + self.output(F.gelu(self.dense(x))))


class Toy(nn.Module):
    """As in packages/mlx-lora/tests/conftest.py."""

    def __init__(self, size: int = 16):
        super().__init__()
        self.embedding = nn.Embedding(24, size)
        self.conv = nn.Conv1d(size, size, 3, padding=1)
        self.conv2d = nn.Conv2d(1, size, 3, padding=1)
        self.layers = nn.ModuleList([Block(size) for _ in range(2)])
        self.classifier = nn.Linear(size, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        x = x + self.conv(x.mT).mT
        image = ids[:, :4].reshape(-1, 1, 2, 2) / 24
        x = x + self.conv2d(image).mean((2, 3))[:, None]
        for layer in self.layers:
            x = layer(x)
        return self.classifier(x.mean(1))


def main() -> None:
    shutil.rmtree(FIXTURES, ignore_errors=True)
    FIXTURES.mkdir(parents=True)
    torch.manual_seed(0)
    base = Toy().state_dict()
    ids, labels = torch.randint(0, 24, (8, 7)), torch.randint(0, 3, (8,))
    save_file({**base, "ids": ids, "labels": labels}, FIXTURES / "base.safetensors")
    for name, config in CASES.items():
        make_case(name, config, base, ids, labels)
    combine(base, ids)


def make_case(name: str, config, base: dict, ids: torch.Tensor, labels: torch.Tensor) -> None:
    torch.manual_seed(1)
    toy = Toy()
    toy.load_state_dict(base)
    model = get_peft_model(toy, config)
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:  # B is zero: with it the gradient of A would be, too
            spread = 0.05 if "magnitude" in path or "ia3" in path else 0.1
            parameter.data += spread * torch.randn_like(parameter)
    folder = FIXTURES / name
    save(model, folder / "start")
    model.eval()
    found = {"logits_start": model(ids).detach()}
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.01)
    losses = []
    for step in range(10):
        loss = F.cross_entropy(model(ids), labels)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            found |= gradients(model)
        optimizer.step()
        losses.append(loss.detach())
    found |= {"losses": torch.stack(losses), "logits_end": model(ids).detach()}
    save(model, folder / "end")
    merged = model.merge_and_unload()
    found["logits_merged"] = merged(ids).detach()
    found |= {f"merged.{path}": each for path, each in merged.state_dict().items()}
    save_file({key: each.contiguous() for key, each in found.items()}, folder / "case.safetensors")


def combine(base: dict, ids: torch.Tensor) -> None:
    """Combine the adapters of one case before and after its training, in each way."""
    toy = Toy()
    toy.load_state_dict(base)
    model = PeftModel.from_pretrained(toy, FIXTURES / "lora/start", "start").eval()
    model.load_adapter(FIXTURES / "lora/end", "end")
    found = {}
    for name, weights in WEIGHTS.items():
        method = name.partition("-")[0]
        options = {"density": 0.4} if method == "ties" else {}
        model.add_weighted_adapter(["start", "end"], weights, name, method, **options)
        model.set_adapter(name)
        found[name] = model(ids).detach()
    save_file(found, FIXTURES / "combined.safetensors")


def gradients(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the gradients by the names that the tensors have in a file."""
    by_path = {path: each.grad for path, each in model.named_parameters() if each.requires_grad}
    state = {path: by_path.get(path, each) for path, each in model.state_dict().items()}
    stored = get_peft_model_state_dict(model, state_dict=state)
    return {f"gradient.{path}": each for path, each in stored.items()}


def save(model: PeftModel, folder: Path) -> None:
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    values = json.loads(path.read_text())
    for key in ("target_modules", "feedforward_modules"):  # sets, whose order changes by run
        if isinstance(values.get(key), list):
            values[key].sort()
    path.write_text(json.dumps(values, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
