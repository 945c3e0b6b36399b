"""Which nodes of a graph stay in float: pure reasoning over names and edges, the same for every graph format."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

TAIL = "post-processing: no quantized layer follows, and box coordinates and scores do not share a scale"
FIRST = "large activations of few channels: converting them costs more than INT8 saves"
ATTENTION = "attention products: a small share of the work, and softmax needs fine steps"


@dataclass(frozen=True)
class Node:
    """A node of an exported graph, reduced to what the choice needs."""

    name: str
    parents: tuple[str, ...]  # names of the nodes its inputs come from
    weighted: bool  # a convolution or matrix product with constant weights
    product: bool = False  # a matrix product of two activations


def module_path(node_name: str) -> str:
    """The torch module a node came from: `/model.23/cv3.0/cv3.0.1/conv/Conv` gives `model.23.cv3.0.1.conv`.

    torch's exporter writes one path segment a module call. A child of a Sequential repeats its parent's segment
    (`cv3.0/cv3.0.1`), which is undone here.
    """
    parts: list[str] = []
    previous = ""
    for segment in node_name.strip("/").split("/")[:-1]:
        parts.append(segment[len(previous) + 1 :] if previous and segment.startswith(previous + ".") else segment)
        previous = segment
    return ".".join(parts)


def kept_nodes(nodes: Iterable[Node], modules: Mapping[str, str]) -> dict[str, str]:
    """{node name: why} of the nodes that stay in float: those inside `modules` {module name prefix: why}, attention
    products with what surrounds them, and everything behind the last quantized layers."""
    nodes = list(nodes)
    kept: dict[str, str] = {}
    attention = {module_path(node.name) for node in nodes if node.product}
    for node in nodes:
        path = module_path(node.name)
        inside = next((why for prefix, why in modules.items() if f"{path}.".startswith(f"{prefix}.")), None)
        if inside is not None:
            kept[node.name] = inside
        elif node.product or (path and path in attention and not node.weighted):
            kept[node.name] = ATTENTION
    for name in _tail(nodes, kept):
        kept.setdefault(name, TAIL)
    return kept


def first_layers(nodes: Iterable[Node], count: int) -> dict[str, str]:
    """{node name: why} of the first `count` weighted layers in order of execution, and of what hangs on them alone."""
    nodes = list(nodes)
    first = {node.name for node in [node for node in nodes if node.weighted][:count]}
    behind: dict[str, set[str]] = {}  # weighted layers that a node depends on, itself included
    for node in nodes:
        own = {node.name} if node.weighted else set()
        behind[node.name] = own.union(*(behind.get(parent, set()) for parent in node.parents))
    return {name: FIRST for name, layers in behind.items() if layers and layers <= first}


def _tail(nodes: Iterable[Node], kept: Collection[str]) -> list[str]:
    """Nodes from which no weighted layer outside `kept` can be reached."""
    by_name = {node.name: node for node in nodes}
    waiting = [node.name for node in by_name.values() if node.weighted and node.name not in kept]
    before: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in before:
            before.add(name)
            waiting.extend(parent for parent in by_name[name].parents if parent in by_name)
    return [name for name in by_name if name not in before]


def by_module(kept: Mapping[str, str]) -> dict[str, str]:
    """`kept` for a reader: {module path: why}; nodes outside any module keep their own name."""
    return {module_path(name) or name: why for name, why in kept.items()}
