"""Fine-tune a text encoder on a pandas DataFrame.

mlx-tabtext serializes rows as texts, mlx-encoders tokenizes and encodes them, mlx-heads predicts
and scores, mlx-trainer trains. Their interfaces are arrays and callables. The encoder is small and
trained from scratch, so that this runs offline; `mlx_encoders.load("path or hub id")` loads a
pretrained one.

    uv run --with pandas python examples/finetune_encoder.py
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pandas as pd

from mlx_encoders import BertConfig, build_model, train_tokenizer
from mlx_heads import ClassificationHead, binary_cross_entropy, get_metric
from mlx_tabtext import TableText, as_table, infer_schema
from mlx_trainer import AdamW, TrainStep, fit

random = np.random.default_rng(0)
frame = pd.DataFrame({"dish": random.choice(["soup", "cake", "stew", "pie"], 600)})
frame["price"] = random.uniform(2, 9, 600).round(1)
frame["sweet"] = (frame.dish.isin(["cake", "pie"]) & (random.random(600) < 0.95)).astype(int)
train, test = frame[:480], frame[480:]

table = as_table(train)
text = TableText(infer_schema(table, target="sweet")).fit(table)
print(text.transform(table)[0])
tokenizer = train_tokenizer(text.transform(table), vocab_size=200)
config = BertConfig(
    vocab_size=tokenizer.vocab_size,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = build_model(config, seed=0)
        self.head = ClassificationHead(config.hidden_size, num_classes=2, seed=0)

    def __call__(self, input_ids, attention_mask):
        return self.head(self.encoder(input_ids, attention_mask), attention_mask)


def batch_of(rows):
    """Return token ids (B, L) and their mask (B, L)."""
    return tokenizer.pad(tokenizer.encode(text.transform(as_table(rows)), max_length=32))


def batches(epoch, start):
    order = np.random.default_rng([1, epoch]).permutation(len(train))
    for rows in order.reshape(-1, 32)[start:]:
        chosen = train.iloc[rows]
        yield [batch_of(chosen) | {"labels": chosen.sweet.to_numpy(np.float32)}]


def loss_fn(model, batch):
    logits = model(batch["input_ids"], batch["attention_mask"])
    return binary_cross_entropy(logits, batch["labels"]).sum(), mx.array(len(logits))


mx.random.seed(0)
model = Classifier()
step = TrainStep(model, AdamW(weight_decay=0.01), loss_fn)
result = fit(step, batches, updates_per_epoch=15, epochs=4, learning_rate=5e-3)
print("loss of each epoch:", [round(epoch["train_loss"], 3) for epoch in result.history])

model.eval()
logits = model(**{name: mx.array(array) for name, array in batch_of(test).items()})
probability = np.array(model.head.probabilities(logits))[:, 1]
accuracy = get_metric("accuracy")(test.sweet, probability > 0.5)
print(f"accuracy on {len(test)} held-out rows: {accuracy:.3f}")
