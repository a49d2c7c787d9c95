import os
import subprocess
import sys
import textwrap

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_trainer import AdamW, Group, TrainingError, TrainStep


def parameters(model):
    return {name: np.array(value) for name, value in tree_flatten(model.parameters())}


def assert_close(first, second, atol):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=atol, err_msg=name)


def split(batch, *sizes):
    ends = np.cumsum(sizes)
    return [
        {name: value[end - size : end] for name, value in batch.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("sizes", [(12,), (5, 7), (1, 4, 7)])
def test_clipped_training_equals_torch_for_any_split(fixture_arrays, loss_fn, compile, sizes):
    arrays = fixture_arrays("clipped_training.npz")
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    for name, value in arrays.items():
        kind, _, path = name.partition(".")
        if kind == "start":
            model.load_weights([(f"layers.{path}", mx.array(value))], strict=False)
    # torch's default decays biases too.
    optimizer = AdamW(weight_decay=0.05, groups=lambda path, p: Group())
    step = TrainStep(model, optimizer, loss_fn, max_grad_norm=0.1, compile=compile)
    for number in range(5):
        batch = {name: arrays[f"{name}.{number}"] for name in ("x", "y", "weight")}
        loss, norm = step(split(batch, *sizes), 1e-2)
        assert float(loss) == pytest.approx(float(arrays[f"loss.{number}"]), rel=1e-5)
        assert float(norm) == pytest.approx(float(arrays[f"norm.{number}"]), rel=1e-5)
    expected = {f"layers.{name[4:]}": arrays[name] for name in arrays if name.startswith("end.")}
    # 2e-6: AdamW divides by the root of tiny second moments, which magnifies roundings.
    assert_close(parameters(model), expected, atol=2e-6)


def test_accumulation_equals_one_big_batch_with_unequal_weights(make_network, make_batch, loss_fn):
    results = []
    for sizes in [(16,), (3, 13), (8, 4, 4)]:
        model = make_network()
        step = TrainStep(model, mlx.optimizers.SGD(0.0), loss_fn, max_grad_norm=None)
        loss, norm = step(split(make_batch(16), *sizes), 0.5)
        results.append(parameters(model) | {"loss": np.array(loss), "norm": np.array(norm)})
    assert_close(results[0], results[1], atol=1e-6)
    assert_close(results[0], results[2], atol=1e-6)


def test_rows_and_batches_of_weight_zero_change_nothing(make_network, make_batch, loss_fn):
    batch, padding = make_batch(4), make_batch(4, seed=1)
    padding["weight"][:] = 0
    padded = {name: np.concatenate([batch[name], padding[name]]) for name in batch}
    results = []
    for update in [[batch], [padded], [padding, batch], [batch, padding]]:
        model = make_network()
        TrainStep(model, AdamW(), loss_fn)(update, 1e-2)
        results.append(parameters(model))
    for other in results[1:]:
        assert_close(results[0], other, atol=1e-6)


def test_compiled_and_uncompiled_updates_agree(make_network, make_batch, loss_fn):
    results = []
    for compile in (True, False):
        model = make_network(dropout=0.3)
        step = TrainStep(model, AdamW(), loss_fn, compile=compile)
        mx.random.seed(5)
        for number in range(4):
            step([make_batch(8, number), make_batch(5, number + 10)], 1e-2)
        results.append(parameters(model))
    assert_close(*results, atol=1e-6)


@pytest.mark.parametrize("compile", [True, False])
def test_dropout_changes_with_every_update_and_repeats_with_the_seed(
    make_network, make_batch, loss_fn, compile
):
    def losses():
        model = make_network(dropout=0.5)
        step = TrainStep(model, AdamW(), loss_fn, compile=compile)
        mx.random.seed(3)
        # With a rate of 0 nothing but the dropout mask can change the loss.
        return [float(step([make_batch(8)], 0.0)[0]) for _ in range(5)]

    first = losses()
    assert len(set(first)) == 5
    assert losses() == first


def test_a_changed_learning_rate_is_used_without_a_new_trace(make_network, make_batch, loss_fn):
    traces = []

    def counting(model, batch):
        traces.append(batch["x"].shape)
        return loss_fn(model, batch)

    model = make_network()
    step = TrainStep(model, AdamW(weight_decay=0.0), counting)
    sizes = []
    for rate in (0.1, 0.01, 0.0):
        before = parameters(model)["layers.0.weight"]
        step([make_batch(8)], rate)
        sizes.append(np.abs(parameters(model)["layers.0.weight"] - before).max())
    # The first update of AdamW moves by the rate, the second by nearly as much.
    np.testing.assert_allclose(sizes, [0.1, 0.01, 0.0], rtol=0.2)
    assert traces == [(8, 6)]


def test_frozen_parameters_stay_and_have_no_optimizer_state(make_network, make_batch, loss_fn):
    model = make_network()
    model.layers[0].freeze()
    step = TrainStep(model, AdamW(), loss_fn)
    before = parameters(model)
    step([make_batch(8)], 0.1)
    moved = {name for name, value in parameters(model).items() if (value != before[name]).any()}
    assert moved == {"layers.1.weight", "layers.1.bias"}
    moments = {name for name, _ in tree_flatten(step.optimizer.state) if name.endswith(".m")}
    assert moments == {"layers.1.weight.m", "layers.1.bias.m"}


def test_unfreezing_and_eval_mode_between_updates_are_noticed(make_network, make_batch, loss_fn):
    model = make_network(dropout=0.5)
    model.layers[0].freeze()
    step = TrainStep(model, AdamW(), loss_fn)
    step([make_batch(8)], 0.1)
    model.unfreeze()
    before = parameters(model)
    step([make_batch(8)], 0.1)
    assert all((value != before[name]).any() for name, value in parameters(model).items())
    model.eval()
    assert len({float(step([make_batch(8)], 0.0)[0]) for _ in range(3)}) == 1


def test_half_precision_parameters_stay_half_with_any_optimizer(make_network, make_batch, loss_fn):
    model = make_network()
    model.set_dtype(mx.bfloat16)
    step = TrainStep(model, mlx.optimizers.AdamW(0.0), loss_fn)
    step([make_batch(8), make_batch(8, 1)], 0.1)
    assert {value.dtype for _, value in tree_flatten(model.parameters())} == {mx.bfloat16}


def test_running_statistics_are_updated(make_batch, loss_fn):
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm(3))
    step = TrainStep(model, AdamW(), loss_fn)
    step([make_batch(8)], 0.1)
    first = parameters(model)["layers.1.running_mean"]
    step([make_batch(8, 1)], 0.1)
    assert (first != 0).all()
    assert (parameters(model)["layers.1.running_mean"] != first).all()


def test_training_lowers_the_loss(make_network, make_batch, loss_fn):
    step = TrainStep(make_network(dropout=0.1), AdamW(), loss_fn)
    losses = [float(step([make_batch(64, number % 4)], 3e-2)[0]) for number in range(60)]
    assert losses[0] > 0.9
    assert losses[-1] < 0.4
    assert step.updates == 60


@pytest.mark.parametrize("size", [3e19, 1e38])
def test_a_gradient_whose_square_is_no_float32_is_clipped_as_any_other(size):
    model = nn.Linear(2, 1, bias=False)
    model.weight = mx.zeros((1, 2))
    step = TrainStep(model, mlx.optimizers.SGD(0.5), lambda model, batch: (
        (model(batch["x"]) * size).sum(), mx.array(1.0)
    ))  # fmt: skip
    _, norm = step([{"x": np.array([[0.6, 0.8]], np.float32)}], 0.5)
    assert float(norm) == pytest.approx(size, rel=1e-5)
    np.testing.assert_allclose(model.weight, [[-0.3, -0.4]], rtol=1e-5)


def test_a_loss_that_is_not_finite_names_the_update(make_network, make_batch, loss_fn):
    step = TrainStep(make_network(), AdamW(), loss_fn)
    step([make_batch(4)], 0.1)
    bad = make_batch(4)
    bad["x"][0, 0] = np.nan
    with pytest.raises(TrainingError) as error:
        step([bad], 0.1)
    assert str(error.value) == (
        "update 2: loss nan, gradient norm nan; the weights are unusable. Load a checkpoint, "
        "then lower the learning rate"
    )


def test_an_update_without_weight_is_refused(make_network, make_batch, loss_fn, exactly):
    batch = make_batch(4)
    batch["weight"][:] = 0
    with pytest.raises(
        ValueError,
        match=exactly(
            "update 1: the total weight of all micro-batches is 0, so there is no mean loss; "
            "skip updates without a valid example"
        ),
    ):
        TrainStep(make_network(), AdamW(), loss_fn)([batch, batch], 0.1)


@pytest.mark.parametrize(
    ("bad_loss", "kind", "message"),
    [
        (
            lambda model, batch: model(batch["x"]).sum(),
            TypeError,
            "loss_fn must return (sum of losses, sum of weights), got array",
        ),
        (
            lambda model, batch: (model(batch["x"]).sum(1), 4),
            ValueError,
            "loss_fn must return two scalars, (sum of losses, sum of weights), got shapes "
            "(4,) and ()",
        ),
    ],
)
def test_a_loss_of_another_form_is_refused(make_network, make_batch, bad_loss, kind, message):
    with pytest.raises(kind) as error:
        TrainStep(make_network(), AdamW(), bad_loss)([make_batch(4)], 0.1)
    assert str(error.value) == message


def test_nothing_to_train_is_refused(make_network, make_batch, loss_fn, exactly):
    model = make_network()
    step = TrainStep(model, AdamW(), loss_fn)
    with pytest.raises(
        ValueError, match=exactly("an update needs at least one batch, got an empty list")
    ):
        step([], 0.1)
    model.freeze()
    with pytest.raises(
        ValueError, match=exactly("the model has no trainable parameter: everything is frozen")
    ):
        step([make_batch(4)], 0.1)
    with pytest.raises(
        ValueError, match=exactly("max_grad_norm must be positive or None, got 0.0")
    ):
        TrainStep(model, AdamW(), loss_fn, max_grad_norm=0.0)


BROKEN_COMPILER = """
import logging, sys
import mlx.core as mx
import mlx.nn as nn
from mlx_trainer import AdamW, TrainStep
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message).62s")
mx.set_default_device(mx.cpu)
mx.random.seed(0)
model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Dropout(0.5), nn.Linear(4, 1))
mx.eval(model.parameters())
loss_fn = lambda model, batch: (mx.square(model(batch["x"])).sum(), mx.array(3.0))
step = TrainStep(model, AdamW(), loss_fn, threads=int(sys.argv[1]))
print([float(step([{"x": mx.ones((3, 4))}], 0.1)[0]) for _ in range(3)])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the CPU's compiler is used on Linux only")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_broken_compiler_is_one_warning_and_the_same_training(tmp_path, threads):
    compiler = tmp_path / "g++"
    # MLX asks for the version first: without an answer it does not even try to compile.
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\nexit 1\n')
    compiler.chmod(0o755)
    script = textwrap.dedent(BROKEN_COMPILER)
    broken = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}

    def run(environment):
        command = [sys.executable, "-c", script, threads]
        return subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    warning, losses = run(broken)
    assert warning == "WARNING mx.compile does not work here, training continues uncompiled ("
    assert [losses] == run({"MLX_DISABLE_COMPILE": "1"})
