"""Write tests/fixtures/preferences.json: losses and gradients of TRL's DPO and ORPO, in float64.

    python tools/make_fixtures_preferences.py

Needs trl, torch, transformers and mlx. TRL's own methods are called, on log probabilities and on a
Llama: `DPOTrainer._compute_loss` and `ORPOTrainer.odds_ratio_loss`, `get_batch_loss_metrics`. ORPO
casts to float32 in places; here these casts are to float64. DPO gets its log probabilities from
transformers' logits in float64. TRL's "sigmoid" no longer has label
smoothing (version 0.24 had); of one pair "aot_unpaired" is that formula, because there is nothing
to sort. Made with trl 1.16.0, torch 2.13.0 and transformers 5.23.0.
"""

import json
import sys
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM
from trl import DPOTrainer
from trl.experimental.orpo import ORPOTrainer

TESTS = Path(__file__).parents[1] / "packages/mlx-gpt/tests"
sys.path.append(str(TESTS))

from decoder_folders import write_folder  # noqa: E402

# Exact in float32, to which MLX rounds Python's numbers.
BETA, SMOOTHING, WEIGHT = 0.25, 0.125, 0.1875
BASE = "llama_gqa_head_dim"
GRADIENTS = ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight",
             "model.embed_tokens.weight", "lm_head.weight")  # fmt: skip
torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
ACCELERATOR = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x,
                              gather_for_metrics=lambda x: x)  # fmt: skip


def main() -> None:
    torch.manual_seed(0)
    found = {"beta": BETA, "label_smoothing": SMOOTHING, "weight": WEIGHT, "base": BASE}
    found["pairs"] = [log_probs_case(length) for length in (1, 2, 3, 5, 8, 13)]
    # Prompts of one token and chosen answers of one length: there TRL's mean over all tokens of the
    # chosen rows is that of the answers.
    rows = [[token_ids(n) for n in (1, 6, m)] for m in (3, 6, 9)]
    longer = [[token_ids(n) for n in lengths] for lengths in ((4, 2, 5), (7, 6, 1), (2, 5, 5))]
    found["answers"] = model_case(rows) | {"rows": rows}
    found["prompts"] = model_case(longer) | {"rows": longer}
    text = json.dumps(found, indent=1)
    (TESTS / "fixtures/preferences.json").write_text(text + "\n")


def token_ids(count: int) -> list[int]:
    return torch.randint(2, 48, (count,)).tolist()


def dpo_settings(kind: str, **changed) -> SimpleNamespace:
    """Return what `_compute_loss` reads of a trainer."""
    settings = {
        "model": SimpleNamespace(training=True), "accelerator": ACCELERATOR, "beta": BETA,
        "label_smoothing": SMOOTHING, "loss_types": [kind], "loss_weights": [1.0],
        "aux_loss_enabled": False, "ld_alpha": None, "precompute_ref_logps": True,
        "f_divergence_type": "reverse_kl", "use_weighting": False, "_total_train_tokens": 0,
        "_tp_size": 1, "_metrics": {"train": defaultdict(list)},
    }  # fmt: skip
    return SimpleNamespace(**settings | changed)


def log_probs_case(length: int) -> dict:
    """Return the losses of one pair of `length` tokens, and gradients for its sums."""
    tokens = -3 * torch.rand(2, length, dtype=torch.float64)
    reference = -3 * length * torch.rand(2, dtype=torch.float64)
    found = {"log_probs": tokens.sum(1).tolist(), "count": length, "reference": reference.tolist()}
    mask = torch.cat([torch.zeros(2, 1), torch.ones(2, length)], dim=1).long()
    inputs = {"input_ids": mask, "attention_mask": mask | 1, "completion_mask": mask,
              "ref_chosen_logps": reference[:1], "ref_rejected_logps": reference[1:]}  # fmt: skip
    for name, kind in (("dpo", "sigmoid"), ("smoothed", "aot_unpaired")):
        given = tokens.clone().requires_grad_()
        outputs = SimpleNamespace(
            log_probs=given, entropy=given, mean_logits=given, is_top1=mask[:, 1:]
        )
        run = partial(_give, outputs)
        loss = DPOTrainer._compute_loss(dpo_settings(kind), run, inputs, False)
        (gradient,) = torch.autograd.grad(loss, given)
        found[name] = {"loss": loss.item(), "gradient": gradient[:, 0].tolist()}
    means = tokens.mean(1).requires_grad_()
    trainer = SimpleNamespace(beta=WEIGHT, accelerator=ACCELERATOR)
    losses, chosen, rejected, *_ = ORPOTrainer.odds_ratio_loss(trainer, means[:1], means[1:])
    (gradient,) = torch.autograd.grad(-losses.sum(), means)
    found["odds"] = {"loss": -losses.item(), "gradient": gradient.tolist(),
                     "rewards": [chosen.item(), rejected.item()]}  # fmt: skip
    return found


def _give(outputs: SimpleNamespace, **inputs) -> SimpleNamespace:
    return outputs


def model_case(rows: list[list[list[int]]]) -> dict:
    """Return losses and gradients of a Llama on rows of prompt, chosen and rejected answer."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_folder(Path(temporary) / "base", BASE)
        model, reference = (
            AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float64, attn_implementation="eager"
            ) for _ in range(2)
        )  # fmt: skip
    with torch.no_grad():
        for each in reference.parameters():
            each.mul_(0.9)
    found = {}
    sequences = [
        prompt + side for i in (1, 2) for row in rows for prompt, side in [(row[0], row[i])]
    ]
    width = max(map(len, sequences))
    ids, attention, completion = (torch.zeros(len(sequences), width).long() for _ in range(3))
    for i, each in enumerate(sequences):
        ids[i, : len(each)], attention[i, : len(each)] = torch.tensor(each), 1
        completion[i, len(rows[i % len(rows)][0]) : len(each)] = 1
    inputs = {"input_ids": ids, "attention_mask": attention, "completion_mask": completion}
    count = len(rows)
    labels = ids.masked_fill(completion == 0, -100)
    batch = {f"{side}_{name}": each[part]
             for side, part in (("chosen", slice(count)), ("rejected", slice(count, None)))
             for name, each in (("input_ids", ids), ("attention_mask", attention),
                                ("labels", labels))}  # fmt: skip
    trainer = SimpleNamespace(beta=WEIGHT, accelerator=ACCELERATOR, is_encoder_decoder=False,
                              padding_value=0, aux_loss_enabled=False,
                              get_batch_logps=ORPOTrainer.get_batch_logps)  # fmt: skip
    for name in ("concatenated_inputs", "concatenated_forward", "odds_ratio_loss"):
        function = getattr(ORPOTrainer, name)
        bound = function if name == "concatenated_inputs" else function.__get__(trainer)
        setattr(trainer, name, bound)
    loss, metrics = ORPOTrainer.get_batch_loss_metrics(trainer, model, batch)
    found["orpo"] = gradients_of(loss, model) | {"nll": metrics["nll_loss"]}
    before = fused(reference, input_ids=ids, attention_mask=attention, labels=labels).log_probs
    sums = before.sum(1).detach()
    given = {"ref_chosen_logps": sums[:count], "ref_rejected_logps": sums[count:]}
    settings, run = dpo_settings("sigmoid"), partial(fused, model)
    loss = DPOTrainer._compute_loss(settings, run, inputs | given, False)
    found["dpo"] = gradients_of(loss, model)
    return found


def fused(model: torch.nn.Module, *, labels: torch.Tensor, **inputs) -> SimpleNamespace:
    """Return what TRL's fused head returns, whose sums are float32, from float64 logits."""
    inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    chances = model(**inputs).logits[:, :-1].log_softmax(-1)
    mask, labels = labels[:, 1:] != -100, labels[:, 1:].clamp(min=0)
    chosen = chances.gather(2, labels[..., None])[..., 0].masked_fill(~mask, 0)
    return SimpleNamespace(log_probs=chosen, entropy=chosen, mean_logits=chosen, is_top1=mask)


def gradients_of(loss: torch.Tensor, model: torch.nn.Module) -> dict:
    """Return the loss, and of some gradients norm and first numbers."""
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, [named[name] for name in GRADIENTS])
    return {"loss": loss.item(), "gradients": {
        name: {"norm": each.norm().item(), "corner": each[2:5, :4].tolist()}
        for name, each in zip(GRADIENTS, gradients, strict=True)}}  # fmt: skip


if __name__ == "__main__":
    main()
