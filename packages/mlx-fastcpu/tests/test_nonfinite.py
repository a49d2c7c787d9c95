"""LAPACK, which aborts, hangs or returns finite numbers on NaN and infinity, never gets them."""

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is activated elsewhere")

# For each function: the part of a matrix that it reads, and whether it supports complex ones.
FUNCTIONS = {
    "eig": ("whole", True),
    "eigvals": ("whole", True),
    "svd": ("whole", True),
    "pinv": ("whole", False),
    "qr": ("whole", False),
    "inv": ("whole", False),
    "lu": ("whole", False),
    "lu_factor": ("whole", False),
    "det": ("whole", False),
    "slogdet": ("whole", False),
    "eigh": ("lower", True),
    "eigvalsh": ("lower", True),
    "cholesky": ("lower", False),
    "cholesky_inv": ("lower", False),
    "tri_inv": ("lower", False),
}
START = """
import json, mlx_fastcpu
import mlx.core as mx, numpy as np
mlx_fastcpu.activate()
def kinds(found):  # of the numbers in each result
    found = [found] if isinstance(found, mx.array) else found
    masks = [np.array(mx.isnan(each)) for each in found if mx.issubdtype(each.dtype, mx.inexact)]
    return sorted({"nan" if m.all() else "some" if m.any() else "none" for m in masks})
def matrices(*shape, dtype=mx.float32):
    a = np.random.default_rng(0).normal(size=shape)
    return mx.array(a @ np.swapaxes(a, -1, -2) + np.eye(shape[-1]), dtype)
"""


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_matrix_that_is_not_finite_gives_nan_in_every_function(values_of, value):
    found = values_of(
        START
        + f"""
found = {{}}
for name, (_, is_complex) in {FUNCTIONS!r}.items():
    if not hasattr(mx.linalg, name): continue
    for dtype in [mx.float32, mx.float64] + [mx.complex64] * is_complex:
        for size in (1, 5, 60):
            one, value = matrices(size, size, dtype=dtype), float({value!r})
            one[-1, 0] = value
            for a in (one, mx.full((size, size), value, dtype)):
                found[f"{{name}} {{dtype}} {{size}}"] = kinds(getattr(mx.linalg, name)(a))
print(json.dumps(found))
"""
    )
    assert len(found) > 80
    assert {name: kinds for name, kinds in found.items() if kinds != ["nan"]} == {}


def test_the_other_matrices_of_a_batch_do_not_change(values_of):
    found = values_of(
        START
        + f"""
found = {{}}
for name in {[*FUNCTIONS]!r}:
    if not hasattr(mx.linalg, name): continue
    front = getattr(mx.linalg, name)
    a = matrices(3, 2, 6, 6)
    expected = front.__wrapped__(a)
    a[1, 1, 4, 2] = float("inf")
    results = front(a)
    if isinstance(results, mx.array): expected, results = [expected], [results]
    same = np.ones((3, 2), bool); same[1, 1] = False
    found[name] = [
        bool(np.array_equal(np.array(ours)[same], np.array(theirs)[same])
             and (ours.dtype == mx.uint32 or mx.isnan(ours[1, 1]).all()))
        for ours, theirs in zip(results, expected, strict=True)
    ]
print(json.dumps(found))
"""
    )
    assert {name: each for name, each in found.items() if not all(each)} == {}


def test_only_the_triangle_that_is_read_counts(values_of):
    found = values_of(
        START
        + """
upper = matrices(5, 5); upper[0, 4] = float("nan")
x, linalg = mx.ones((5, 1)), mx.linalg
calls = {
    "cholesky": (linalg.cholesky(upper), linalg.cholesky(upper, True)),
    "cholesky_inv": (linalg.cholesky_inv(upper), linalg.cholesky_inv(upper, upper=True)),
    "tri_inv": (linalg.tri_inv(upper), linalg.tri_inv(upper, upper=True)),
    "solve": (linalg.solve_triangular(upper, x), linalg.solve_triangular(upper, x, upper=True)),
    "eigh": (linalg.eigh(upper), linalg.eigh(upper, "U")),
    "eigvalsh": (linalg.eigvalsh(upper, UPLO="L"), linalg.eigvalsh(upper, UPLO="U")),
}
print(json.dumps({name: [kinds(each) for each in pair] for name, pair in calls.items()}))
"""
    )
    assert {name: pair for name, pair in found.items() if pair != [["none"], ["nan"]]} == {}


def test_solutions_norms_and_samples_are_nan_too(values_of):
    found = values_of(
        START
        + """
a = matrices(3, 4, 4); a[1, 0, 0] = float("inf")
finite, linalg, zeros = a[0], mx.linalg, mx.zeros(4)
calls = {
    "solve": linalg.solve(a, mx.ones((3, 4, 2))),
    "vector": mx.stack([linalg.solve(each, mx.ones(4)) for each in a]),
    "nuc": linalg.norm(a, "nuc", axis=(-2, -1)),
    "2": linalg.norm(a, ord=2, axis=[1, 2], keepdims=True),
    "-2": mx.stack([linalg.norm(each, -2) for each in a]),
    "samples": mx.stack([mx.random.multivariate_normal(zeros, each, [5]) for each in a]),
}
print(json.dumps([
    [[kinds(each)[0] for each in found] for found in calls.values()],
    [linalg.norm(finite).item(), linalg.norm(mx.array([3.0, 4.0]), 2).item()],
    [linalg.norm(finite, 2, axis=0).shape, linalg.norm(a, 2, axis=(0, 2), keepdims=True).shape],
]))
"""
    )
    assert found[0] == [["none", "nan", "none"]] * 6
    assert found[1][1] == 5.0
    assert found[2] == [[4], [1, 4, 1]]


def test_dtypes_that_lapack_does_not_support_raise_as_in_mlx(values_of):
    found = values_of(
        START
        + """
said = []
for a in (mx.ones((2, 2), mx.int32), mx.ones(3)):
    for function in (mx.linalg.inv, mx.linalg.inv.__wrapped__):
        try: function(a)
        except ValueError as error: said.append(str(error))
print(json.dumps(said))
"""
    )
    assert len(found) == 4
    assert found[::2] == found[1::2]


def test_traced_and_mapped_functions_and_chosen_streams_work(values_of):
    found = values_of(
        START
        + """
a = matrices(3, 4, 4); a[1, 0, 0] = float("nan")
inv, stream = mx.linalg.inv, mx.new_stream(mx.cpu)
calls = (mx.vmap(inv)(a), mx.compile(inv)(a), inv(a, stream=stream), inv(a=a, stream=mx.cpu))
print(json.dumps([[kinds(each)[0] for each in found] for found in calls]))
"""
    )
    assert found == [["none", "nan", "none"]] * 4
