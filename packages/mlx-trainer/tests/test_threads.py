import gc
import os
import subprocess
import sys
import threading
import weakref

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_trainer import AdamW, TrainStep
from mlx_trainer.random_keys import random_key
from mlx_trainer.threads import split_rows


@pytest.fixture(autouse=True)
def on_cpu():
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(device)


def parameters(model):
    return {name: np.array(value) for name, value in tree_flatten(model.parameters())}


def assert_close(first, second, rtol=0.0, atol=0.0):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol, atol, err_msg=name)


def thread_names():
    gc.collect()  # the threads of other tests' steps end
    return [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("sizes", [(8,), (7,), (1,), (5, 1, 8), (1, 4)])
def test_threads_change_an_update_by_rounding_only(
    make_network, make_batch, loss_fn, sizes, threads, compile
):
    results = []
    for count in (1, threads):
        model = make_network()
        optimizer = mlx.optimizers.SGD(0.0, momentum=0.9)
        step = TrainStep(model, optimizer, loss_fn, 0.1, compile=compile, threads=count)
        result = {}
        for number in range(3):
            update = [make_batch(size, 10 * number + size) for size in sizes]
            loss, norm = step(update, 0.5)
            numbers = {"loss": np.array(loss), "norm": np.array(norm)}
            numbers["weight"] = np.array(step.weight)
            result |= {f"{name}.{number}": value for name, value in numbers.items()}
        results.append(result | parameters(model))
    # Sums in another order; 1e-7 is the rounding of weights near 1 where one of them is near 0.
    assert_close(*results, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("compile", [True, False])
def test_training_with_dropout_repeats_with_the_seed_and_continues_from_its_key(
    make_network, make_batch, loss_fn, compile
):
    def losses(step, start, stop):
        # With a rate of 0 nothing but the dropout mask can change the loss.
        return [float(step([make_batch(8), make_batch(7)], 0.0)[0]) for _ in range(start, stop)]

    step = TrainStep(make_network(dropout=0.5), AdamW(), loss_fn, compile=compile, threads=2)
    mx.random.seed(3)
    first = losses(step, 0, 2)
    high, low = random_key()
    first += losses(step, 2, 5)
    assert len(set(first)) == 5
    mx.random.seed(3)
    assert losses(step, 0, 5) == first
    other = TrainStep(make_network(dropout=0.5), AdamW(), loss_fn, compile=compile, threads=2)
    mx.random.seed((high << 32) | low)
    assert losses(other, 2, 5) == first[2:]


def test_parts_of_a_batch_draw_different_dropout():
    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = mx.ones(64)
            self.dropout = nn.Dropout(0.5)

        def __call__(self, x):
            return self.dropout(x * self.factor)

    def loss_fn(model, batch):
        return model(batch["x"]).sum(), mx.array(1.0)

    mx.random.seed(0)
    model = Kept()
    step = TrainStep(model, mlx.optimizers.SGD(0.0), loss_fn, None, threads=2)
    step([{"x": mx.ones((2, 64))}], 1.0)
    # The gradient of a unit: dropout's scale of 2, total weight 2, so in how many parts it is kept.
    assert set((1 - model.factor).tolist()) == {0.0, 1.0, 2.0}


def test_each_thread_traces_each_shape_once(make_network, make_batch, loss_fn):
    traces = []

    def counting(model, batch):
        traces.append(batch["x"].shape[0])
        return loss_fn(model, batch)

    step = TrainStep(make_network(dropout=0.1), AdamW(), counting, threads=2)
    for number in range(4):
        step([make_batch(7, number), make_batch(8, number)], 0.1)
    assert sorted(traces) == [3, 4, 4]  # one thread had 3 and 4 rows, the other 4 and 4


def test_freezing_and_eval_mode_between_updates_are_noticed(make_network, make_batch, loss_fn):
    model = make_network(dropout=0.5)
    model.layers[0].freeze()
    step = TrainStep(model, AdamW(), loss_fn, threads=2)
    before = parameters(model)
    step([make_batch(8)], 0.1)
    moved = {name for name, value in parameters(model).items() if (value != before[name]).any()}
    assert moved == {"layers.1.weight", "layers.1.bias"}
    model.unfreeze()
    before = parameters(model)
    step([make_batch(8)], 0.1)
    assert all((value != before[name]).any() for name, value in parameters(model).items())
    model.eval()
    assert len({float(step([make_batch(8)], 0.0)[0]) for _ in range(3)}) == 1


def test_replaced_weights_are_used(make_network, make_batch, loss_fn):
    losses = []
    for threads in (1, 2):
        model = make_network()
        step = TrainStep(model, AdamW(), loss_fn, threads=threads)
        step([make_batch(8)], 0.1)
        model.update({"layers": [{"weight": mx.zeros((8, 6)) + 0.1}]})  # not evaluated
        losses.append(float(step([make_batch(8)], 0.1)[0]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize("compile", [True, False])
def test_running_statistics_are_those_of_the_first_thread(make_batch, loss_fn, compile):
    def statistics(threads, rows):
        mx.random.seed(0)
        model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm(3))
        step = TrainStep(model, AdamW(), loss_fn, compile=compile, threads=threads)
        for _ in range(2):
            update = [make_batch(8, 1), make_batch(8, 2)]
            step([{name: x[:rows] for name, x in batch.items()} for batch in update], 0.0)
        return np.array(model.layers[1].running_mean)

    np.testing.assert_allclose(statistics(2, 8), statistics(1, 4), rtol=1e-6)


@pytest.mark.parametrize("compile", [True, False])
def test_arrays_in_tuples_and_made_on_the_way_are_constants(make_batch, loss_fn, compile):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)
            self._scales = (mx.array([1.0, 2.0, 3.0]), mx.arange(3) * 1.0)

        def __call__(self, x):
            if "_shift" not in self:
                self._shift = mx.arange(3) + 1.0
            return self.linear(x) * self._scales[0] + self._scales[1] + self._shift

    results = []
    for threads in (1, 2):
        mx.random.seed(0)
        model = Model()
        mx.eval(model.linear)
        step = TrainStep(model, AdamW(), loss_fn, compile=compile, threads=threads)
        result = {str(n): np.array(step([make_batch(8, n)], 0.1)[0]) for n in range(4)}
        results.append(result | {"shift": np.array(model._shift)})
    assert_close(*results, rtol=2e-6)


@pytest.mark.parametrize("compile", [True, False])
def test_an_error_of_the_loss_reaches_the_caller_and_leaves_the_step_usable(
    make_network, make_batch, loss_fn, compile
):
    class Odd(LookupError):
        pass

    def failing(model, batch):
        loss = loss_fn(model, batch)
        if batch["x"].shape[0] == 3:
            raise Odd("three rows")
        return loss

    results = []
    for updates in ([6, 4], [4]):
        model = make_network()
        model._constants = (mx.ones(3), [mx.ones(3)])
        step = TrainStep(model, AdamW(), failing, compile=compile, threads=2)
        for rows in updates:
            if rows == 6:
                with pytest.raises(Odd, match=r"^three rows$"):
                    step([make_batch(rows)], 0.1)
            else:
                step([make_batch(rows)], 0.1)
        results.append(parameters(model))
    assert_close(*results)


def test_an_array_that_is_not_evaluated_is_explained(make_network, make_batch, loss_fn):
    factor = mx.ones(3) * 2

    def scaled(model, batch):
        loss, weight = loss_fn(model, batch)
        return loss * factor.sum(), weight

    step = TrainStep(make_network(), AdamW(), scaled, threads=2)
    with pytest.raises(RuntimeError, match="There is no Stream") as error:
        step([make_batch(4)], 0.1)
    assert error.value.__notes__ == [
        "With threads > 1, arrays that loss_fn uses besides those of model and batch must be "
        "evaluated beforehand: mx.eval(...)"
    ]


def test_threads_end_with_close_and_start_again(make_network, make_batch, loss_fn):
    step = TrainStep(make_network(), AdamW(), loss_fn, threads=2)
    step.close()
    step([make_batch(4)], 0.1)
    assert thread_names().count("mlx-trainer") == 2
    step.close()
    step.close()
    assert "mlx-trainer" not in thread_names()
    step([make_batch(4)], 0.1)
    step.close()
    assert step.updates == 2


def test_threads_end_when_the_step_is_collected(make_network, make_batch, loss_fn):
    step = TrainStep(make_network(), AdamW(), loss_fn, threads=2)
    step([make_batch(4)], 0.1)
    gone = weakref.ref(step)
    del step
    assert "mlx-trainer" not in thread_names()
    assert gone() is None


def test_one_thread_starts_none(make_network, make_batch, loss_fn):
    TrainStep(make_network(), AdamW(), loss_fn)([make_batch(4)], 0.1)
    assert "mlx-trainer" not in thread_names()


END = """
import sys
import mlx.core as mx
import mlx.nn as nn
from mlx_trainer import AdamW, TrainStep
mx.set_default_device(mx.cpu)

def loss_fn(model, batch):
    if batch["x"].shape[0] == 1:
        raise ArithmeticError("one row")
    return mx.square(model(batch["x"])).sum(), mx.array(1.0)

model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Dropout(0.5), nn.Linear(4, 1))
step = TrainStep(model, AdamW(), loss_fn, threads=2)
step([{"x": mx.ones((6, 4))}], 0.1)
"""
INTERRUPT = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize(
    ("end", "code", "error"),
    [
        ("", 0, ""),
        ("step.close()", 0, ""),
        ("del step, model", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("step([{'x': mx.ones((2, 4))}], 0.1)", 1, "ArithmeticError: one row"),
        (INTERRUPT, -2, "KeyboardInterrupt"),
    ],
)
def test_the_process_ends_cleanly(end, code, error, start):
    process = start([sys.executable, "-c", END + end], stderr=subprocess.PIPE)
    _, errors = process.communicate()
    assert process.returncode == code, errors
    assert (errors.splitlines() or [""])[-1] == error


def test_rows_are_split_evenly_and_in_order():
    batch = {"x": mx.arange(10).reshape(5, 2), "y": mx.arange(5)}
    for count, expected in [(1, [5]), (2, [2, 3]), (3, [1, 2, 2]), (9, [1] * 5)]:
        parts = split_rows(batch, count)
        assert [part["x"].shape[0] for part in parts] == expected
        for name, value in batch.items():
            assert mx.array_equal(mx.concatenate([part[name] for part in parts]), value)


def test_batches_without_rows_in_common_are_refused(make_network, loss_fn, exactly):
    step = TrainStep(make_network(), AdamW(), loss_fn, threads=2)
    for y in (np.zeros(3), np.array(1.0)):
        with pytest.raises(
            ValueError,
            match=exactly(
                "threads=2 splits batches by rows, so all arrays of a batch need the same first "
                f"axis, got shapes {{'x': (4, 6), 'y': {y.shape}}}"
            ),
        ):
            step([{"x": np.zeros((4, 6)), "y": y}], 0.1)


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_no_threads_and_more_than_cores_are_refused(make_network, loss_fn, exactly, threads):
    message = (
        f"threads must be from 1 to {max(8, os.cpu_count())}, got {threads}: each thread stores "
        "gradients of the whole model, and more threads than cores save no time"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        TrainStep(make_network(), AdamW(), loss_fn, threads=threads)


@pytest.mark.skipif(not mx.is_available(mx.gpu), reason="needs a GPU")
def test_threads_on_a_gpu_are_refused(make_network, loss_fn):
    mx.set_default_device(mx.gpu)
    with pytest.raises(ValueError, match=r"^threads=2 is for the CPU, but the default device is "):
        TrainStep(make_network(), AdamW(), loss_fn, threads=2)
