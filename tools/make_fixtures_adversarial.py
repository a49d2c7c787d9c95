"""Make the fixture of adversarial training with torch, in the imperative way of its papers' code.

Run in an environment with torch and transformers:

    python tools/make_fixtures_adversarial.py

Reads the BERT in packages/mlx-encoders/tests/fixtures/bert, and writes adversarial.safetensors
there; made with transformers 5.23.0 and torch 2.13.0.
"""

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

FOLDER = Path(__file__).parents[1] / "packages/mlx-encoders/tests/fixtures/bert"
EPSILON, GAMMA = 0.7, 0.02
# Gradients that are kept: embeddings, the first and the last layer.
KEPT = ("word_embeddings", "layer.0.attention.self", "layer.1.output")


def main() -> None:
    model = transformers.BertModel.from_pretrained(FOLDER).eval()
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(3, 50, (3, 12), generator=generator)
    mask = torch.arange(12)[None] < torch.tensor([12, 7, 2])[:, None]
    readout = torch.randn(32, 3, generator=generator)
    labels = torch.tensor([2, 0, 1])
    words = model.get_input_embeddings()

    def loss_of(embeddings: torch.Tensor) -> torch.Tensor:
        states = model(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
        logits = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) @ readout
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    def gradients(prefix: str, scale: float = 1.0) -> dict[str, torch.Tensor]:
        return {
            f"{prefix}.{name}": scale * parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and any(part in name for part in KEPT)
        }

    arrays = {"input_ids": ids, "attention_mask": mask.long(), "readout": readout, "labels": labels}
    embeddings = words(ids)
    embeddings.retain_grad()
    clean = loss_of(embeddings)
    clean.backward()
    gradient = embeddings.grad
    noise = EPSILON * gradient / gradient.norm(dim=(1, 2), keepdim=True)
    other = loss_of(words(ids) + noise)
    other.backward()  # adds to the gradients of the first pass
    arrays |= {"fgm.loss": (clean + other) / 2, "noise": noise, **gradients("fgm.gradient", 0.5)}

    model.zero_grad()
    loss_of(words(ids)).backward()
    before = {name: parameter.data.clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        if parameter.ndim >= 2 and parameter.grad is not None and parameter.grad.any():
            direction = parameter.grad / parameter.grad.norm()
            parameter.data += GAMMA * parameter.data.norm() * direction
    model.zero_grad()
    perturbed = loss_of(words(ids))
    perturbed.backward()
    for name, parameter in model.named_parameters():
        parameter.data = before[name]
    arrays |= {"awp.loss": perturbed, **gradients("awp.gradient")}
    print(f"clean {clean:.4f}, FGM's second pass {other:.4f}, AWP {perturbed:.4f}")
    save_file(
        {name: array.detach().contiguous() for name, array in arrays.items()},
        FOLDER / "adversarial.safetensors",
    )


if __name__ == "__main__":
    main()
