"""Search by meaning: train sentence embeddings on pairs, then find documents for new queries.

Queries and documents share no word, so counting common words finds nothing. The encoder is small
and trained from scratch, so that this runs offline; with a pretrained one,
`SentenceEncoder.from_pretrained("path or hub id")`, training is optional.

    uv run python examples/retrieval.py
"""

import itertools

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from mlx_encoders import BertConfig, SentenceEncoder, build_model, search, train_tokenizer
from mlx_heads import multiple_negatives_ranking_loss

DISHES = {"soup": "broth", "cake": "gateau", "stew": "casserole", "pie": "pastry",
          "salad": "greens", "bread": "loaf", "fish": "trout", "tea": "infusion"}  # fmt: skip
KINDS = {"hot": "steaming", "cold": "chilled", "sweet": "sugary", "sour": "tart",
         "large": "huge", "cheap": "inexpensive"}  # fmt: skip

pairs = list(itertools.product(KINDS, DISHES))
documents = [f"today: {kind} {dish}" for kind, dish in pairs]
queries = [f"something {KINDS[kind]}, a {DISHES[dish]}" for kind, dish in pairs]
order = np.random.default_rng(0).permutation(len(pairs))
train, held_out = order[:36], order[36:]

tokenizer = train_tokenizer(documents + queries, vocab_size=300)
config = BertConfig(
    vocab_size=tokenizer.vocab_size,
    hidden_size=48,
    num_hidden_layers=1,
    num_attention_heads=4,
    intermediate_size=96,
    max_position_embeddings=32,
)
encoder = SentenceEncoder(build_model(config, seed=0), tokenizer, pooling="mean")


def embed(texts):
    return encoder(**tokenizer.pad(tokenizer.encode(texts)))


def loss(model):
    """Each query must be nearer to its document than to the others of the batch."""
    found = embed([queries[i] for i in train])
    return multiple_negatives_ranking_loss(found, embed([documents[i] for i in train])).mean()


encoder.train()
mx.random.seed(0)
step, optimizer = nn.value_and_grad(encoder, loss), optim.Adam(2e-3)
for _ in range(100):
    value, gradients = step(encoder)
    optimizer.update(encoder, gradients)
    mx.eval(encoder.parameters(), optimizer.state)
print(f"loss {float(value):.3f} after 100 updates")

corpus = encoder.encode(documents)
found, scores = search(encoder.encode([queries[i] for i in held_out]), corpus, top_k=3)
for row in range(3):
    hits = ", ".join(
        f"{documents[i]} ({score:.2f})" for i, score in zip(found[row], scores[row], strict=True)
    )
    print(f"{queries[held_out[row]]!r}: {hits}")
accuracy = float((found[:, 0] == held_out).mean())
print(f"first hit right for {accuracy:.0%} of {len(held_out)} new queries; by chance 2%")
