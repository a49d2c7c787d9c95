"""The depth dial: nanochat's sizes, tokens, batches and rates."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_gpt.models.nanochat import Nanochat
from mlx_gpt.training.plan import config_for, count_parameters, make_plan

# depth: width, heads, total and scaling parameters (millions), tokens (billions), batch, steps,
# scale of rates by batch and by width, weight decay; computed from nanochat's rules.
TABLE = {
    4: (256, 2, 36.7, 11.5, 0.14, 262144, 528, 0.707, 1.732, 1.890),
    6: (384, 3, 73.5, 23.2, 0.28, 262144, 1062, 0.707, 1.414, 0.940),
    8: (512, 4, 125.8, 41.9, 0.50, 262144, 1920, 0.707, 1.225, 0.520),
    12: (768, 6, 286.3, 110.1, 1.32, 524288, 2520, 1.0, 1.0, 0.280),
    16: (1024, 8, 536.9, 234.9, 2.82, 524288, 5376, 1.0, 0.866, 0.131),
    20: (1280, 10, 896.5, 435.2, 5.22, 1048576, 4980, 1.414, 0.775, 0.100),
    24: (1536, 12, 1384.1, 729.8, 8.76, 1048576, 8352, 1.414, 0.707, 0.060),
    26: (1664, 13, 1681.8, 918.4, 11.02, 1048576, 10510, 1.414, 0.679, 0.048),
}


@pytest.mark.parametrize("depth", TABLE)
def test_the_plan_is_nanochats(depth):
    plan = make_plan(depth)
    width, heads, total, scaling, billions, batch, steps, by_batch, by_width, decay = TABLE[depth]
    assert (plan.config.n_embd, plan.config.n_head, plan.config.n_kv_head) == (width, heads, heads)
    assert (plan.config.n_layer, plan.config.head_dim) == (depth, 128)
    assert round(plan.parameters.total / 1e6, 1) == total
    assert round(plan.parameters.scaling / 1e6, 1) == scaling
    assert plan.tokens / 1e9 == pytest.approx(billions, abs=0.006)
    assert (plan.batch_tokens, plan.steps) == (batch, steps)
    assert plan.batch_rate_scale == pytest.approx(by_batch, abs=5e-4)
    assert plan.width_rate_scale == pytest.approx(by_width, abs=5e-4)
    assert plan.weight_decay == pytest.approx(decay, abs=1e-3)


@pytest.mark.parametrize(("depth", "kv_heads"), [(1, None), (3, 2), (4, 1)])
def test_the_counted_parameters_are_those_of_the_model(depth, kv_heads):
    config = config_for(depth, 100, 64, width_per_layer=32, head_dim=8, n_kv_head=kv_heads)
    model = Nanochat(config)
    held = {path: array.size for path, array in tree_flatten(model.parameters())}
    counts = count_parameters(config)
    assert counts.total == sum(held.values())
    assert counts.matrices == sum(size for path, size in held.items() if ".h." in path)
    assert counts.head == held["lm_head.weight"]


def test_windows_are_a_quarter_rounded_up_to_128_and_the_last_layer_sees_everything():
    for length, short in ((2048, 512), (1024, 256), (512, 128), (64, 128), (2052, 640)):
        config = config_for(6, 100, length)
        assert config.windows == [short, short, short, length, short, length]


def test_steps_and_batch_can_be_chosen_and_the_table_says_so():
    plan = make_plan(4, 4096, 256, batch_tokens=8192, steps=300)
    assert plan.tokens == 300 * 8192
    assert plan.weight_decay == pytest.approx(
        0.28 * (8192 / 2**19) ** 0.5 * make_plan(12, 4096).parameters.scaling
        / plan.parameters.scaling
    )  # fmt: skip
    assert "2,457,600 = 300 steps of 8,192" in plan.table()


def test_training_flops_are_six_a_parameter_and_the_windows():
    plan = make_plan(12)
    matrices = plan.parameters.scaling + 24
    windows = [512, 512, 512, 2048] * 3
    assert plan.flops_per_token == 6 * matrices + sum(12 * 768 * each for each in windows)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"depth": 2, "steps": 0}, "steps must be at least 1, got 0"),
        ({"depth": 2, "window_pattern": "SX"}, "window_pattern must be made of S and L, got 'SX'"),
        ({"depth": 2, "tokens_per_parameter": 0}, "tokens_per_parameter must be positive, got 0"),
        ({"depth": 3, "n_kv_head": 3}, "n_head must be a multiple of n_kv_head, got 2 and 3"),
    ],
)
def test_wrong_values_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        make_plan(**wrong)


def test_buffers_are_no_parameters():
    model = Nanochat(config_for(2, 100, 64, head_dim=16), mx.float32)
    paths = {path for path, _ in tree_flatten(model.trainable_parameters())}
    block = {"attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
    expected = {f"transformer.h.{i}.{name}.weight" for i in range(2) for name in block}
    expected |= {"transformer.h.1.attn.ve_gate.weight", "value_embeds.0.weight"}
    expected |= {"transformer.wte.weight", "lm_head.weight", "smear_gate.weight"}
    expected |= {"smear_lambda", "backout_lambda", "resid_lambdas", "x0_lambdas"}
    assert paths == expected
