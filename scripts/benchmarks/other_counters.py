"""Other counters of FLOPs, and the parts of their differences from ours, computed from their own records.

A network is run once while every product is recorded with the function of torch that the network calls and the operator
that runs (`record`). A counter's record says how much it counts for each function (operator, in FlopCounterMode). The
parts of its difference from ours, all in FLOPs:

not counted       products of a function that it does not know
beside products   what it counts for functions without products: normalisation, activations, pooling, biases
constants         products that do not depend on the input, which exporters fold and we do not count
other             functions that it counts by a rule of its own, which `RULES` restates
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from compress.measurement.operators import FORMULAS, formula_of

# {counter: (module, what pip installs)}
PACKAGES = {
    "FlopCounterMode": ("torch", "torch"),
    "fvcore": ("fvcore", "fvcore"),
    "thop": ("thop", "ultralytics-thop"),
    "calflops": ("calflops", "calflops transformers accelerate"),
}
Inputs = tuple[Tensor, ...]
HOOKED, SHARED = "recurrent layers", "shared modules again"
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
ATTENTION = "multi_head_attention_forward"
RECURRENT = ("lstm", "gru", "rnn_tanh", "lstm_cell")
# FLOPs per hidden state beside products: biases and elementwise arithmetic.
PER_STATE = {
    "thop": {"lstm": 32, "lstm_cell": 32, "gru": 26, "rnn_tanh": 6},
    "calflops": {"lstm": 10, "lstm_cell": 10, "gru": 7, "rnn_tanh": 1},
}


def _name(function: Any) -> str:
    """One name for a function of torch in all records. The operator @ calls the method, not torch.matmul."""
    if function in (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__):
        return "@"
    name = getattr(function, "__name__", str(function))
    return "conv" if name in CONVOLUTIONS else name


@dataclass
class Record:
    """FLOPs of the products of a network."""

    functions: Counter[str] = field(default_factory=Counter)  # by function of torch
    operators: Counter[str] = field(default_factory=Counter)  # by operator of ATen
    attention: Counter[str] = field(default_factory=Counter)  # of nn.MultiheadAttention, by the function that it calls
    softmax: int = 0  # FLOPs of the softmax of nn.MultiheadAttention by thop's rule: 3 n - 1 MACs for n scores
    states: int = 0  # hidden states of recurrent layers


class _Recorder(TorchDispatchMode):
    """Records every operator with products, for the outermost function of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.record, self.function = Record(), ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket not in FORMULAS:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula := formula_of(func):
            flops = formula(*args, **kwargs, out_val=result) // 2 * 2
            operator = func._overloadpacket.__name__
            self.record.operators[operator] += flops
            self.record.functions[self.function] += flops
            if self.function == ATTENTION:
                self._add_attention(operator, flops, args)
        elif self.function == ATTENTION and func._overloadpacket is torch.ops.aten._softmax:
            self._add_softmax(args[0].numel(), args[0].shape[-1])
        return result

    def _add_attention(self, operator: str, flops: int, args: Any) -> None:
        name = {"addmm": "linear", "mm": "linear"}.get(operator, operator)
        if "scaled_dot_product" in operator:
            name = "scaled_dot_product_attention"
            self._add_softmax(prod(args[0].shape[:-1]) * args[1].shape[-2], args[1].shape[-2])
        self.record.attention[name] += flops

    def _add_softmax(self, scores: int, keys: int) -> None:
        self.record.softmax += 2 * scores // keys * (3 * keys - 1)


class _Functions(TorchFunctionMode):
    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.recorder.function = _name(func)
        return func(*args, **(kwargs or {}))


def record(net: nn.Module, inputs: Inputs) -> Record:
    """Runs a network once and records its products."""
    recorder = _Recorder()

    def count_states(layer: nn.Module, _: Any, output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        recorder.record.states += states.numel() * getattr(layer, "num_layers", 1)

    layers = [module for module in net.modules() if isinstance(module, nn.RNNBase | nn.RNNCellBase)]
    hooks = [layer.register_forward_hook(count_states) for layer in layers]
    with torch.no_grad(), recorder, _Functions(recorder):
        net(*inputs)
    for hook in hooks:
        hook.remove()
    return recorder.record


@dataclass
class Count:
    """What a counter counts, in FLOPs: in total, and by function."""

    total: float
    functions: Counter[str]


def flop_counter_mode(net: nn.Module, inputs: Inputs) -> Count:
    with torch.no_grad(), FlopCounterMode(display=False) as mode:
        net(*inputs)
    operators = mode.get_flop_counts()["Global"].items()
    return Count(mode.get_total_flops(), Counter({operator.__name__: flops for operator, flops in operators}))


def fvcore(net: nn.Module, inputs: Inputs) -> Count:
    """It counts MACs."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(net, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return Count(2 * analysis.total(), Counter({name: 2 * macs for name, macs in analysis.by_operator().items()}))


def thop(net: nn.Module, inputs: Inputs) -> Count:
    """It counts MACs, by rules for modules and for functions."""
    import thop as package

    functions: Counter[str] = Counter()
    module: Any = sys.modules["thop.profile"]  # the package has a function of this name
    rules, hooks = dict(module.register_hooks), dict(module.functional_hooks)

    def of_module(rule: Any) -> Any:
        def counted(layer: Any, *args: Any) -> None:
            before = layer.total_ops
            rule(layer, *args)
            functions[THOP.get(rule.__name__, rule.__name__)] += 2 * int(layer.total_ops - before)

        return counted

    def of_function(function: Any, rule: Any) -> Any:
        def counted(*args: Any) -> int:
            macs = rule(*args)
            functions[_name(function)] += 2 * macs
            return macs

        return counted

    counted_rules = {kind: rule if rule is module.zero_ops else of_module(rule) for kind, rule in rules.items()}
    counted_hooks = {function: of_function(function, rule) for function, rule in hooks.items()}
    with _replaced(module.register_hooks, counted_rules), _replaced(module.functional_hooks, counted_hooks):
        macs, _ = package.profile(net, inputs=inputs, verbose=False)
    return Count(2 * macs, functions)


THOP = {
    "count_convNd": "conv", "count_convtNd": "conv", "count_linear": "linear", "count_normalization": "normalisation",
    "count_softmax": "softmax", "count_avgpool": "pooling", "count_adap_avgpool": "pooling", "count_upsample": "resize",
    "count_prelu": "activation", "count_multihead_attention": ATTENTION,
    "count_rnn": "rnn_tanh", "count_gru": "gru", "count_lstm": "lstm", "count_lstm_cell": "lstm_cell",
}  # fmt: skip


@contextmanager
def _replaced(table: dict[Any, Any], entries: dict[Any, Any]) -> Iterator[None]:
    saved = dict(table)
    table.update(entries)
    try:
        yield
    finally:
        table.clear()
        table.update(saved)


def calflops(net: nn.Module, inputs: Inputs) -> Count:
    """It replaces functions of torch while the network runs, counts recurrent layers by hooks, and sums the tree of
    modules, which has a shared module once per parent."""
    import calflops.pytorch_ops as operators
    from calflops import calculate_flops

    functions: Counter[str] = Counter()
    original = operators.wrapFunc

    def recording(function: Any, compute: Callable[..., tuple[int, int]], *tables: Any) -> Any:
        name = _name(function)

        def counted(*args: Any, **kwargs: Any) -> tuple[int, int]:
            flops, macs = compute(*args, **kwargs)
            products = 2 * macs or (flops if name == "einsum" else 0)
            functions[name] += products
            functions["bias" if macs else name] += flops - products
            return flops, macs

        return original(function, counted, *tables)

    operators.wrapFunc = recording
    try:
        flops, _, _ = calculate_flops(
            net, args=list(inputs), kwargs={}, print_results=False, print_detailed=False, output_as_string=False
        )
    finally:
        operators.wrapFunc = original
    if rest := flops - sum(functions.values()):
        recurrent = any(isinstance(module, nn.RNNBase | nn.RNNCellBase) for module in net.modules())
        shared = len(list(net.modules())) < len(list(net.named_modules(remove_duplicate=False)))
        functions[HOOKED if recurrent else SHARED if shared else "rest"] += rest
    return Count(flops, functions)


COUNTERS: dict[str, Callable[[nn.Module, Inputs], Count]] = {
    "FlopCounterMode": flop_counter_mode, "fvcore": fvcore, "thop": thop, "calflops": calflops,
}  # fmt: skip


def measure(net: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """The record of a network and, for each counter that is installed, its count or its error, as JSON-like values."""
    result: dict[str, Any] = {"record": vars(record(net, inputs))}
    for name, count in COUNTERS.items():
        if find_spec(PACKAGES[name][0]) is None:
            continue
        try:
            result[name] = vars(count(net, inputs))
        except Exception as error:  # of any type
            result[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:120]}
    return result


def explain(name: str, found: Record, counted: Count, ours: int) -> tuple[dict[str, float], float]:
    """The parts of a counter's difference from ours, in FLOPs, largest first, and what is not explained."""
    products = Counter(found.operators if name == "FlopCounterMode" else found.functions)
    known = Counter(counted.functions)
    if name in ("fvcore", "calflops"):  # they see what nn.MultiheadAttention calls
        products.pop(ATTENTION, None)
        products += Counter(found.attention)
    if name == "fvcore":  # the trace has one name for both, and a cell as its linear layers
        products["matmul"] += products.pop("@", 0)
        products["linear"] += products.pop("lstm_cell", 0)
    if HOOKED in known:
        known[next(function for function in RECURRENT if products[function])] += known.pop(HOOKED)
    parts: Counter[str] = Counter({"constants": sum(found.operators.values()) - ours})
    for function in products | known:
        wanted, actual = products[function], known[function]
        if function == "rest":
            continue
        if not wanted:
            parts[function if function == SHARED else f"beside products: {function}"] += actual
        elif not actual:
            parts[f"not counted: {function}"] -= wanted
        elif rule := next((label for label, rule in RULES.items() if rule(name, function, wanted, actual, found)), ""):
            parts[rule] += actual - wanted
    return {part: flops for part, flops in parts.most_common() if flops}, counted.total - ours - sum(parts.values())


RULES: dict[str, Callable[[str, str, float, float, Record], bool]] = {
    "beside products: softmax of attention": lambda name, function, wanted, actual, found: (
        name == "thop" and function == ATTENTION and actual == wanted + found.softmax
    ),
    "beside products: recurrent layers": lambda name, function, wanted, actual, found: (
        function in RECURRENT and actual == wanted + found.states * PER_STATE[name][function]
    ),
    # It replaces the method matmul, not the operator @.
    "not counted: @": lambda name, function, wanted, actual, found: (
        name == "calflops" and function == "@" and actual < wanted
    ),
    "einsum to four digits": lambda name, function, wanted, actual, found: (
        function == "einsum" and abs(actual - wanted) <= 1e-3 * wanted
    ),
}
