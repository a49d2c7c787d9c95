import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_muon import COEFFICIENTS, orthogonalize

METHODS = ["polar_express", "newton_schulz", "dion", "svd"]
NORMS = ["frobenius", "schatten4", "aol"]


def singular_values(x):
    return np.linalg.svd(np.array(x.astype(mx.float32), np.float64), compute_uv=False)


def polar_factor(x):
    u, _, v = np.linalg.svd(np.array(x, np.float64), full_matrices=False)
    return u @ v


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (20, 20), (1, 7), (7, 1), (1, 1)])
def test_svd_is_the_polar_factor(shape, gaussian):
    x = gaussian(*shape)
    np.testing.assert_allclose(orthogonalize(x, "svd"), polar_factor(x), atol=1e-5)


def test_svd_keeps_missing_directions_at_zero(gaussian):
    x = gaussian(12, 3) @ gaussian(3, 20, seed=1)
    found = singular_values(orthogonalize(x, "svd"))
    np.testing.assert_allclose(found[:3], 1, atol=1e-5)
    np.testing.assert_allclose(found[3:], 0, atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 64), (64, 32), (16, 128)])
@pytest.mark.parametrize(
    ("method", "low", "high"),
    [("polar_express", 0.85, 1.15), ("newton_schulz", 0.65, 1.2), ("dion", 0.65, 1.2)],
)
def test_singular_values_of_wide_and_tall_matrices_come_near_1(method, low, high, shape, gaussian):
    for seed in range(5):
        found = singular_values(orthogonalize(gaussian(*shape, seed=seed), method))
        assert low <= found.min() <= found.max() <= high, seed


@pytest.mark.parametrize("method", ["polar_express", "newton_schulz", "dion"])
def test_singular_values_of_square_matrices_stay_below_a_bound(method, gaussian):
    # The smallest are not reached in 5 steps: 0.05 to 0.4 in such matrices.
    for seed in range(5):
        assert singular_values(orthogonalize(gaussian(48, 48, seed=seed), method)).max() <= 1.21


@pytest.mark.parametrize("method", ["polar_express", "newton_schulz"])
@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (16, 20)])
def test_singular_vectors_are_kept(method, shape, gaussian):
    x = gaussian(*shape)
    found = np.array(orthogonalize(x, method), np.float64)
    u, _, v = np.linalg.svd(np.array(x, np.float64), full_matrices=False)
    core = u.T @ found @ v.T  # diagonal when they are
    np.testing.assert_allclose(core, np.diag(np.diag(core)), atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_scale_of_the_input_does_not_matter(method, norm, scale, gaussian):
    # mlx.optimizers.Muon, which adds 1e-7 to the norm, has a mean of 0.31 at 1e-10.
    for shape in [(16, 40), (12, 12)]:
        x = gaussian(*shape)
        expected = singular_values(orthogonalize(x, method, norm=norm))
        found = singular_values(orthogonalize(x * scale, method, norm=norm))
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", [*NORMS, "none"])
@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 6)])
def test_zeros_stay_zeros_beside_other_matrices(method, norm, shape, gaussian):
    x = gaussian(*shape) / 100
    found = orthogonalize(mx.stack([mx.zeros(shape), x]), method, norm=norm)
    np.testing.assert_array_equal(found[0], 0)
    alone = orthogonalize(x, method, norm=norm)
    np.testing.assert_allclose(found[1], alone, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_empty_rows_and_columns_stay_empty(norm, gaussian):
    x = gaussian(8, 24)
    x[3] = 0
    x[:, 5] = 0
    found = orthogonalize(x, norm=norm)
    assert mx.all(mx.isfinite(found))
    np.testing.assert_array_equal(found[3], 0)
    np.testing.assert_array_equal(found[:, 5], 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(64, 128), (64, 64)])
def test_float16_of_sigma_10_does_not_overflow(method, shape, gaussian):
    # The sum of squares, 800,000, is inf in float16.
    x = gaussian(*shape, sigma=10.0).astype(mx.float16)
    found = orthogonalize(x, method)
    assert found.dtype == mx.float16
    assert singular_values(found).max() <= 1.21


@pytest.mark.parametrize("method", ["polar_express", "newton_schulz"])
def test_bfloat16_iteration_is_within_its_rounding_of_float32(method, gaussian):
    x = gaussian(32, 64)
    found = orthogonalize(x, method, dtype=mx.bfloat16)
    assert found.dtype == mx.float32
    # 5 steps of 8 bits; entries are about 0.12.
    np.testing.assert_allclose(found, orthogonalize(x, method), atol=0.02)
    assert not mx.array_equal(found, orthogonalize(x, method))


def test_each_expert_is_a_matrix_of_its_own(gaussian):
    # mlx.optimizers.Muon flattens them into one: 0.04 to 0.24 each.
    x = gaussian(5, 32, 64)
    found = orthogonalize(x)
    for expert in found:
        values = singular_values(expert)
        assert 0.85 <= values.min() <= values.max() <= 1.15


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 6)])
def test_stacks_of_any_depth_equal_their_matrices_bit_for_bit(method, shape, gaussian):
    x = gaussian(2, 3, *shape)
    found = orthogonalize(x, method)
    for i in range(2):
        for j in range(3):
            assert mx.array_equal(found[i, j], orthogonalize(x[i, j], method))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 40),
    method=st.sampled_from(["polar_express", "newton_schulz", "dion"]),
    norm=st.sampled_from(NORMS),
    seed=st.integers(0, 1000),
)
def test_gram_path_equals_the_direct_one(rows, columns, method, norm, seed):
    x = mx.array(np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32))
    direct = orthogonalize(x, method, norm=norm, gram=False)
    # The Gram matrix squares the condition number: singular values below 3e-4 of the largest are
    # noise in it, which five steps enlarge up to a thousandfold. Wide matrices have none.
    tolerance = 1e-4 if max(rows, columns) >= 2 * min(rows, columns) else 1e-2
    np.testing.assert_allclose(
        orthogonalize(x, method, norm=norm, gram=True), direct, atol=tolerance
    )


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 12), columns=st.integers(1, 30), seed=st.integers(0, 1000))
def test_orthogonalize_commutes_with_transposition_and_rotation(rows, columns, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, columns)).astype(np.float32)
    found = np.array(orthogonalize(mx.array(x)))
    np.testing.assert_allclose(orthogonalize(mx.array(x.T)), found.T, atol=1e-5)
    turn = np.linalg.qr(random.normal(size=(rows, rows)))[0].astype(np.float32)
    # Rounding in the directions of small singular values grows about a thousandfold.
    np.testing.assert_allclose(orthogonalize(mx.array(turn @ x)), turn @ found, atol=1e-3)


def test_own_coefficients_are_iterated_and_the_last_repeated(gaussian):
    x = gaussian(10, 14)
    cubic = [(1.5, -0.5, 0.0)]
    found = orthogonalize(x, cubic, steps=40)
    np.testing.assert_allclose(found, polar_factor(x), atol=1e-4)
    expected = orthogonalize(x, [*COEFFICIENTS["dion"], COEFFICIENTS["dion"][-1]])
    assert mx.array_equal(orthogonalize(x, "dion", steps=6), expected)


def test_one_step_is_the_polynomial_of_the_normalized_matrix(gaussian):
    x = gaussian(4, 6)
    y = np.array(x, np.float64) / np.linalg.norm(np.array(x, np.float64))
    gram = y @ y.T
    expected = 2.0 * y - 1.5 * gram @ y + 0.5 * gram @ gram @ y
    np.testing.assert_allclose(orthogonalize(x, [(2.0, -1.5, 0.5)]), expected, atol=1e-6)


def test_norms_bring_the_largest_singular_value_to_at_most_1(gaussian):
    identity = [(1.0, 0.0, 0.0)]
    x = gaussian(16, 24)
    found = {norm: singular_values(orthogonalize(x, identity, norm=norm)) for norm in NORMS}
    for values in found.values():
        assert values.max() <= 1 + 1e-5
    assert found["schatten4"].max() > 1.3 * found["frobenius"].max()
    assert found["aol"].max() > 1.3 * found["frobenius"].max()
    np.testing.assert_allclose(np.sum(found["frobenius"] ** 2), 1, rtol=1e-5)
    np.testing.assert_allclose(np.sum(found["schatten4"] ** 4), 1, rtol=1e-5)
    assert mx.array_equal(orthogonalize(x, identity, norm="none", gram=False), x)


def test_polar_express_divides_by_a_little_more_than_the_norm():
    # A matrix of rank one has its norm as its only singular value: 1 before the first step.
    found = float(singular_values(orthogonalize(mx.ones((4, 4)))).max())
    s = 1 / 1.01
    for a, b, c in COEFFICIENTS["polar_express"]:
        s = a * s + b * s**3 + c * s**5
    assert found == pytest.approx(s, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"x": mx.zeros(3)},
            "orthogonalize needs matrices, (..., rows, columns); got shape (3,)",
        ),
        (
            {"norm": "spectral"},
            "norm must be one of frobenius, schatten4, aol, none, got 'spectral'",
        ),
        (
            {"method": "ns5"},
            "method must be one of polar_express, newton_schulz, dion, svd, or coefficients; "
            "got 'ns5'",
        ),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"method": []}, "coefficients must be (a, b, c) for each step, got []"),
        (
            {"method": [(1.0, 2.0)]},
            "coefficients must be (a, b, c) for each step, got [(1.0, 2.0)]",
        ),
    ],
)
def test_invalid_inputs_are_refused(arguments, message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        orthogonalize(**{"x": mx.zeros((3, 4)), **arguments})


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_two_streams_change_no_bit(count, gram, compile):
    x = mx.random.normal((count, 8, 12), key=mx.random.key(count))

    def both(two_streams):
        def function(x):
            return orthogonalize(x, gram=gram, two_streams=two_streams) + 0

        return (mx.compile(function) if compile else function)(x)

    assert mx.array_equal(both(True), both(False))
