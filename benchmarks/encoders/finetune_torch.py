"""The recipe in transformers: BertForSequenceClassification, AdamW, clipping to norm 1."""

import time
from pathlib import Path

import numpy as np
import torch
import transformers

from encoders.finetune_order import order


def run(folder: Path, data: tuple, head: np.ndarray, schedule: list, options: dict) -> dict:
    """Train and predict; return score, seconds and mean loss of the last updates."""
    texts, targets, test_texts, score = data
    torch.set_num_threads(2)
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForSequenceClassification.from_pretrained(
        folder, num_labels=len(head), attn_implementation="sdpa"
    )
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(head))
        model.classifier.bias.zero_()
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1]
    plain = [p for name, p in model.named_parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": options["weight_decay"]},
         {"params": plain, "weight_decay": 0.0}], fused=True
    )  # fmt: skip

    def encode(some: list) -> dict:
        return tokenizer(some, padding=True, truncation=True, pad_to_multiple_of=8,
                         max_length=options["max_length"], return_tensors="pt")  # fmt: skip

    model.train()
    losses, update, start = [], 0, time.perf_counter()
    for epoch in range(options["epochs"]):
        for chosen in order(len(texts), epoch):
            for group in optimizer.param_groups:
                group["lr"] = schedule[update]
            labels = torch.from_numpy(targets[chosen])
            loss = model(**encode([texts[i] for i in chosen]), labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            update += 1
    training = time.perf_counter() - start
    model.eval()
    start, predicted = time.perf_counter(), []
    with torch.inference_mode():
        for i in range(0, len(test_texts), 64):
            logits = model(**encode(test_texts[i : i + 64])).logits
            predicted.append(logits.argmax(-1).numpy())
    seconds = time.perf_counter() - start
    return {"score": score(np.concatenate(predicted)), "training": training,
            "prediction": seconds, "loss": float(np.mean(losses[-50:]))}  # fmt: skip
