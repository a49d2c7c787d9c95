"""`Muon`: an `mlx.optimizers.Optimizer` with parameter groups, matrices in batches, AdamW beside.

State is `{"step", "learning_rate", "rates", "parameters"}`: "rates" has those of rules that have
their own, by name ("muon", "adamw", or the group's), and is left out if there are none. Below
"parameters" is the model's tree, each leaf with `momentum` (and `variance`) under a MuonRule, `m`,
`v` and `count` under an AdamWRule, and `mantissa` where weights keep theirs. All but `count` and
`mantissa` are float32. Rates in the state are those before a schedule.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.optimizers import Optimizer
from mlx.utils import tree_map, tree_map_with_path

from mlx_muon.adamw import adamw_step
from mlx_muon.arrays import trained
from mlx_muon.batches import Numbers, batch_bytes, update_parts
from mlx_muon.explain import Rates, explain
from mlx_muon.mantissa import split_float32, whole_float32
from mlx_muon.matching import Assignment, Group, assign
from mlx_muon.muon_step import Number
from mlx_muon.parameters import Parameter, parts_of, put_back
from mlx_muon.rates import named_rates, renewed_rates
from mlx_muon.rules import AdamWRule, MuonRule, Rule, Value, value_at
from mlx_muon.state import at_path, by_path, check_fit, new_state, tree_of
from mlx_muon.structure import Structure, structure_of


class Muon(Optimizer):
    """Muon for the matrices of a model, AdamW for everything else.

    `learning_rate` (a number, or a function of the step) and `weight_decay` are those of rules
    which have none of their own. `muon` is for the weights inside of a model; `adamw` for
    embeddings, heads, biases and norms, recognized by the model's structure, then by name;
    `groups`, each a pattern or predicate with a rule, come before both. `explain(model)` says who
    got what, and why.

    Rates that are numbers are part of the state, and a state that is loaded brings its own. Setting
    `learning_rate` assigns that of rules which have none of their own, times their `relative_rate`;
    own ones stay, in `state["rates"]`. `schedule`, a function of the step, multiplies them all.
    Rates that are functions are no state and stay what they are. All may change inside
    `mx.compile` without a new trace.

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
        *,
        weight_decay: Value = 0.0,
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
        if state_dtype not in (mx.float32, mx.bfloat16):
            # Squares of gradients of 256 are infinite in float16.
            raise ValueError(f"Muon: state_dtype must be float32 or bfloat16, got {state_dtype}")
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
        self._structure: Structure | None = None  # as a model has told
        self._unused: set[str] = set()  # paths whose state no update has used yet
        self._rates = named_rates(self.muon, self.adamw, self.groups)
        self._renew_rates()

    def init(self, parameters: dict) -> None:
        """Find the rule of each parameter and make its state; state that is there is kept.

        Given the model itself, its trainable parameters count, and its structure says what names do
        not; as it does at the first `update`.

        Raises `ValueError` where a rule does not fit a parameter, or loaded state its shape.
        """
        if foreign := set(self.state) - {"step", "learning_rate", "rates", "parameters"}:
            raise ValueError(
                f"the state has {', '.join(sorted(foreign))}, which is not of this optimizer; take "
                "over that of another one by load_mlx_state"
            )
        self._renew_rates()
        self.recognize(parameters)
        held = by_path(self.state.get("parameters", {}))
        structure = self._structure or structure_of(parameters, held)
        for path, parameter in trained(parameters).items():
            if path not in self._assignments:
                self._assignments[path] = self._assign(path, parameter, structure)
            wanted = self._new_state(path, parameter)
            if path in held:
                check_fit(path, wanted, held[path], parameter.shape if self.keep_mantissa else None)
            else:
                self._unused.add(path)
            held[path] = wanted | held.get(path, {})
        self.state["parameters"] = tree_of(held)
        self._initialized = True

    def assignment(self, path: str, parameter: mx.array) -> Assignment:
        """Return the group, rule and matrices of the parameter at `path`."""
        known = self._assignments.get(path)
        return known or self._assign(path, parameter, self._structure or Structure())

    def _assign(self, path: str, parameter: mx.array, structure: Structure) -> Assignment:
        return assign(path, parameter, self.groups, self.muon, self.adamw, structure)

    def _new_state(self, path: str, parameter: mx.array) -> dict[str, mx.array]:
        return new_state(self._assignments[path], parameter, self.state_dtype, self.keep_mantissa)

    def recognize(self, model: dict) -> None:
        """Learn from the structure of a model, as `init` and `update` do when they are given one.

        What `init` decided without it, and no update used, is decided anew. State that still fits
        is kept: in `mx.compile` new zeros would stay zeros for ever.
        """
        if (
            not isinstance(model, nn.Module)
            or (structure := structure_of(model)) == self._structure
        ):
            return
        self._structure = structure
        held = by_path(self.state.get("parameters", {}))
        for path, parameter in trained(model).items():
            if path in self._unused:
                self._assignments[path] = self._assign(path, parameter, structure)
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
            self.recognize(parameters)
        if not (self._initialized and self._assignments.keys() >= trained(gradients).keys()):
            # Not with the gradients, whose dtype may be another.
            self.init(tree_map(lambda _, parameter: parameter, gradients, parameters))
        if callable(self.base_rate):
            self.learning_rate = value_at(self.base_rate, self.step)
        found: dict[str, Parameter] = {}

        def collect(path: str, gradient: mx.array, weight: mx.array) -> None:
            if path not in self._assignments:
                return
            if gradient.shape != weight.shape:
                raise ValueError(
                    f"{path}: the gradient has shape {gradient.shape}, the parameter {weight.shape}"
                )
            state = at_path(self.state["parameters"], path)
            full = whole_float32(weight, state.get("mantissa"))
            gradient = gradient.astype(mx.float32)
            found[path] = Parameter(self._assignments[path], gradient, full, state)

        def finish(path: str, _: mx.array, old: mx.array) -> mx.array:
            if path not in found:
                return old
            weight, state = found[path].weight, found[path].state
            if not (self.keep_mantissa and old.dtype == mx.bfloat16):
                state.pop("mantissa", None)  # of a weight that has another dtype now
                return weight.astype(old.dtype)
            weight, state["mantissa"] = split_float32(weight)
            return weight

        tree_map_with_path(collect, gradients, parameters)
        self._update_by_adamw(list(found.values()))
        self._update_by_muon(list(found.values()))
        self.state["step"] = self.step + 1
        self._unused -= found.keys()
        return tree_map_with_path(finish, gradients, parameters)

    @property
    def learning_rate(self) -> mx.array:
        """The optimizer's rate at this step, after the schedule; setting it sets that before it.

        Where it is a function, that of the last update, as in MLX.
        """
        return self._scheduled(self.state["learning_rate"])  # type: ignore[return-value]

    @learning_rate.setter
    def learning_rate(self, learning_rate: float | mx.array) -> None:
        self.state["learning_rate"] = mx.array(learning_rate, mx.float32)

    def rate_of(self, rule: Rule) -> Number:
        """Return the learning rate that `rule` has at this step, before its `scale`."""
        if callable(rule.learning_rate):
            return value_at(rule.learning_rate, self.step)
        return self._scheduled(self._unscheduled_rate(rule))

    def _unscheduled_rate(self, rule: Rule) -> Number:
        """Return the number in the state that a rule's rate comes from."""
        if rule.learning_rate is None:
            return self.state["learning_rate"] * rule.relative_rate
        name, rate = self._rates[id(rule)]
        held: Any = self.state.get("rates", {})
        return held.get(name, rate)

    def _scheduled(self, rate: Number) -> Number:
        return rate if self.schedule is None else rate * value_at(self.schedule, self.step)

    def _renew_rates(self) -> None:
        """Give the state the rates that it has not."""
        if callable(self.base_rate) or "learning_rate" not in self.state:
            self.learning_rate = value_at(self.base_rate, self.step)
        state: Any = self.state
        if rates := renewed_rates(self._rates, state.get("rates", {})):
            state["rates"] = rates

    def decay_of(self, rule: Rule) -> Number:
        """Return the weight decay that `rule` has at this step."""
        own = self.weight_decay if rule.weight_decay is None else rule.weight_decay
        return value_at(own, self.step)

    def explain(self, parameters: dict) -> str:
        """Return a table of who is optimized how and why; `parameters` may be the model.

        Rates are those in force now.
        """
        is_model = isinstance(parameters, nn.Module)
        structure = (not is_model and self._structure) or structure_of(parameters)
        found = []
        for path, array in trained(parameters).items():
            known = path not in self._unused and self._assignments.get(path)
            found.append((path, array, known or self._assign(path, array, structure)))
        rates = Rates(
            self.base_rate, self.schedule is not None, self._unscheduled_rate, self.rate_of
        )
        return explain(rates, self.weight_decay, self.groups, found)

    def __deepcopy__(self, memo: dict) -> "Muon":
        """Copy the state; rules never change, and their dtypes cannot be copied."""
        new = copy.copy(self)
        new._state = copy.deepcopy(self._state, memo)
        new._assignments, new._unused = self._assignments.copy(), self._unused.copy()
        return new

    def _update_by_adamw(self, parameters: list[Parameter]) -> None:
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

    def _update_by_muon(self, parameters: list[Parameter]) -> None:
        chosen = [each for each in parameters if each.assignment.blocks is not None]
        parts = [parts_of(each) for each in chosen]
        size = self.max_batch_bytes
        if size is None:
            size = batch_bytes(self.two_streams)
        every = [part for each in parts for part in each]
        update_parts(every, self._numbers, size, self.two_streams, self.distributed)
        for each, its_parts in zip(chosen, parts, strict=True):
            put_back(each, its_parts)

    def _numbers(self, rule: MuonRule) -> Numbers:
        momentum, beta2 = value_at(rule.momentum, self.step), value_at(rule.beta2, self.step)
        return Numbers(self.rate_of(rule), self.decay_of(rule), momentum, beta2)
