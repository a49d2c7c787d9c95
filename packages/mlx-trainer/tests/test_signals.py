import signal
import threading

import mlx.core as mx
import numpy as np
import pytest

from mlx_trainer import AdamW, Checkpoints, Stopped, TrainStep, fit, stop_requested
from mlx_trainer.signals import SIGNALS


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_remembered_and_a_second_interrupts(number):
    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)  # a background shell ignores SIGINT
    try:
        with stop_requested() as stopping:
            assert stopping() == 0
            signal.raise_signal(number)
            assert stopping() == number
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_requested() as stopping:
            signal.raise_signal(signal.SIGHUP)
            assert stopping() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_of_the_main_thread_signals_are_left_alone():
    found = []

    def use():
        with stop_requested() as stopping:
            found.append((stopping(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [(0, signal.getsignal(signal.SIGTERM))]


@pytest.mark.parametrize("at", [1, 2, 3, 4])  # the middle and the end of an epoch
def test_a_stopped_fit_saves_and_goes_on_as_if_it_had_not_stopped(
    tmp_path, make_network, loss_fn, make_batch, at
):
    batches = lambda epoch, start: ([make_batch(8, 10 * epoch + i)] for i in range(start, 2))  # noqa: E731

    def train(folder, stop_at=None):
        mx.random.seed(1)
        network = make_network(dropout=0.3)
        step = TrainStep(network, AdamW(), loss_fn)
        fit(step, batches, 2, epochs=3, learning_rate=0.01, checkpoints=Checkpoints(folder),
            resume=folder.exists(),
            stopping=lambda: signal.SIGTERM if step.updates == stop_at else 0)  # fmt: skip
        return np.array(network.layers[0].weight)

    whole = train(tmp_path / "whole")
    with pytest.raises(Stopped) as stopped:
        train(tmp_path / "cut", stop_at=at)
    assert stopped.value.signal_number == signal.SIGTERM
    assert str(stopped.value) == f"a checkpoint of update {at} is in {tmp_path / 'cut'}"
    assert np.array_equal(train(tmp_path / "cut"), whole)
