"""Groups of coupled channels, their scores, and the removal of channels from a copy of the network.

The groups come from torch-pruning's dependency graph (Fang et al. 2023, DepGraph, arXiv:2301.12900). It is built once:
groups hold layer names and channel indices, so channels can be removed from a copy without tracing it again.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compress.errors import UserError
from compress.pruning.importance import Importance

TIE = "_compress_tie"
UNCUTTABLE = "coupled to layers that cannot be pruned channel by channel"
UNPAIRED = "must stay as wide as a layer that keeps its channels (prune.equal_split_widths)"
SMALLEST_SCORE = 1e-12  # lower bound of scores, also for groups whose weights are all zero
# Types of torch-pruning's nodes that have nothing to remove.
WITHOUT_CHANNELS = {"CONCAT", "SPLIT", "ELEMENTWISE", "RESHAPE", "UNBIND", "EXPAND", "SLICE", "OUTPUT"}


@dataclass(frozen=True)
class Cut:
    """The part of a group in one layer: `handler(layer, channels)` removes channels of the layer."""

    layer: str
    handler: Callable[[nn.Module, list[int]], nn.Module]
    channels: tuple[tuple[int, ...], ...]  # channels[i]: channels of the layer for channel i of the group

    @property
    def cuts_outputs(self) -> bool:
        """True for output channels; depthwise layers and norms lose their input channels with them."""
        return _cuts_outputs(self)


@dataclass(frozen=True, eq=False)  # identity: equality of tensors is elementwise
class Group:
    """Channels of several layers that can only be removed together."""

    name: str  # of the first layer, which leads the group
    scores: Tensor  # (channels,), comparable between groups, higher is more important
    cuts: tuple[Cut, ...]

    @property
    def channels(self) -> int:
        return len(self.scores)


def find_groups(
    net: nn.Module, example: Tensor, protected: Mapping[str, str], score: Importance
) -> tuple[tuple[Group, ...], dict[str, str]]:
    """Finds all groups of `net` that contain no output channels of protected modules.

    Args:
        net: traced in eval mode with `example` (b, …); not changed.
        protected: {module name: reason}; the output channels of the module and of everything in it are kept.

    Returns the groups that can be pruned, in a fixed order, and {leading layer: reason} of those that cannot. Raises
    UserError if a protected module does not exist, or the network cannot be traced.
    """
    names = dict(net.named_modules())
    for name in protected:
        if name not in names:
            raise UserError("model.protected", name, "the network has no such module")
    fixed = {inner for name in protected for inner in names[name].modules()}
    layer_names = {id(module): name for name, module in names.items()}
    groups: list[Group] = []
    refused: dict[str, str] = {}
    for raw in _trace(net, example, [names[name] for name in protected], fixed):
        if any(_cuts_outputs(dep) and isinstance(dep.layer, nn.Module) and dep.layer in fixed for dep, _ in raw):
            continue
        cuts = _cuts(raw, layer_names)
        if cuts is not None and (scores := score(raw)) is not None:
            scores = scores.detach().float().cpu().nan_to_num(0.0).clamp_min(SMALLEST_SCORE)
            groups.append(Group(cuts[0].layer, scores, cuts))
        elif leader := layer_names.get(id(raw[0].dep.layer)):
            refused[leader] = UNCUTTABLE
    return tuple(groups), refused


def halves(net: nn.Module) -> tuple[tuple[str, str], ...]:
    """Pairs of layer names that need equal widths: those in the attribute `halves` of the blocks that have one."""
    return tuple(
        (f"{name}.{block.halves[0]}".lstrip("."), f"{name}.{block.halves[1]}".lstrip("."))
        for name, block in net.named_modules()
        if isinstance(getattr(block, "halves", None), tuple)
    )


def tie(groups: Sequence[Group], pairs: Sequence[tuple[str, str]]) -> tuple[tuple[Group, ...], dict[str, str]]:
    """Merges groups so that the two layers of each pair keep equal widths.

    Groups with the output channels of a pair become one. Its channel i consists of the i-th least important channel of
    each group, and its score is the sum of theirs. If one layer of a pair cannot be pruned, neither can the groups
    that are tied to it. Returns the groups, and {leading layer: reason} of those that can no longer be pruned.
    """
    group_of = {cut.layer: group for group in groups for cut in group.cuts if cut.cuts_outputs}
    bundles = {group: [group] for group in groups}
    fixed: set[Group] = set()
    for pair in pairs:
        members = [group_of[layer] for layer in pair if layer in group_of]
        if len(members) == 1:
            fixed.update(members)
        elif members and bundles[members[0]] is not bundles[members[1]]:
            bundle = bundles[members[0]] + bundles[members[1]]
            bundles |= dict.fromkeys(bundle, bundle)
    tied: list[Group] = []
    refused: dict[str, str] = {}
    for bundle in {id(bundle): bundle for bundle in bundles.values()}.values():
        if fixed.intersection(bundle) or len({group.channels for group in bundle}) > 1:
            refused |= dict.fromkeys((group.name for group in bundle), UNPAIRED)
        else:
            tied.append(bundle[0] if len(bundle) == 1 else _bundled(bundle))
    return tuple(tied), refused


def _bundled(groups: Sequence[Group]) -> Group:
    ranked = [(group, group.scores.argsort(stable=True).tolist()) for group in groups]
    scores = torch.stack([group.scores[order] for group, order in ranked]).sum(0)
    cuts = tuple(
        Cut(cut.layer, cut.handler, tuple(cut.channels[index] for index in order))
        for group, order in ranked
        for cut in group.cuts
    )
    return Group(groups[0].name, scores, cuts)


def cut(net: nn.Module, chosen: Mapping[Group, list[int]]) -> nn.Module:
    """Returns a copy of `net` without the chosen channels, {group: channel indices}."""
    pruned = copy.deepcopy(net)
    layers = dict(pruned.named_modules())
    removed: dict[tuple[str, Any], set[int]] = defaultdict(set)
    for group, channels in chosen.items():
        for part in group.cuts:
            # After a concatenation several groups share a layer. Indices refer to the full layer, so all go at once.
            removed[part.layer, part.handler].update(index for channel in channels for index in part.channels[channel])
    for (name, handler), indices in removed.items():
        if indices:
            handler(layers[name], sorted(indices))
    return pruned


def _trace(net: nn.Module, example: Tensor, protected: list[nn.Module], fixed: set[nn.Module]) -> list[Any]:
    """torch-pruning's groups, each with all of its channels."""
    training = net.training
    net.eval()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = _graph(net, example, protected, fixed)
            graph.get_pruning_group = functools.partial(_coupled, graph)
            return list(graph.get_all_groups())
    except Exception as error:  # anything that the network's own code or torch-pruning raises
        raise UserError("prune", type(net).__name__, f"the network cannot be traced for pruning ({error})") from error
    finally:
        net.train(training)


def _coupled(graph: Any, layer: nn.Module, handler: Any, channels: list[int]) -> Any:
    """torch-pruning's `get_pruning_group` (the channels coupled to `channels` of a layer), guaranteed to terminate.

    Consecutive sums over slices, as in ReXNet, break the index mapping of the graph: on each cycle a path returns with
    other channels, soon with indices that a layer does not have, and the original traversal never ends. This one ends
    there, or at a single channel that all others depend on, and `_cuts` rejects the group.
    """
    from torch_pruning import _helpers, function, ops
    from torch_pruning.dependency import Dependency, Group, index_mapping

    if isinstance(layer, ops.TORCH_CONV) and layer.groups == layer.out_channels > 1:
        handler = function.prune_depthwise_conv_out_channels
    index_mapping.update_index_mapping(graph)
    root = graph.module2node[layer]
    first = Dependency(handler, handler, source=root, target=root)
    waiting = [(first, [_helpers._HybridIndex(channel, channel) for channel in channels])]
    visited: defaultdict[tuple[Any, Any], set[Any]] = defaultdict(set)  # {(node, handler): indices}
    visited[root, handler].update(waiting[0][1])
    group = Group()
    group._DG = graph
    group.add_and_merge(*waiting[0])
    while waiting:
        dep, indices = waiting.pop()
        for following in dep.target.dependencies:
            if not following.is_triggered_by(dep.handler):
                continue
            reached = functools.reduce(lambda i, f: i if f is None else f(i), following.index_mapping, indices)
            known = visited[following.target, following.handler]
            new = [index for index in reached if index not in known]
            if not new:
                continue
            known.update(new)
            group.add_and_merge(following, new)
            waiting.append((following, new))
            if _is_dead_end(following, [index.idx for index in new], len(channels)):
                waiting.clear()
                break
    for position, (dep, indices) in enumerate(group.items):
        group[position] = _helpers.GroupItem(dep, _helpers.to_plain_idxs(indices))
        group[position].root_idxs = _helpers.to_root_idxs(indices)
    return group


def _graph(net: nn.Module, example: Tensor, protected: list[nn.Module], fixed: set[nn.Module]) -> Any:
    """The dependency graph up to the outputs of protected layers, or of the network if those do not cover all layers.

    The operations after the protected last layers (box decoding, concatenation of anchors) have no channels, but
    torch-pruning traverses them forever. So it does with the reshapes in attention: protected blocks are hidden.
    """
    import torch_pruning as tp

    ends: list[Tensor] = []
    ran: set[nn.Module] = set()
    leaves = [layer for layer in net.modules() if isinstance(layer, (_ConvNd, nn.Linear))]
    with _hidden(net, example, [block for block in protected if block not in leaves]):
        graph = tp.DependencyGraph()
        with contextlib.ExitStack() as hooks:
            for layer in leaves:
                hooks.enter_context(layer.register_forward_hook(lambda layer, _, __: ran.add(layer)))
                if layer in protected:
                    hooks.enter_context(layer.register_forward_hook(lambda _, __, out: ends.append(out)))
            graph.build_dependency(net, (example,), output_transform=lambda out: ends or out, verbose=False)
        if ends and not ran - fixed <= graph.module2node.keys():
            graph = tp.DependencyGraph().build_dependency(net, (example,), verbose=False)
    return graph


@contextlib.contextmanager
def _hidden(net: nn.Module, example: Tensor, blocks: list[nn.Module]) -> Iterator[None]:
    """In this context, blocks whose output has the shape of their input appear as one depthwise convolution, which is
    not a layer of the network: `_cuts` rejects every group that contains it."""

    def add_substitute(block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) == 1 and isinstance(output, Tensor) and output.shape == inputs[0].shape and output.ndim == 4:
            channels = output.shape[1]
            block.add_module(TIE, nn.Conv2d(channels, channels, 1, groups=channels))

    def hide(block: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return block.get_submodule(TIE)(inputs[0]) if hasattr(block, TIE) else output

    # torch-pruning collects the layers before it runs the network, so the substitutes must exist by then.
    try:
        if blocks:
            with torch.no_grad(), contextlib.ExitStack() as hooks:
                for block in blocks:
                    hooks.enter_context(block.register_forward_hook(add_substitute))
                net(example)
        with contextlib.ExitStack() as hooks:
            for block in blocks:
                hooks.enter_context(block.register_forward_hook(hide))
            yield
    finally:
        for block in blocks:
            block._modules.pop(TIE, None)


def _is_grouped(layer: nn.Module) -> bool:
    """Grouped but not depthwise: channels can only be removed from all groups at once."""
    return isinstance(layer, _ConvNd) and layer.groups > 1 and {layer.groups} != {layer.in_channels, layer.out_channels}


def _cuts_outputs(part: Any) -> bool:
    return part.handler.__name__ == "prune_out_channels"


def _is_dead_end(dep: Any, channels: list[int], count: int) -> bool:
    """Whether this layer rules out pruning a group of `count` channels: the graph refers to channels that the layer
    does not have (after splits into many parts), or all depend on its only channel (attention in ECA-Net)."""
    sides = ("out_channels", "out_features") if _cuts_outputs(dep) else ("in_channels", "in_features")
    width = next((w for side in sides if isinstance(w := getattr(dep.layer, side, None), int)), None)
    return width is not None and bool(channels) and (max(channels) >= width or width == 1 < count)


def _cuts(raw: Any, layer_names: Mapping[int, str]) -> tuple[Cut, ...] | None:
    """Cuts of a torch-pruning group; None if a layer cannot be pruned channel by channel. `layer_names` are by id."""
    count = len(raw[0].idxs)
    cuts = []
    for item in raw:
        layer = item.dep.layer
        if not isinstance(layer, nn.Module) or id(layer) not in layer_names:
            if item.dep.target.type.name in WITHOUT_CHANNELS:
                continue
            return None
        if _is_grouped(layer) or None in item.root_idxs or _is_dead_end(item.dep, item.idxs, count):
            return None
        channels: list[list[int]] = [[] for _ in range(count)]
        for index, root in zip(item.idxs, item.root_idxs, strict=True):
            channels[root].append(index)
        cuts.append(Cut(layer_names[id(layer)], item.dep.handler, tuple(map(tuple, channels))))
    return tuple(cuts)
