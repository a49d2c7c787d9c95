import json

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_trainer import AdamW, CheckpointError, Checkpoints, TrainingError, TrainStep


@pytest.fixture
def make_step(make_network, loss_fn):
    return lambda seed=0: TrainStep(make_network(dropout=0.5, seed=seed), AdamW(), loss_fn)


def everything(step):
    arrays = tree_flatten(step.model.parameters()) + tree_flatten(step.optimizer.state)
    return [(name, np.array(value).tolist()) for name, value in arrays]


@pytest.mark.parametrize(
    "make_optimizer",
    [
        AdamW,
        lambda: mlx.optimizers.Adafactor(learning_rate=0.1, relative_step=False),
        lambda: mlx.optimizers.MultiOptimizer(
            [mlx.optimizers.SGD(0.0, momentum=0.9), AdamW()],
            [lambda path, gradient: "bias" in path],
        ),
    ],
    ids=["AdamW", "Adafactor", "MultiOptimizer"],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_loaded_step_goes_on_as_the_saved_one_did(
    tmp_path, make_network, make_batch, loss_fn, make_optimizer, frozen
):
    def make_step(seed=0):
        network = make_network(dropout=0.5, seed=seed)
        if frozen:
            network.layers[0].freeze()
        return TrainStep(network, make_optimizer(), loss_fn, compile=False)

    step = make_step()
    for number in range(3):
        step([make_batch(8, number)], 0.1)
    Checkpoints(tmp_path).save(step, {"epoch": 2, "history": [{"loss": 0.1}]})
    step([make_batch(8, 9)], 0.1)

    other = make_step(seed=1)
    position = Checkpoints(tmp_path).load(other)
    assert position == {"epoch": 2, "history": [{"loss": 0.1}]}
    assert other.updates == 3
    other([make_batch(8, 9)], 0.1)  # dropout draws the same mask
    assert everything(other) == everything(step)


class OwnRates(mlx.optimizers.SGD):
    """State for what the model says is a Linear, and a rate of a group in the state."""

    def __init__(self, rate=0.5):
        super().__init__(0.0, momentum=0.9)
        self.state["rates"] = {"linear": mx.array(rate)}
        self.linear = set()

    def recognize(self, model):
        modules = model.named_modules()
        self.linear = {f"{name}.weight" for name, each in modules if isinstance(each, nn.Linear)}

    def init(self, parameters):
        for path, parameter in tree_flatten(parameters):
            if path in self.linear:
                self.state.setdefault(path.replace(".", "_"), mx.zeros_like(parameter))

    def apply_gradients(self, gradients, parameters):
        rate = self.state["rates"]["linear"]
        return tree_map(lambda g, p: p - rate * g, gradients, parameters)


def test_an_optimizer_that_reads_the_model_makes_the_same_state_when_resumed(
    tmp_path, make_network, make_batch, loss_fn
):
    step = TrainStep(make_network(), OwnRates(), loss_fn)
    step([make_batch(8)], 0.1)
    assert len(step.optimizer.state) > 3
    Checkpoints(tmp_path).save(step, {})
    other = TrainStep(make_network(seed=1), OwnRates(rate=0.25), loss_fn)
    Checkpoints(tmp_path).load(other)
    assert everything(other) == everything(step)


def test_a_checkpoint_from_before_rates_were_in_the_state_is_loaded(
    tmp_path, make_network, make_batch, loss_fn
):
    older = OwnRates()
    del older.state["rates"]
    step = TrainStep(make_network(), older, loss_fn)
    step.prepare()
    Checkpoints(tmp_path).save(step, {})
    other = TrainStep(make_network(seed=1), OwnRates(rate=0.25), loss_fn)
    Checkpoints(tmp_path).load(other)
    assert float(other.optimizer.state["rates"]["linear"]) == 0.25


def test_loading_replaces_the_state_of_a_step_that_has_run(tmp_path, make_step, make_batch):
    step = make_step()
    step([make_batch(8)], 0.1)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(step, {})
    step([make_batch(8, 1)], 0.1)
    after = everything(step)
    checkpoints.load(step)
    step([make_batch(8, 1)], 0.1)
    assert everything(step) == after


def test_frozen_parameters_are_saved_too(tmp_path, make_step, make_batch):
    step = make_step()
    step.model.layers[0].freeze()
    step([make_batch(8)], 0.1)
    path = Checkpoints(tmp_path).save(step, {})
    names = set(mx.load(str(path / "model.safetensors")))
    assert names == {f"layers.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")}


def test_the_newest_are_kept_and_nothing_is_left_beside_them(tmp_path, make_step, make_batch):
    step, checkpoints = make_step(), Checkpoints(tmp_path, keep=2)
    (tmp_path / ".step-00000009").mkdir()  # of a run killed while writing
    for number in range(4):
        step([make_batch(4, number)], 0.1)
        checkpoints.save(step, {"number": number})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latest",
        "step-00000003",
        "step-00000004",
    ]


def test_deleting_leaves_nothing_of_killed_processes_and_all_of_others(
    tmp_path, make_step, make_batch
):
    step, checkpoints = make_step(), Checkpoints(tmp_path / "checkpoints")
    step([make_batch(4, 0)], 0.1)
    checkpoints.save(step, {"number": 0})
    (tmp_path / "checkpoints/.latest.99999999").write_text("of a killed process")
    checkpoints.delete()
    assert not (tmp_path / "checkpoints").exists()
    checkpoints.save(step, {"number": 0})
    (tmp_path / "checkpoints/notes.txt").write_text("mine")
    checkpoints.delete()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["notes.txt"]


def test_saving_an_update_again_writes_beside_the_good_one(tmp_path, make_step, make_batch):
    step, checkpoints = make_step(), Checkpoints(tmp_path)
    step([make_batch(4)], 0.1)
    paths = []
    for number in range(3):
        paths.append(checkpoints.save(step, {"number": number}))
        assert checkpoints.load(step) == {"number": number}
    # Writing over the only good checkpoint would leave none if the run were killed meanwhile.
    assert paths[0] != paths[1] != paths[2]
    assert list(tmp_path.glob("step-*")) == [paths[2]]


def test_nothing_saved_is_none(tmp_path, make_step):
    checkpoints = Checkpoints(tmp_path / "not yet")
    assert checkpoints.latest() is None
    assert checkpoints.load(make_step()) is None


def test_due_counts_updates():
    checkpoints = Checkpoints("unused", every=3)
    assert [updates for updates in range(1, 10) if checkpoints.due(updates)] == [3, 6, 9]
    assert not Checkpoints("unused").due(1)
    assert Checkpoints("unused", seconds=1e-9).due(1)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_one_changed_byte_is_an_error(tmp_path, make_step, make_batch, name):
    step = make_step()
    step([make_batch(4)], 0.1)
    path = Checkpoints(tmp_path).save(step, {}) / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        Checkpoints(tmp_path).load(step)
    assert str(error.value) == (
        f"{path} is damaged: its checksum is not the one in state.json; it is the only "
        "checkpoint, so the run must be restarted"
    )


def test_missing_files_and_other_formats_are_errors(tmp_path, make_step, make_batch):
    step = make_step()
    step([make_batch(4)], 0.1)
    folder = Checkpoints(tmp_path).save(step, {})
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"format": 9}))
    with pytest.raises(CheckpointError) as error:
        Checkpoints(tmp_path).load(step)
    assert str(error.value) == f"{folder} has format 9, this version reads format 1"
    (folder / "state.json").unlink()
    with pytest.raises(
        CheckpointError, match=f"latest names '{folder.name}', which is not a check"
    ):
        Checkpoints(tmp_path).load(step)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "is not a JSON object"),
        ('{"format": 1}', "is damaged: updates is missing or wrong"),
        ('{"format": 1, "updates": 1, "checksums": []}', "is damaged: checksums is missing or"),
        ("{", "cannot be read: "),
    ],
)
def test_a_damaged_state_names_the_older_checkpoint(
    tmp_path, make_step, make_batch, content, problem
):
    step, checkpoints = make_step(), Checkpoints(tmp_path, keep=2)
    for _ in range(2):
        step([make_batch(4)], 0.1)
        folder = checkpoints.save(step, {})
    (folder / "state.json").write_text(content)
    with pytest.raises(CheckpointError) as error:
        checkpoints.load(step)
    assert f"{folder / 'state.json'} {problem}" in str(error.value)
    remedy = f"; to resume from an older one, write step-00000001 into {tmp_path / 'latest'}"
    assert str(error.value).endswith(remedy)
    (tmp_path / "latest").write_text("step-00000001")
    assert checkpoints.load(step) == {}
    assert step.updates == 1


@pytest.mark.parametrize("pointer", [b"", b"step-9", b"\xff\xfe"])
def test_a_damaged_pointer_names_a_checkpoint_to_take(tmp_path, make_step, make_batch, pointer):
    step = make_step()
    step([make_batch(4)], 0.1)
    Checkpoints(tmp_path).save(step, {})
    (tmp_path / "latest").write_bytes(pointer)
    with pytest.raises(CheckpointError, match=r"which is not a checkpoint; .* write step-00000001"):
        Checkpoints(tmp_path).latest()


def test_the_position_is_read_without_loading(tmp_path, make_step, make_batch):
    step, checkpoints = make_step(), Checkpoints(tmp_path)
    assert checkpoints.position() is None
    step([make_batch(4)], 0.1)
    checkpoints.save(step, {"row": 3})
    assert checkpoints.position() == {"row": 3}


def test_weights_that_are_not_finite_are_not_saved(tmp_path, make_step, make_batch):
    step, checkpoints = make_step(), Checkpoints(tmp_path)
    step([make_batch(4)], 0.1)
    good = checkpoints.save(step, {})
    step.model.layers[1].weight = step.model.layers[1].weight * mx.array(float("inf"))
    step.updates = 2
    with pytest.raises(
        TrainingError, match=r"^update 2 left 1 of \d+ weights with values that are"
    ):
        checkpoints.save(step, {})
    assert checkpoints.latest() == good


def test_another_model_is_an_error_that_lists_what_differs(tmp_path, make_step, make_batch):
    step = make_step()
    step([make_batch(4)], 0.1)
    folder = Checkpoints(tmp_path).save(step, {})
    other = make_step()
    other.model.layers[1].weight = mx.zeros((3, 9))
    other.model.extra = mx.zeros(1)
    before = everything(other)
    with pytest.raises(CheckpointError) as error:
        Checkpoints(tmp_path).load(other)
    assert str(error.value) == (
        f"{folder / 'model.safetensors'} does not fit this model or optimizer: layers.1.weight is "
        "mlx.core.float32 (3, 8), expected mlx.core.float32 (3, 9); missing extra"
    )
    assert everything(other) == before


def test_best_weights_come_back(tmp_path, make_step, make_batch):
    step, checkpoints = make_step(), Checkpoints(tmp_path)
    checkpoints.save_best(step.model)
    before = everything(step)
    step([make_batch(4)], 0.1)
    checkpoints.load_best(step.model)
    assert everything(step)[: len(before)][0] == before[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0}, "Checkpoints: keep must be at least 1, got 0"),
        ({"every": -1}, "Checkpoints: every and seconds must not be negative, got -1 and 0.0"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, arguments, message, exactly):
    with pytest.raises(ValueError, match=exactly(message)):
        Checkpoints(tmp_path, **arguments)


def test_frozen_parameters_may_be_left_out(tmp_path, make_network, make_batch, loss_fn):
    def make_step(seed):
        network = make_network(seed=seed)
        network.layers[0].freeze()
        return TrainStep(network, AdamW(), loss_fn, compile=False)

    checkpoints = Checkpoints(tmp_path, only_trainable=True)
    step, other = make_step(0), make_step(1)
    step([make_batch(8, 0)], 0.1)
    saved = mx.load(str(checkpoints.save(step, {}) / "model.safetensors"))
    trained = dict(tree_flatten(step.model.trainable_parameters()))
    assert saved.keys() == trained.keys()
    frozen = mx.array(other.model.layers[0].weight)
    checkpoints.load(other)
    assert mx.array_equal(other.model.layers[0].weight, frozen)
    for name, each in tree_flatten(other.model.trainable_parameters()):
        assert mx.array_equal(each, trained[name])
    with pytest.raises(CheckpointError, match=r"missing layers\.0"):
        Checkpoints(tmp_path).load(other)
