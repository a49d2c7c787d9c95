"""A forked child that computes with MLX reports the error; others are not affected."""

import pytest

CODE = """
import os, signal, sys
import mlx.core as mx, numpy as np
from mlx_fastcpu.forks import watch_forks
watch_forks()
x = mx.ones((4, 4)) @ mx.ones((4, 4))
mx.eval(x)
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    {waits}
    {body}
    print("done", flush=True)
    os._exit(0)
os.close(writing)
{then}
print(os.waitpid(child, 0)[1])
"""


def code_of(body):
    return CODE.format(body=body, waits="pass", then="pass")


WRONG = "MLX was used before this process was forked, and hangs in the child: start workers"


def test_eval_in_a_forked_child_raises(python):
    body = "\n    ".join(["try:", "    mx.eval(x + 1)", "except RuntimeError as e: print(e)"])
    lines = python(code=code_of(body)).stdout.splitlines()
    assert lines[0].startswith(WRONG)
    assert lines[1:] == ["done", "0"]


@pytest.mark.parametrize("body", ["print(x + 1)", "(x + 1).tolist()"])
def test_any_other_wait_reports_the_fork(python, body):
    waits = "os.dup2(writing, 2)"
    then = f"print(os.read(reading, {len(WRONG) + 13}).decode()); os.kill(child, signal.SIGKILL)"
    done = python(code=CODE.format(body=body, waits=waits, then=then))
    assert done.stdout.splitlines() == [f"mlx_fastcpu: {WRONG}", "9"]  # it waits as before


def test_numpy_and_evaluated_arrays_work_in_a_forked_child(python):
    done = python(code=code_of("assert np.array(x).sum() + np.ones(3).sum() == 67"))
    assert done.stdout.split() == ["done", "0"]
    assert done.stderr == ""


def test_the_parent_continues(python):
    code = code_of("pass") + "\nprint(float((x + 1).sum()))"
    assert python(code=code).stdout.split() == ["done", "0", "80.0"]
