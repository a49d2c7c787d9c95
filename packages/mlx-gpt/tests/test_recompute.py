import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_gpt.models.layers import checkpointed
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = mx.array([2.0, 3.0])

    def __call__(self, x: mx.array, pair: tuple[mx.array, None], ids: mx.array) -> mx.array:
        return mx.sin(self.weight * x)[ids] + pair[0]


def test_gradients_go_to_weights_and_to_nested_inputs():
    module = Scaled()
    x, y, ids = mx.array([0.5, -1.0]), mx.array([1.0]), mx.array([1, 1, 0])

    def loss(call, weight, x, y):
        module.weight = weight
        return mx.square(call(x, (y, None), ids)).sum()

    weight = module.weight
    plain = mx.grad(lambda *a: loss(module, *a), (0, 1, 2))(weight, x, y)
    again = mx.grad(lambda *a: loss(checkpointed(module), *a), (0, 1, 2))(weight, x, y)
    for ours, theirs in zip(again, plain, strict=True):
        assert mx.allclose(ours, theirs, rtol=1e-6, atol=0)


def peak_memory(checkpoint_blocks: bool) -> int:
    """Return the bytes that a forward and backward pass needs at most."""
    config = NanochatConfig(
        sequence_len=64, vocab_size=64, n_layer=10, n_head=2, n_kv_head=2, n_embd=64,
        window_pattern="L",
    )  # fmt: skip
    model = Nanochat(config, checkpoint_blocks=checkpoint_blocks).initialize(mx.random.key(0))
    ids = mx.random.randint(0, 64, (8, 64), key=mx.random.key(1))
    mx.eval(model.parameters(), ids)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(nn.value_and_grad(model, lambda: model(ids).sum())())
    return mx.get_peak_memory() - before


def test_what_is_inside_of_blocks_is_not_kept():
    # 0.24; 0.7 where the backward pass of one block does not wait for that above it.
    assert peak_memory(True) < 0.4 * peak_memory(False)


def test_the_module_keeps_its_weights():
    module = Scaled()
    weight = module.weight
    checkpointed(module)(mx.ones(2), (mx.ones(1), None), mx.array([0]))
    assert module.weight is weight
    with pytest.raises(ValueError, match="broadcast"):
        checkpointed(module)(mx.ones(5), (mx.ones(1), None), mx.array([0]))
    assert module.weight is weight
