"""Train a small network in a plain MLX loop with Muon, and with AdamW, at three learning rates.

Muon replaces `mlx.optimizers.AdamW`: one line changes. It orthogonalizes the updates of the weight
matrices of hidden layers and uses AdamW for all other parameters; `explain` shows the rule of each.

    uv run python examples/muon_loop.py
"""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from mlx_muon import Muon

STEPS, BATCH = 150, 128


def make_network(seed):
    mx.random.seed(seed)
    layers = [nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 8)]
    return nn.Sequential(*layers)


def loss_fn(model, inputs, classes):
    return nn.losses.cross_entropy(model(inputs), classes, reduction="mean")


def train(optimizer):
    """Learn the classes of another network; return the mean loss of the last ten steps."""
    teacher, model = make_network(seed=1), make_network(seed=2)
    step = nn.value_and_grad(model, loss_fn)
    losses = []
    for _ in range(STEPS):
        inputs = mx.random.normal((BATCH, 32))
        loss, gradients = step(model, inputs, teacher(inputs).argmax(axis=1))
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


print(Muon(learning_rate=1e-2).explain(make_network(seed=2)))
print("\nloss of a constant guess: 2.08\nrate    Muon   AdamW")
results = {}
for rate in (3e-3, 1e-2, 3e-2):
    results[rate] = train(Muon(learning_rate=rate)), train(optim.AdamW(learning_rate=rate))
    print("{:.3f}   {:.2f}   {:.2f}".format(rate, *results[rate]))
