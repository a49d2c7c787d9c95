"""mlxchat, the prototype: its own model, optimizers, schedules and engine, on MLX as it comes.

The loop of its training script is no function and is written again here, in its order and with its
evaluations; everything that is a function there is called. `mlxchat-fastcpu` is the same as
`python -m mlx_fastcpu run` would run it.
"""

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from gpt.implementation import Generate, Training
from gpt.settings import ACCUMULATION, UPDATED, UPDATED_ROWS, Settings, Size


def start(settings: Settings, part: str, variant: str, threads: int) -> None:
    """Make mlxchat importable."""
    assert settings.mlxchat
    sys.path.insert(0, settings.mlxchat)
    # Only its watch over the memory needs psutil, and is off by default.
    sys.modules.setdefault("psutil", ModuleType("psutil"))
    mx.set_default_device(mx.cpu)
    if variant == "mlxchat-fastcpu":
        import mlx_fastcpu
        from mlx_fastcpu.patching import patch_everywhere

        status = mlx_fastcpu.activate()
        if not status.active:
            raise SystemExit(f"{variant}: {status}")
        patch_everywhere()


class Script:
    """The state of its script with its default options, and one step of its loop."""

    def __init__(self, size: Size, steps: int):
        from scripts import base_train

        sys.argv = ["base_train"]
        self.functions, self.options = base_train, base_train.get_args()
        self.model, self.config = build(size), config_of(size)
        self.adam, self.muon, _ = base_train.setup_optimizers(
            self.model, self.config, self.options, logging.getLogger("mlxchat")
        )
        self.steps, self.done = steps, 0

    def step(self, micro_batches: list[np.ndarray]) -> float:
        loss, gradients = self.gradients(micro_batches)
        self.update(gradients)
        if self.done % 10 == 0:
            gc.collect()
        self.done += 1
        return loss

    def gradients(self, micro_batches: list[np.ndarray]) -> tuple[float, dict]:
        """Return the mean loss and gradient."""
        loss_and_gradients = nn.value_and_grad(self.model, self.functions.loss_fn)
        total, summed = 0.0, None
        for rows in micro_batches:
            loss, gradients = loss_and_gradients(self.model, *inputs_and_targets(rows))
            total += loss.item()
            summed = tree_map(mx.add, gradients, summed) if summed else gradients
            mx.eval(summed)
        return total / len(micro_batches), tree_map(lambda g: g / len(micro_batches), summed)

    def update(self, gradients: dict) -> None:
        """Clip, set the rates, and apply both optimizers."""
        functions, options = self.functions, self.options
        gradients, _ = functions.clip_gradients(gradients, options.grad_clip)
        rate = functions.get_lr_multiplier(self.done, self.steps)
        self.adam.learning_rate = options.unembedding_lr * rate * (self.config.n_embd / 768) ** -0.5
        self.muon.learning_rate = options.matrix_lr * rate
        self.muon.momentum = functions.get_muon_momentum(self.done)
        self.adam.update(self.model, {name: gradients[name] for name in ("wte", "lm_head")})
        mx.eval(self.model.parameters(), self.adam.state)
        self.muon.update(self.model, {"h": gradients["h"]})
        mx.eval(self.model.parameters(), self.muon.state)


def training(settings: Settings, variant: str, seed: int) -> Training:
    """Return a run of the script, from weights of its own: the model is another one."""
    mx.random.seed(seed)
    script = Script(settings.model, settings.steps)

    def held_out_loss(rows: np.ndarray) -> float:
        return script.functions.loss_fn(script.model, *inputs_and_targets(rows)).item()

    trained = tree_flatten(script.model.trainable_parameters())
    parameters = sum(array.size for _, array in trained)  # type: ignore[union-attr]
    return Training(lambda rows: script.step([rows]), held_out_loss, parameters)


def update() -> dict[str, Callable[[], object]]:
    """Return a whole update, and what comes after the gradients alone."""
    mx.random.seed(0)
    script = Script(UPDATED, steps=1000)
    shape = (ACCUMULATION, UPDATED_ROWS, UPDATED.length + 1)
    micro_batches = list(np.random.default_rng(0).integers(0, UPDATED.vocab, shape, np.int32))
    _, gradients = script.gradients(micro_batches)
    mx.eval(gradients)
    return {
        "step": lambda: script.step(micro_batches),
        "optimizer": lambda: script.update(gradients),
    }


def build(size: Size) -> nn.Module:
    """Return mlxchat's model with its first weights."""
    from mlxchat.gpt import GPT

    model = GPT(config_of(size))
    model.init_weights()
    return model


def config_of(size: Size):
    from mlxchat.gpt import GPTConfig

    return GPTConfig(
        sequence_len=size.length,
        vocab_size=size.vocab,
        n_layer=size.layers,
        n_head=size.heads,
        n_kv_head=size.heads,
        n_embd=size.width,
    )


def inputs_and_targets(rows: np.ndarray) -> tuple[mx.array, mx.array]:
    """Return ids (B, T) and the ids after them."""
    return mx.array(rows[:, :-1]), mx.array(rows[:, 1:])


class NoTokenizer:
    """An end of text that is never sampled."""

    def get_eot_token_id(self) -> int:
        return -1


def generation(settings: Settings, size: Size) -> Generate:
    """Return mlxchat's engine, greedy."""
    from mlxchat.engine import Engine

    mx.random.seed(0)
    model = build(size)
    mx.eval(model.parameters())
    engine = Engine(model, NoTokenizer())

    def generate(prompt: list[int], most: int) -> Iterator[object]:
        return engine.generate(prompt, max_tokens=most, temperature=0.0)

    return generate
