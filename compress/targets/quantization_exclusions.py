"""Selects the nodes of a graph that stay in float, by their names and edges only, so that it works for every format."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

TAIL = "postprocessing: no quantized layer follows, and box coordinates and scores need different scales"
FIRST = "large activations with few channels: converting them costs more than INT8 saves"
ATTENTION = "attention products: a small fraction of the MACs, and softmax needs fine steps"


@dataclass(frozen=True)
class Node:
    """A node of an exported graph, reduced to what the selection needs."""

    name: str
    parents: tuple[str, ...]  # names of the nodes that produce its inputs
    weighted: bool  # a convolution or matrix product with constant weights
    product: bool = False  # a matrix product of two activations


def module_path(node_name: str) -> str:
    """Path of the torch module that a node belongs to: `/model.23/cv3.0/cv3.0.1/conv/Conv` -> `model.23.cv3.0.1.conv`.

    torch's exporter writes one path segment per module call. The segment of a Sequential's child repeats that of the
    Sequential (`cv3.0/cv3.0.1`); the repetition is removed here.
    """
    segments = node_name.strip("/").split("/")[:-1]
    own = (inner.removeprefix(f"{outer}.") if outer else inner for outer, inner in pairwise(["", *segments]))
    return ".".join(own)


def kept_nodes(nodes: Sequence[Node], modules: Mapping[str, str]) -> dict[str, str]:
    """{node name: reason} for nodes that stay in float: those in `modules` {module name prefix: reason}, attention
    products and other nodes without weights in their modules, and all nodes after the last quantized layers."""
    excluded: dict[str, str] = {}
    attention = {module_path(node.name) for node in nodes if node.product}
    for node in nodes:
        path = module_path(node.name)
        reason = next((reason for prefix, reason in modules.items() if f"{path}.".startswith(f"{prefix}.")), None)
        if reason is not None:
            excluded[node.name] = reason
        elif node.product or (path and path in attention and not node.weighted):
            excluded[node.name] = ATTENTION
    for name in _tail(nodes, excluded):
        excluded.setdefault(name, TAIL)
    return excluded


def first_layers(nodes: Sequence[Node], count: int) -> dict[str, str]:
    """Selects the first `count` weighted layers in order of execution, and the nodes that depend on no other weighted
    layers. Returns {node name: reason}."""
    first = {node.name for node in [node for node in nodes if node.weighted][:count]}
    dependencies: dict[str, set[str]] = {}  # weighted layers that a node depends on, including itself
    for node in nodes:
        own = {node.name} if node.weighted else set()
        dependencies[node.name] = own.union(*(dependencies.get(parent, set()) for parent in node.parents))
    return {name: FIRST for name, layers in dependencies.items() if layers and layers <= first}


def _tail(nodes: Sequence[Node], excluded: Collection[str]) -> list[str]:
    """Nodes from which no weighted layer outside `excluded` can be reached."""
    by_name = {node.name: node for node in nodes}
    pending = [node.name for node in by_name.values() if node.weighted and node.name not in excluded]
    before: set[str] = set()
    while pending:
        if (name := pending.pop()) not in before:
            before.add(name)
            pending.extend(parent for parent in by_name[name].parents if parent in by_name)
    return [name for name in by_name if name not in before]


def by_module(excluded: Mapping[str, str]) -> dict[str, str]:
    """Converts {node name: reason} to {module path: reason}; a node outside all modules keeps its own name."""
    return {module_path(name) or name: reason for name, reason in excluded.items()}
