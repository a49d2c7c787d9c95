"""`Muon`: an `mlx.optimizers.Optimizer` with parameter groups, matrices in batches, AdamW beside.

State is `{"step", "learning_rate", "parameters"}`; below "parameters" the model's tree, each leaf
with `momentum` (and `variance`) under a MuonRule, `m`, `v` and `count` under an AdamWRule, and
`mantissa` where weights keep theirs. All but `count` and `mantissa` are float32.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx.optimizers import Optimizer
from mlx.utils import tree_map, tree_map_with_path

from mlx_muon.adamw import adamw_step
from mlx_muon.arrays import trained
from mlx_muon.batches import Numbers, Part, update_parts
from mlx_muon.explain import Settings, explain
from mlx_muon.mantissa import join_float32, split_float32
from mlx_muon.matching import Assignment, Group, assign, modules_of
from mlx_muon.muon_step import Number
from mlx_muon.rules import AdamWRule, MuonRule, Rule, Value, value_at
from mlx_muon.state import at_path, by_path, check_fit, new_state, tree_of

# Stacking saves calls, and costs copies and memory: on the CPU large matrices gain nothing by it,
# unless two streams share them.
CPU_BATCH_BYTES = 4 << 20
TWO_STREAMS_BATCH_BYTES = 32 << 20
GPU_BATCH_BYTES = 256 << 20


@dataclass
class _Parameter:
    """One parameter in one update."""

    assignment: Assignment
    gradient: mx.array
    weight: mx.array
    state: dict


class Muon(Optimizer):
    """Muon for the matrices of a model, AdamW for everything else.

    `learning_rate` (a number, or a function of the step) and `weight_decay` are those of rules
    which have none of their own. `muon` is for the weights inside of a model; `adamw` for
    embeddings, heads, biases and norms, recognized by name and shape; `groups`, each a pattern or
    predicate with a rule, come before both. `explain(model)` says who got what.

    `schedule`, a function of the step, multiplies the rates of all groups; so does setting
    `learning_rate`, in proportion, where it is a number. Rates that are functions stay what they
    are. All may change inside `mx.compile` without a new trace.

    With `keep_mantissa`, bfloat16 weights keep the 16 bits they lack of float32 in the state, and
    train as float32 ones do. `state_dtype` is that of momenta and moments; bfloat16 halves their
    memory and rounds them. `max_batch_bytes` bounds the matrices orthogonalized at once
    (default 4 MiB on the CPU, 256 MiB on a GPU). `two_streams=True` is for CPUs whose BLAS has one
    thread, as it is beside `TrainStep(threads=2)` of mlx-trainer: two halves of a batch are then
    orthogonalized at once (default: only of small matrices), of up to 32 MiB. Given a `distributed`
    group, whose processes must have the same, averaged gradients, each orthogonalizes a share of
    the matrices.
    """

    def __init__(
        self,
        learning_rate: Value = 1e-3,
        weight_decay: Value = 0.0,
        *,
        muon: MuonRule | None = None,
        adamw: AdamWRule | None = None,
        groups: Sequence[Group] = (),
        schedule: Callable[[mx.array], mx.array] | None = None,
        keep_mantissa: bool = False,
        max_batch_bytes: int | None = None,
        state_dtype: mx.Dtype = mx.float32,
        two_streams: bool | None = None,
        distributed: mx.distributed.Group | None = None,
    ):
        super().__init__()
        for name, rule, kind in (("muon", muon, MuonRule), ("adamw", adamw, AdamWRule)):
            if rule is not None and not isinstance(rule, kind):
                raise TypeError(f"Muon: {name} must be {kind.__name__}, got {rule!r}")
        if not isinstance(groups, Sequence) or not all(isinstance(g, Group) for g in groups):
            raise TypeError(f"Muon: groups must be a list of Group, got {groups!r}")
        for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
            if not callable(value) and not value >= 0:
                raise ValueError(f"Muon: {name} must not be negative, got {value}")
        if schedule is not None and callable(learning_rate):
            raise ValueError("Muon: give a schedule, or a learning_rate that is one, not both")
        if max_batch_bytes is not None and max_batch_bytes < 0:
            raise ValueError(f"Muon: max_batch_bytes must not be negative, got {max_batch_bytes}")
        self.base_rate = learning_rate
        self.weight_decay = weight_decay
        self.muon = muon or MuonRule()
        self.adamw = adamw or AdamWRule()
        self.groups = tuple(groups)
        self.schedule = schedule
        self.keep_mantissa = keep_mantissa
        self.max_batch_bytes = max_batch_bytes
        self.state_dtype = state_dtype
        self.two_streams = two_streams
        self.distributed = distributed
        self._assignments: dict[str, Assignment] = {}
        self._modules: dict[str, str] | None = None  # as a model has told
        self._unused: set[str] = set()  # paths whose state no update has used yet
        self._schedule_rate()

    def init(self, parameters: dict) -> None:
        """Find the rule of each parameter and make its state; state that is there is kept.

        Given the model itself, its trainable parameters count, and embeddings and one-dimensional
        convolutions are recognized by type whatever their names; as they are by the first `update`.

        Raises `ValueError` where a rule does not fit a parameter, or loaded state its shape.
        """
        if foreign := set(self.state) - {"step", "learning_rate", "parameters"}:
            raise ValueError(
                f"the state has {', '.join(sorted(foreign))}, which is not of this optimizer; take "
                "over that of another one by load_mlx_state"
            )
        self._recognize(parameters)
        held = by_path(self.state.get("parameters", {}))
        for path, parameter in trained(parameters).items():
            assignment = self.assignment(path, parameter)
            self._assignments[path] = assignment
            wanted = self._new_state(path, parameter)
            if path in held:
                check_fit(path, wanted, held[path])
            else:
                self._unused.add(path)
            held[path] = wanted | held.get(path, {})
        self.state["parameters"] = tree_of(held)
        self._initialized = True

    def assignment(self, path: str, parameter: mx.array) -> Assignment:
        """Return the group, rule and matrices of the parameter at `path`."""
        return self._assignments.get(path) or self._assign(path, parameter, self._modules)

    def _assign(self, path: str, parameter: mx.array, modules: dict | None) -> Assignment:
        module = (modules or {}).get(path)
        return assign(path, parameter, self.groups, self.muon, self.adamw, module)

    def _new_state(self, path: str, parameter: mx.array) -> dict[str, mx.array]:
        return new_state(self._assignments[path], parameter, self.state_dtype, self.keep_mantissa)

    def _recognize(self, model: dict) -> None:
        """Learn from a model; what `init` decided without it, and no update used, is decided anew.

        State that still fits is kept: in `mx.compile` new zeros would stay zeros for ever.
        """
        if not isinstance(model, nn.Module) or (modules := modules_of(model)) == self._modules:
            return
        self._modules = modules
        held = by_path(self.state.get("parameters", {}))
        for path, parameter in trained(model).items():
            if path in self._unused:
                self._assignments[path] = self._assign(path, parameter, modules)
                wanted = self._new_state(path, parameter)
                fitting = {name: array for name, array in held[path].items()
                           if name in wanted and wanted[name].shape == array.shape}  # fmt: skip
                held[path] = wanted | fitting
        self.state["parameters"] = tree_of(held)

    def apply_gradients(self, gradients: dict, parameters: dict) -> dict:
        """Return the updated parameters, in the structure of `gradients`.

        Parameters without state, unfrozen since the last update, get it here.
        """
        if self._unused or not self._initialized:
            self._recognize(parameters)
        if not (self._initialized and self._assignments.keys() >= trained(gradients).keys()):
            # Not with the gradients, whose dtype may be another.
            self.init(tree_map(lambda _, parameter: parameter, gradients, parameters))
        self._schedule_rate()
        found: dict[str, _Parameter] = {}

        def collect(path: str, gradient: mx.array, weight: mx.array) -> None:
            if path not in self._assignments:
                return
            if gradient.shape != weight.shape:
                raise ValueError(
                    f"{path}: the gradient has shape {gradient.shape}, the parameter {weight.shape}"
                )
            state = at_path(self.state["parameters"], path)
            full = join_float32(weight, state["mantissa"]) if "mantissa" in state else weight
            arrays = gradient.astype(mx.float32), full.astype(mx.float32)
            found[path] = _Parameter(self._assignments[path], *arrays, state)

        def finish(path: str, _: mx.array, old: mx.array) -> mx.array:
            if path not in found:
                return old
            weight, state = found[path].weight, found[path].state
            if "mantissa" not in state:
                return weight.astype(old.dtype)
            weight, state["mantissa"] = split_float32(weight)
            return weight

        tree_map_with_path(collect, gradients, parameters)
        self._update_by_adamw(list(found.values()))
        self._update_by_muon(list(found.values()))
        self.state["step"] = self.step + 1
        self._unused -= found.keys()
        return tree_map_with_path(finish, gradients, parameters)

    def rate_of(self, rule: Rule) -> Number:
        """Return the learning rate that `rule` has at this step, before its `scale`."""
        if rule.learning_rate is None:
            return self.learning_rate
        rate = value_at(rule.learning_rate, self.step)
        if callable(rule.learning_rate) or callable(self.base_rate):
            return rate
        if self.base_rate:
            return rate * (self.learning_rate / self.base_rate)
        return rate if self.schedule is None else rate * value_at(self.schedule, self.step)

    def decay_of(self, rule: Rule) -> Number:
        """Return the weight decay that `rule` has at this step."""
        own = self.weight_decay if rule.weight_decay is None else rule.weight_decay
        return value_at(own, self.step)

    def explain(self, parameters: dict) -> str:
        """Return a table of who is optimized how; `parameters` may be the model."""
        is_model = isinstance(parameters, nn.Module)
        modules = modules_of(parameters) if is_model else self._modules
        found = []
        for path, array in trained(parameters).items():
            known = path not in self._unused and self._assignments.get(path)
            found.append((path, array, known or self._assign(path, array, modules)))
        scheduled = self.schedule is not None
        settings = Settings(self.base_rate, self.weight_decay, scheduled, self.groups)
        return explain(settings, found)

    def __deepcopy__(self, memo: dict) -> "Muon":
        """Copy the state; rules never change, and their dtypes cannot be copied."""
        new = copy.copy(self)
        new._state = copy.deepcopy(self._state, memo)
        new._assignments, new._unused = self._assignments.copy(), self._unused.copy()
        return new

    def _schedule_rate(self) -> None:
        if callable(self.base_rate):
            self.learning_rate = value_at(self.base_rate, self.step)
        elif self.schedule is not None:
            self.learning_rate = self.base_rate * value_at(self.schedule, self.step)
        elif "learning_rate" not in self.state:
            self.learning_rate = self.base_rate

    def _update_by_adamw(self, parameters: list[_Parameter]) -> None:
        for each in parameters:
            rule = each.assignment.rule
            if not isinstance(rule, AdamWRule):
                continue
            decays = each.weight.ndim >= 2 or rule.decay_vectors
            decay = self.decay_of(rule) if decays else 0.0
            first, second = (value_at(beta, self.step) for beta in rule.betas)
            state, rate = each.state, self.rate_of(rule)
            each.weight = adamw_step(
                each.gradient, each.weight, state, (first, second), rule.eps, rate, decay
            )

    def _update_by_muon(self, parameters: list[_Parameter]) -> None:
        chosen = [each for each in parameters if each.assignment.blocks is not None]
        parts = [_parts(each) for each in chosen]
        size = self.max_batch_bytes
        if size is None:
            size = TWO_STREAMS_BATCH_BYTES if self.two_streams else CPU_BATCH_BYTES
            if mx.default_device().type != mx.cpu:
                size = GPU_BATCH_BYTES
        every = [part for each in parts for part in each]
        update_parts(every, self._numbers, size, self.two_streams, self.distributed)
        for each, its_parts in zip(chosen, parts, strict=True):
            _put_back(each, its_parts)

    def _numbers(self, rule: MuonRule) -> Numbers:
        momentum, beta2 = value_at(rule.momentum, self.step), value_at(rule.beta2, self.step)
        return Numbers(self.rate_of(rule), self.decay_of(rule), momentum, beta2)


def _parts(parameter: _Parameter) -> list[Part]:
    """Cut a parameter, with its gradient and state, into stacks of matrices."""
    rule, blocks = parameter.assignment.rule, parameter.assignment.blocks
    assert isinstance(rule, MuonRule)
    assert blocks is not None
    momentum = parameter.state["momentum"].astype(mx.float32)
    arrays = (parameter.gradient, parameter.weight, momentum)
    variances = parameter.state.get("variance", [None] * len(blocks.shapes))
    stacks = zip(*map(blocks.cut, arrays), variances, strict=True)
    return [Part(rule, *each) for each in stacks]


def _put_back(parameter: _Parameter, parts: list[Part]) -> None:
    blocks, shape = parameter.assignment.blocks, parameter.weight.shape
    assert blocks is not None
    parameter.weight = blocks.join([part.weight for part in parts], shape)
    momentum = blocks.join([part.momentum for part in parts], shape)
    parameter.state["momentum"] = momentum.astype(parameter.state["momentum"].dtype)
    if "variance" in parameter.state:
        parameter.state["variance"] = [part.variance for part in parts]
