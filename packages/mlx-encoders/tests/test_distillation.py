from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_encoders import (
    build_model,
    distillation_loss,
    hidden_state_loss,
    keep_layers,
    spaced_layers,
    student_of,
    value_distillation_loss,
)


@pytest.fixture
def logits():
    return mx.random.normal((2, 5, 4), key=mx.random.key(0)) * 3


def float64_loss(student, teacher, labels, temperature, alpha, weight):
    """The definition, in float64."""

    def log_softmax(x):
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    s, t = (np.array(x, dtype=np.float64) for x in (student, teacher))
    log_p, log_q = log_softmax(t / temperature), log_softmax(s / temperature)
    loss = temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(-1)
    if labels is not None:
        hard = -np.take_along_axis(log_softmax(s), np.array(labels)[..., None], -1)[..., 0]
        loss = alpha * loss + (1 - alpha) * hard
    return (loss * weight).sum() / weight.sum()


@pytest.mark.parametrize("with_labels", [False, True])
def test_the_loss_and_its_gradient_equal_the_definition(logits, with_labels):
    student, teacher = logits
    labels = mx.array([0, 3, 1, 2, 2]) if with_labels else None
    weight = mx.array([1.0, 0.5, 0.0, 2.0, 1.0])
    options = {"temperature": 3.0, "alpha": 0.3}

    def loss(student):
        return distillation_loss(student, teacher, labels, sample_weight=weight, **options)

    value, gradient = mx.value_and_grad(loss)(student)
    reference = lambda s: float64_loss(s, teacher, labels, 3.0, 0.3, np.array(weight))  # noqa: E731
    assert abs(float(value) - reference(student)) < 1e-5
    for index in ((0, 1), (3, 2), (2, 0)):
        shifted = np.zeros((2, 5, 4))
        shifted[0][index], shifted[1][index] = 1e-4, -1e-4
        base = np.array(student, dtype=np.float64)
        slope = (reference(base + shifted[0]) - reference(base + shifted[1])) / 2e-4
        assert abs(float(gradient[index]) - slope) < 1e-4


def test_a_perfect_student_has_no_loss_and_a_teacher_no_gradient(logits):
    assert float(distillation_loss(logits[0], logits[0])) < 1e-6
    gradient = mx.grad(lambda teacher: distillation_loss(logits[0], teacher))(logits[1])
    assert not np.array(gradient).any()
    gradient = mx.grad(lambda teacher: value_distillation_loss(logits[0], teacher))(logits[1])
    assert not np.array(gradient).any()


def test_values_are_distilled_by_squares():
    student, teacher, targets = mx.array([1.0, 2.0]), mx.array([2.0, 2.0]), mx.array([0.0, 5.0])
    assert float(value_distillation_loss(student, teacher)) == 0.5
    mixed = value_distillation_loss(student, teacher, targets, alpha=0.25)
    assert abs(float(mixed) - (0.25 * 0.5 + 0.75 * 5.0)) < 1e-6


def test_hidden_states_are_compared_over_tokens_only(tiny_config, ids):
    teacher = build_model(tiny_config, seed=1)
    last = tiny_config.num_hidden_layers - 1
    student = keep_layers(teacher, [0])
    mask = np.arange(20) < np.array([[20], [11], [3]])
    states, goal = student.hidden_states(ids, mask), teacher.hidden_states(ids, mask)
    found = float(hidden_state_loss(states, goal, [last], mask))
    expected = 0.0
    for mine, theirs in ((states[0], goal[0]), (states[1], goal[last + 1])):
        expected += float(np.square(np.array(mine - theirs))[mask].mean()) / 2
    assert abs(found - expected) < 1e-5 * max(1.0, expected)
    assert float(hidden_state_loss(goal, goal, range(last + 1), mask)) == 0


def test_a_student_learns_from_the_teacher_alone(tiny_config, ids):
    teacher = build_model(tiny_config, seed=1)
    student = keep_layers(build_model(tiny_config, seed=2), [0])  # of other weights
    batch = mx.array(ids)
    goal = teacher.hidden_states(batch)
    mx.eval(goal)
    last = tiny_config.num_hidden_layers - 1

    def loss(model):
        return hidden_state_loss(model.hidden_states(batch), goal, [last])

    step, optimizer = nn.value_and_grad(student, loss), optim.Adam(1e-2)
    losses = []
    for _ in range(60):
        value, gradients = step(student)
        optimizer.update(student, gradients)
        mx.eval(student.parameters(), optimizer.state)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]


def test_wrong_arguments_are_refused(logits):
    with pytest.raises(ValueError, match=r"logits of one shape, got \(5, 4\) and \(4, 4\)"):
        distillation_loss(logits[0], logits[1][:4])
    with pytest.raises(ValueError, match="temperature must be positive"):
        distillation_loss(logits[0], logits[1], temperature=0)
    with pytest.raises(ValueError, match="the student has 1 layers, but `layers` names 2"):
        hidden_state_loss([mx.ones((1, 2, 3))] * 2, [mx.ones((1, 2, 3))] * 4, [0, 1])
    with pytest.raises(ValueError, match=r"the teacher has 1 layers, got layers \[4\]"):
        hidden_state_loss([mx.ones((1, 2, 3))] * 2, [mx.ones((1, 2, 3))] * 2, [4])


def test_a_student_starts_as_spaced_layers_of_its_teacher(tiny_config, ids):
    assert spaced_layers(12, 6) == [0, 2, 4, 7, 9, 11]  # DistilBERT's
    assert spaced_layers(5, 1) == [0]
    assert spaced_layers(3, 3) == [0, 1, 2]
    with pytest.raises(ValueError, match="the number of layers must be from 1 to 3, got 4"):
        spaced_layers(3, 4)
    teacher = build_model(tiny_config)
    before = teacher(ids)
    last = tiny_config.num_hidden_layers - 1
    student = student_of(teacher, 2)
    assert mx.array_equal(student(ids), keep_layers(teacher, [0, last])(ids))
    assert mx.array_equal(student(ids), student_of(teacher, [0, last])(ids))
    optimizer = optim.SGD(0.1)
    optimizer.update(student, mx.grad(lambda p: sum(a.sum() for _, a in tree_flatten(p)))(
        student.trainable_parameters()))  # fmt: skip
    assert not mx.array_equal(student(ids), student_of(teacher, 2)(ids))
    assert mx.array_equal(teacher(ids), before)


def test_a_compiled_step_of_the_student_may_call_the_teacher(tiny_config, ids):
    """It cannot if they share arrays, into which MLX puts the tracers of the student's."""
    teacher = build_model(tiny_config)
    student = student_of(teacher, 1)
    optimizer = optim.Adam(1e-3)
    optimizer.init(student.trainable_parameters())
    mx.eval(optimizer.state, teacher.parameters(), student.parameters())
    before = teacher(ids)

    def loss(student, ids):
        return hidden_state_loss(student.hidden_states(ids), teacher.hidden_states(ids), [1])

    state = [student.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(ids):
        value, gradients = nn.value_and_grad(student, loss)(student, ids)
        optimizer.update(student, gradients)
        return value

    expected = float(loss(student, mx.array(ids)))
    embeddings = mx.array(student.get_input_embeddings().weight)
    assert abs(float(step(mx.array(ids))) - expected) < 1e-6
    assert not mx.array_equal(student.get_input_embeddings().weight, embeddings)
    assert mx.array_equal(teacher(ids), before)
