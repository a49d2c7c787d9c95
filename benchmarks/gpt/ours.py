"""mlx-gpt, built as `mlx-gpt train` builds it."""

from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from gpt.implementation import Generate, Training
from gpt.settings import ACCUMULATION, UPDATED, UPDATED_ROWS, Settings, Size
from mlx_gpt.engine import Engine, Request, Sampling
from mlx_gpt.machine import prepare_machine, step_threads
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.training.losses import token_losses
from mlx_gpt.training.plan import make_plan
from mlx_gpt.training.pretrain import build_step
from mlx_gpt.training.settings import PretrainTraining
from mlx_trainer import TrainStep


def start(settings: Settings, part: str, variant: str, threads: int) -> None:
    """Prepare the machine as the commands do: training shares the cores with the BLAS."""
    prepare_machine(1 if part == "decode" else step_threads(threads, settings.rows))


def training(settings: Settings, variant: str, seed: int) -> Training:
    """Return a run of pretraining, from nanochat's first weights where it left them."""
    size = settings.model
    plan = make_plan(
        size.layers, size.vocab, size.length,
        batch_tokens=settings.batch_tokens, steps=settings.steps,
    )  # fmt: skip
    model = Nanochat(plan.config).initialize(mx.random.key(seed))
    if (weights := settings.path(f"weights-{seed}.npz")).exists():
        load(model, dict(np.load(weights)))
    mx.eval(model.parameters())
    config = PretrainTraining()
    step = build_step(model, plan, config, settings.rows)

    def held_out_loss(rows: np.ndarray) -> float:
        hidden, targets = model.hidden_states(mx.array(rows[:, :-1])), mx.array(rows[:, 1:])
        return float(token_losses(hidden, model.head_weight, targets, model.logit_cap).mean())

    def one_step(rows: np.ndarray) -> float:
        return float(step([batch_of(rows)], config.learning_rate)[0])

    return Training(one_step, held_out_loss, plan.parameters.total)


def load(model: Nanochat, weights: dict[str, np.ndarray]) -> None:
    """Give the model nanochat's weights: value embeddings are numbered by layer there."""
    for index, layer in enumerate(model.config.value_embedding_layers):
        array = weights.pop(f"value_embeds.{layer}.weight")
        weights[f"value_embeds.{index}.weight"] = array
    model.load_weights([(name, mx.array(array)) for name, array in weights.items()])


def batch_of(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {"inputs": rows[:, :-1], "targets": rows[:, 1:]}


def update() -> dict[str, Callable[[], object]]:
    """Return a whole update, and what comes after the gradients alone."""
    plan = make_plan(
        UPDATED.layers, UPDATED.vocab, UPDATED.length, steps=1000,
        batch_tokens=ACCUMULATION * UPDATED_ROWS * UPDATED.length,
    )  # fmt: skip
    model = Nanochat(plan.config).initialize(mx.random.key(0))
    step = build_step(model, plan, PretrainTraining(), UPDATED_ROWS)
    shape = (ACCUMULATION, UPDATED_ROWS, UPDATED.length + 1)
    rows = np.random.default_rng(0).integers(0, UPDATED.vocab, shape, np.int32)
    batches = [batch_of(each) for each in rows]
    return {
        "step": lambda: step(batches, PretrainTraining.learning_rate),
        "optimizer": optimizer_call(step, model),
    }


def optimizer_call(step: TrainStep, model: Nanochat) -> Callable[[], object]:
    """Return the optimizer's update alone, compiled as the step compiles it."""
    step.prepare()
    mx.random.seed(0)
    gradients = tree_map(lambda p: 1e-3 * mx.random.normal(p.shape), model.trainable_parameters())
    mx.eval(gradients, step.optimizer.state)
    state = [model.state, step.optimizer.state]
    apply = mx.compile(
        lambda gradients: step.optimizer.update(model, gradients), inputs=state, outputs=state
    )

    def call() -> None:
        apply(gradients)
        mx.eval(state)

    return call


def generation(settings: Settings, size: Size) -> Generate:
    """Return our engine, greedy."""
    config = NanochatConfig(
        size.length, size.vocab, size.layers, size.heads, size.heads, size.width
    )
    model = Nanochat(config).initialize(mx.random.key(0))
    mx.eval(model.parameters())
    engine = Engine(model, Tokenizer.load(settings.path("tokenizer")))

    def generate(prompt: list[int], most: int) -> Iterator[object]:
        return iter(engine.stream([Request(prompt, most, Sampling(temperature=0.0))]))

    return generate
