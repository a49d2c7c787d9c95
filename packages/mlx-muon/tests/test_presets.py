"""Presets against the code of their authors, and against float64 NumPy written from the papers."""

import math

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_muon import AdamWRule, Muon, MuonRule, adamuon, keller, moonlight, nanochat, normuon

JORDAN = [(3.4445, -4.7750, 2.0315)] * 5
POLAR_EXPRESS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]
SHAPES = {"tall": (24, 10), "wide": (10, 24), "square": (12, 12), "ve_gate": (6, 12)}


def iterate(x, coefficients):
    for a, b, c in coefficients:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def newton_schulz(x):
    wide = x.T if x.shape[0] > x.shape[1] else x
    found = iterate(wide / (np.linalg.norm(wide) + 1e-7), JORDAN)
    return found.T if x.shape[0] > x.shape[1] else found


def aspect(shape):
    return math.sqrt(max(1, shape[0] / shape[1]))


class KellerNumPy:
    """Momentum as a mean, Nesterov, five steps of Newton-Schulz, decoupled decay."""

    rate, decay, mu = 0.02, 0.1, 0.95

    def __init__(self, shape):
        self.momentum = np.zeros(shape)

    def look_ahead(self, gradient):
        self.momentum = self.mu * self.momentum + (1 - self.mu) * gradient
        return (1 - self.mu) * gradient + self.mu * self.momentum

    def __call__(self, weight, gradient, step):
        update = newton_schulz(self.look_ahead(gradient))
        return weight * (1 - self.rate * self.decay) - self.rate * aspect(weight.shape) * update


class MoonlightNumPy(KellerNumPy):
    """Momentum as a sum, updates of the size of AdamW's, decay at the plain rate."""

    rate, decay = 1e-2, 0.1

    def __call__(self, weight, gradient, step):
        self.momentum = self.mu * self.momentum + gradient
        update = (
            0.2 * math.sqrt(max(weight.shape)) * newton_schulz(gradient + self.mu * self.momentum)
        )
        return weight * (1 - self.rate * self.decay) - self.rate * update


class NorMuonNumPy(KellerNumPy):
    """Rows divided by their root mean square, with the norm of the update unchanged."""

    def __init__(self, shape):
        super().__init__(shape)
        self.second = np.zeros((shape[0], 1))

    def __call__(self, weight, gradient, step):
        update = newton_schulz(self.look_ahead(gradient))
        norm = np.linalg.norm(update)
        self.second = 0.95 * self.second + 0.05 * (update**2).mean(axis=1, keepdims=True)
        update = update / (np.sqrt(self.second) + 1e-10)
        update *= norm / np.linalg.norm(update)
        return weight * (1 - self.rate * self.decay) - self.rate * aspect(weight.shape) * update


class AdaMuonNumPy(KellerNumPy):
    """Orthogonalized signs, divided by the root variance of each entry, RMS 0.2."""

    rate, decay = 6e-4, 0.1

    def __init__(self, shape):
        super().__init__(shape)
        self.second = np.zeros(shape)

    def __call__(self, weight, gradient, step):
        update = newton_schulz(np.sign(self.look_ahead(gradient)))
        self.second = 0.95 * self.second + 0.05 * update**2
        update = update / (np.sqrt(self.second) + 1e-8)
        update *= 0.2 * math.sqrt(weight.size) / np.linalg.norm(update)
        return weight * (1 - self.rate * self.decay) - self.rate * update


class NanochatNumPy(KellerNumPy):
    """All eight parts of nanochat's step, and its three schedules."""

    steps, warmup, warmdown, final, decay = 20, 4, 13, 0.05, 0.7  # 13 = 0.65 * 20

    def __init__(self, shape):
        super().__init__(shape)
        rows, columns = shape
        self.axis = 1 if rows >= columns else 0
        self.second = np.zeros((rows, 1) if self.axis == 1 else (1, columns))

    def multiplier(self, step):
        if step < self.warmup:
            return (step + 1) / self.warmup
        if step <= self.steps - self.warmdown:
            return 1.0
        left = (self.steps - step) / self.warmdown
        return left + (1 - left) * self.final

    def __call__(self, weight, gradient, step):
        self.mu = 0.85 + step / 400 * (0.97 - 0.85)
        rate = 0.02 * self.multiplier(step) * aspect(weight.shape)
        decay = self.decay * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        x = self.look_ahead(gradient)
        row_norms = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
        x = x * (np.linalg.norm(x) / math.sqrt(len(x))) / row_norms
        x /= np.linalg.norm(x) * 1.01 + 1e-6
        x = iterate(x.T, POLAR_EXPRESS).T if x.shape[0] > x.shape[1] else iterate(x, POLAR_EXPRESS)
        x *= math.sqrt(min(x.shape)) / max(np.linalg.norm(x), 1e-6)
        variance = (x**2).mean(axis=self.axis, keepdims=True)
        self.second = 0.9 * self.second + 0.1 * variance
        scaled = x / np.sqrt(np.maximum(self.second, 1e-10))
        x = scaled * np.linalg.norm(x) / max(np.linalg.norm(scaled), 1e-10)
        return weight - rate * x - rate * decay * weight * (x * weight >= 0)


def nanochat_for_20_steps():
    numbers = NanochatNumPy
    return nanochat(768, numbers.steps, weight_decay=numbers.decay, warmup_steps=numbers.warmup)


PRESETS = {
    "keller": (lambda: keller(weight_decay=0.1), KellerNumPy),
    "moonlight": (lambda: moonlight(learning_rate=1e-2), MoonlightNumPy),
    "normuon": (lambda: normuon(weight_decay=0.1), NorMuonNumPy),
    "adamuon": (adamuon, AdaMuonNumPy),
    "nanochat": (nanochat_for_20_steps, NanochatNumPy),
}


def relative_error(found, expected):
    found, expected = np.array(found, np.float64), np.array(expected, np.float64)
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", PRESETS)
def test_20_steps_equal_a_float64_derivation(name, gaussian, gradients_of):
    make, reference = PRESETS[name]
    optimizer = make()
    weights = {
        f"blocks.{each}": gaussian(*shape, seed=9, sigma=0.3) for each, shape in SHAPES.items()
    }
    expected = {path: np.array(weight, np.float64) for path, weight in weights.items()}
    updates = {path: reference(weight.shape) for path, weight in weights.items()}
    for step in range(20):
        gradients = gradients_of(weights, step)
        weights = optimizer.apply_gradients(gradients, weights)
        for path, update in updates.items():
            gradient = np.array(gradients[path], np.float64)
            expected[path] = update(expected[path], gradient, step)
            assert relative_error(weights[path], expected[path]) <= 1e-5, (path, step)


@pytest.mark.parametrize("name", PRESETS)
def test_8_steps_equal_those_of_the_authors_code(name, load_fixture):
    arrays = load_fixture("sources.safetensors")
    make = {
        **{each: make for each, (make, _) in PRESETS.items()},
        "adamuon": lambda: adamuon(learning_rate=1e-2),
        "nanochat": lambda: nanochat(
            192, 8, batch_tokens=2**17, weight_decay=0.7, warmup_steps=2, warmdown_ratio=0.5
        ),
    }[name]
    optimizer = make()
    after = {
        path.removeprefix(f"{name}."): value
        for path, value in arrays.items()
        if path.startswith(f"{name}.")
    }
    assert len(after) == {"adamuon": 5, "nanochat": 13}.get(name, 8)
    parameters = {path: arrays[f"start.{path}"] for path in after}
    for step in range(8):
        gradients = {path: arrays[f"gradient.{step}.{path}"] for path in after}
        parameters = optimizer.apply_gradients(gradients, parameters)
        for path, values in after.items():
            assert relative_error(parameters[path], values[step]) <= 1e-5, (path, step)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_scale_of_the_gradients_does_not_matter(name, scale, gaussian):
    make, _ = PRESETS[name]
    for shape in SHAPES.values():
        found = []
        for factor in (1.0, scale):
            optimizer, weight = make(), np.zeros(shape, np.float32)
            for step in range(2):
                gradient = gaussian(*shape, seed=step) * factor
                tree = optimizer.apply_gradients({"w": gradient}, {"w": mx.array(weight)})
                weight = np.array(tree["w"])
            found.append(np.linalg.svd(weight, compute_uv=False))
        np.testing.assert_allclose(found[1], found[0], atol=1e-3 * found[0].max())


@pytest.mark.parametrize("name", PRESETS)
def test_a_gradient_of_zero_from_the_start_is_harmless(name):
    make, _ = PRESETS[name]
    optimizer = make()
    zeros = {"blocks.w": mx.zeros((4, 6))}
    for _ in range(3):
        after = optimizer.apply_gradients(zeros, zeros)
        np.testing.assert_array_equal(after["blocks.w"], 0)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("large", [3e19, 3e38])
def test_one_gradient_of_any_finite_size_leaves_state_and_weights_finite(name, large, gaussian):
    make, _ = PRESETS[name]
    optimizer = make()
    parameters = {"blocks.w": mx.zeros((4, 6)), "norm.weight": mx.zeros(4)}
    for factor in (1.0, large, -large, 1.0, 1.0):
        gradients = {path: factor * mx.clip(gaussian(*array.shape), -1, 1)
                     for path, array in parameters.items()}  # fmt: skip
        parameters = optimizer.apply_gradients(gradients, parameters)
    for path, array in tree_flatten([parameters, optimizer.state]):
        assert mx.all(mx.isfinite(array)), path


@pytest.mark.parametrize(
    ("make", "rate"),
    [(Muon, 0.02), (MuonRule, 0.02), (AdamWRule, 0.02), (keller, 0.02), (moonlight, 0.02),
     (normuon, 0.02), (adamuon, 0.02), (lambda *each: nanochat(768, *each), 10)],
)  # fmt: skip
def test_all_arguments_but_the_rate_are_keyword_only(make, rate):
    # The next argument of mlx.optimizers.Muon is momentum, of AdamW betas; here weight decay.
    make(rate)
    with pytest.raises(TypeError, match="positional argument"):
        make(rate, 0.95)


def test_presets_take_the_options_of_muon_and_other_rules():
    rule = MuonRule(scale="none")
    for make in (keller, moonlight, normuon, adamuon):
        optimizer = make(0.5, weight_decay=0.25, muon=rule, keep_mantissa=True)
        assert optimizer.muon is rule
        assert optimizer.keep_mantissa
        assert (float(optimizer.learning_rate), optimizer.weight_decay) == (0.5, 0.25)
    optimizer = nanochat(768, 10, muon=rule, schedule=None)
    assert optimizer.muon is rule
    assert float(optimizer.learning_rate) == pytest.approx(0.02)


@pytest.mark.parametrize("arguments", [(0, 10), (768, 0), (768, 10, 0)])
def test_nanochat_refuses_sizes_below_1(arguments, exactly):
    n_embd, steps, batch_tokens = (*arguments, 2**19)[:3]
    listed = f"{n_embd}, {steps}, {batch_tokens}"
    message = f"nanochat: n_embd, steps and batch_tokens must be at least 1, got {listed}"
    with pytest.raises(ValueError, match=exactly(message)):
        nanochat(n_embd, steps, batch_tokens=batch_tokens)
