import json
import sys

SCRIPT = """
import json, sys
import helper_beside_the_script
import mlx_fastcpu
print(json.dumps([__name__, sys.argv, mlx_fastcpu.activate().active]))
sys.exit(3)
"""


def test_run_gives_the_script_its_arguments_folder_and_exit_status(python, tmp_path):
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    (folder / "helper_beside_the_script.py").write_text("")
    done = python(
        "-m", "mlx_fastcpu", "run", "scripts/script.py", "a", "--json", "-x", "1", check=False
    )
    assert done.returncode == 3, done.stderr
    name, argv, active = json.loads(done.stdout)
    assert name == "__main__"
    assert argv == ["scripts/script.py", "a", "--json", "-x", "1"]
    assert active or sys.platform != "linux"


def test_run_without_the_script_reports_that(python):
    done = python("-m", "mlx_fastcpu", "run", "absent.py", check=False)
    assert done.returncode == 1
    assert done.stderr == "python -m mlx_fastcpu run: no such file: absent.py\n"


def test_info_prints_one_json_object(python):
    values = json.loads(python("-m", "mlx_fastcpu", "info", "--json").stdout)
    assert list(values) == [
        "active",
        "reason",
        "library",
        "slots",
        "threads",
        "cache_limit",
        "gflops",
        "compiler",
        "gflops_before",
    ]
    if values["active"]:
        assert values["gflops"] > 0
        assert values["gflops_before"] > 0


def test_info_prints_one_value_a_line(python):
    lines = python("-m", "mlx_fastcpu", "info").stdout.splitlines()
    assert [line.split()[0] for line in lines][:3] == ["active", "reason", "library"]


LAYERS = """
import types
import mlx.core as mx, mlx.nn as nn
x = mx.linspace(-3, 3, 100)
wanted = x * (1 + mx.erf(x / 2**0.5)) / 2
ours = isinstance(mx.fast.layer_norm, types.FunctionType)  # MLX has none in Python
print(ours, mx.allclose(nn.gelu(x), wanted, atol=1e-6).item())
"""


def test_run_uses_the_fast_layers_unless_mlx_layers_is_given(python, tmp_path):
    (tmp_path / "script.py").write_text(LAYERS)
    for options, ours in (([], sys.platform == "linux"), (["--mlx-layers"], False)):
        done = python("-m", "mlx_fastcpu", "run", *options, "script.py")
        assert done.stdout == f"{ours} True\n"
