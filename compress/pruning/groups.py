"""Which channels of a network must go together, how much each matters, and taking a choice of them out.

torch-pruning's dependency graph finds the groups (Fang et al. 2023, DepGraph). It is built once: its groups name
layers and channel numbers, so any choice can be cut out of a copy of the network without tracing it again.
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
UNCUTTABLE = "coupled to layers that cannot be cut channel by channel"
UNPAIRED = "must stay as wide as a layer that keeps its channels (prune.equal_split_widths)"
SMALLEST_SCORE = 1e-12  # keeps scores finite where a whole group has zero weights


@dataclass(frozen=True)
class Cut:
    """What one channel of a group means for one layer: `handler(layer, channels)` removes channels of it."""

    layer: str
    handler: Callable[[nn.Module, list[int]], nn.Module]
    channels: tuple[tuple[int, ...], ...]  # channels[i]: the layer's channels that go with channel i of the group

    @property
    def cuts_outputs(self) -> bool:
        """Whether output channels go; in depthwise layers and norms the input's go with them."""
        return self.handler.__name__ == "prune_out_channels"


@dataclass(frozen=True, eq=False)  # tensors do not compare: a group is itself only
class Group:
    """Channels of several layers that can only leave together."""

    name: str  # the layer that leads it
    scores: Tensor  # (channels,), comparable between groups, higher matters more
    cuts: tuple[Cut, ...]

    @property
    def channels(self) -> int:
        return len(self.scores)


def find_groups(
    net: nn.Module, example: Tensor, protected: Mapping[str, str], score: Importance
) -> tuple[tuple[Group, ...], dict[str, str]]:
    """All groups of `net` that touch no output channel of a protected module, in a fixed order, and the layers that
    lead groups which cannot be cut: {layer: why}.

    Args:
        net: traced in eval mode with `example` (b, …); not changed.
        protected: {module name: why}; a name stands for the module and everything in it.

    Raises:
        UserError: a protected module does not exist, or the network cannot be traced.
    """
    names = dict(net.named_modules())
    for name in protected:
        if name not in names:
            raise UserError("model.protected", name, "the network has no such module")
    kept = {inner for name in protected for inner in names[name].modules()}
    layer_names = {id(module): name for name, module in names.items()}
    found: list[Group] = []
    refused: dict[str, str] = {}
    for raw in _trace(net, example, [names[name] for name in protected], kept):
        if any(_cuts_outputs(dep) and isinstance(dep.layer, nn.Module) and dep.layer in kept for dep, _ in raw):
            continue
        cuts = _cuts(raw, layer_names)
        scores = None if cuts is None else score(raw)
        if scores is not None and cuts is not None:
            scores = scores.detach().float().cpu().nan_to_num(0.0).clamp_min(SMALLEST_SCORE)
            found.append(Group(cuts[0].layer, scores, cuts))
        elif leader := layer_names.get(id(raw[0].dep.layer)):
            refused[leader] = UNCUTTABLE
    return tuple(found), refused


def halves(net: nn.Module) -> tuple[tuple[str, str], ...]:
    """Names of the layers that blocks of `net` want equally wide: those that a block names in its attribute `halves`,
    if it has one."""
    return tuple(
        (f"{name}.{block.halves[0]}".lstrip("."), f"{name}.{block.halves[1]}".lstrip("."))
        for name, block in net.named_modules()
        if isinstance(getattr(block, "halves", None), tuple)
    )


def tie(groups: Sequence[Group], pairs: Sequence[tuple[str, str]]) -> tuple[tuple[Group, ...], dict[str, str]]:
    """Groups in which the two layers of each pair lose equally many channels, and the leaders of groups that can no
    longer be cut: {layer: why}.

    Groups that hold the outputs of a pair's layers become one; its channel i stands for the i-th least important of
    each, and scores the sum. Where one of a pair keeps its channels, so does all that is tied to it.
    """
    home = {cut.layer: group for group in groups for cut in group.cuts if cut.cuts_outputs}
    bundles = {group: [group] for group in groups}
    stuck: set[Group] = set()
    for pair in pairs:
        found = [home[layer] for layer in pair if layer in home]
        if len(found) == 1:
            stuck.update(found)
        elif found and bundles[found[0]] is not bundles[found[1]]:
            bundle = bundles[found[0]] + bundles[found[1]]
            bundles |= dict.fromkeys(bundle, bundle)
    tied: list[Group] = []
    refused: dict[str, str] = {}
    for bundle in {id(bundle): bundle for bundle in bundles.values()}.values():
        if stuck.intersection(bundle) or len({group.channels for group in bundle}) > 1:
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
    """A copy of `net` without the chosen channels of each group."""
    pruned = copy.deepcopy(net)
    layers = dict(pruned.named_modules())
    gone: dict[tuple[str, Any], set[int]] = defaultdict(set)
    for group, channels in chosen.items():
        for part in group.cuts:
            # Several groups can reach the same layer (after a concatenation), so all their channels go at once.
            gone[part.layer, part.handler].update(index for channel in channels for index in part.channels[channel])
    for (name, handler), indices in gone.items():
        if indices:
            handler(layers[name], sorted(indices))
    return pruned


def _trace(net: nn.Module, example: Tensor, protected: list[nn.Module], kept: set[nn.Module]) -> list[Any]:
    """torch-pruning's groups, each with all its channels."""
    training = net.training
    net.eval()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = _graph(net, example, protected, kept)
            graph.get_pruning_group = functools.partial(_coupled, graph)
            return list(graph.get_all_groups())
    except Exception as error:  # whatever a user's network raises when it runs, and torch-pruning's own
        raise UserError("prune", type(net).__name__, f"the network cannot be traced for pruning ({error})") from error
    finally:
        net.train(training)


def _coupled(graph: Any, layer: nn.Module, handler: Any, channels: list[int]) -> Any:
    """What `channels` of a layer are coupled with, as torch-pruning's `get_pruning_group` has it, with an end.

    Where sums over slices follow each other, as in ReXNet, the graph loses track: each time round, the path comes
    back with other channels, and soon with some that a layer does not have. Its own walk goes on for ever; this one
    ends there, or where all channels hang on one, and `_cuts` refuses the group.
    """
    from torch_pruning import _helpers, function, ops
    from torch_pruning.dependency import Dependency, Group, index_mapping

    if isinstance(layer, ops.TORCH_CONV) and layer.groups == layer.out_channels > 1:
        handler = function.prune_depthwise_conv_out_channels
    index_mapping.update_index_mapping(graph)
    root = graph.module2node[layer]
    first = Dependency(handler, handler, source=root, target=root)
    waiting = [(first, [_helpers._HybridIndex(channel, channel) for channel in channels])]
    met: defaultdict[tuple[Any, Any], set[Any]] = defaultdict(set)  # {(node, handler): its channels and the layer's}
    met[root, handler].update(waiting[0][1])
    group = Group()
    group._DG = graph
    group.add_and_merge(*waiting[0])
    while waiting:
        dep, indices = waiting.pop()
        for following in dep.target.dependencies:
            if not following.is_triggered_by(dep.handler):
                continue
            reached = functools.reduce(lambda at, go: at if go is None else go(at), following.index_mapping, indices)
            known = met[following.target, following.handler]
            new = [index for index in reached if index not in known]
            if not new:
                continue
            known.update(new)
            group.add_and_merge(following, new)
            waiting.append((following, new))
            if _is_dead_end(following, [index.idx for index in new], len(channels)):
                waiting.clear()
                break
    for place, (dep, indices) in enumerate(group.items):
        group[place] = _helpers.GroupItem(dep, _helpers.to_plain_idxs(indices))
        group[place].root_idxs = _helpers.to_root_idxs(indices)
    return group


def _graph(net: nn.Module, example: Tensor, protected: list[nn.Module], kept: set[nn.Module]) -> Any:
    """The dependency graph up to the outputs of protected layers; up to the network's, where those miss some layer.

    What follows the protected last layers (decoding of boxes, a thousand anchors concatenated) has no channels, but
    torch-pruning takes it for some, and following its paths takes for ever. The same holds for the reshapes inside
    attention, so the inside of a protected block is hidden.
    """
    import torch_pruning as tp

    ends: list[Tensor] = []
    ran: set[nn.Module] = set()
    leaves = [layer for layer in net.modules() if _has_channels(layer)]
    hooks = [layer.register_forward_hook(lambda layer, _, __: ran.add(layer)) for layer in leaves]
    hooks += [
        layer.register_forward_hook(lambda _, __, out: ends.append(out)) for layer in protected if layer in leaves
    ]
    with _hidden(net, example, [block for block in protected if block not in leaves]):
        graph = tp.DependencyGraph()
        try:
            graph.build_dependency(net, (example,), output_transform=lambda out: ends or out, verbose=False)
        finally:
            for hook in hooks:
                hook.remove()
        if ends and not ran - kept <= graph.module2node.keys():
            graph = tp.DependencyGraph().build_dependency(net, (example,), verbose=False)
    return graph


@contextlib.contextmanager
def _hidden(net: nn.Module, example: Tensor, blocks: list[nn.Module]) -> Iterator[None]:
    """While open, blocks that keep the shape of their input look like one unknown layer, tied to input and output.

    The layer is none of the network's, so `_cuts` refuses every group that it is in.
    """

    def measure(block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) == 1 and isinstance(output, Tensor) and output.shape == inputs[0].shape and output.ndim == 4:
            channels = output.shape[1]
            block.add_module(TIE, nn.Conv2d(channels, channels, 1, groups=channels))

    def hide(block: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return block.get_submodule(TIE)(inputs[0]) if hasattr(block, TIE) else output

    # torch-pruning looks for layers before it runs the network, so the ties must be there by then.
    hooks = [block.register_forward_hook(measure) for block in blocks]
    try:
        if hooks:
            with torch.no_grad():
                net(example)
            for hook in hooks:
                hook.remove()
            hooks = [block.register_forward_hook(hide) for block in blocks]
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for block in blocks:
            block._modules.pop(TIE, None)


def _has_channels(layer: nn.Module) -> bool:
    return isinstance(layer, (_ConvNd, nn.Linear))


def _is_grouped(layer: nn.Module) -> bool:
    """Neither plain nor depthwise: its channels come in packs."""
    return (
        isinstance(layer, _ConvNd) and layer.groups > 1 and not layer.groups == layer.in_channels == layer.out_channels
    )


def _does_nothing(dep: Any) -> bool:
    """Concatenations, sums, reshapes: no channels of their own to remove."""
    from torch_pruning import ops

    kinds = ops.OPTYPE
    return dep.target.type in {
        kinds.CONCAT, kinds.SPLIT, kinds.ELEMENTWISE, kinds.RESHAPE, kinds.UNBIND, kinds.EXPAND, kinds.SLICE,
        kinds.OUTPUT,
    }  # fmt: skip


def _cuts_outputs(dep: Any) -> bool:
    return dep.handler.__name__ == "prune_out_channels"


def _is_dead_end(dep: Any, channels: list[int], count: int) -> bool:
    """Whether a group of `count` channels cannot be cut, as this layer shows: the graph lost track and names channels
    that it does not have (after splits into many parts), or all hang on its only one (ECA's attention)."""
    sides = ("out_channels", "out_features") if _cuts_outputs(dep) else ("in_channels", "in_features")
    width = next((w for side in sides if isinstance(w := getattr(dep.layer, side, None), int)), None)
    return width is not None and bool(channels) and (max(channels) >= width or width == 1 < count)


def _cuts(raw: Any, layer_names: Mapping[int, str]) -> tuple[Cut, ...] | None:
    """The group in our terms, or None where a layer cannot be cut channel by channel; `layer_names` are by id."""
    count = len(raw[0].idxs)
    cuts = []
    for item in raw:
        layer = item.dep.layer
        if not isinstance(layer, nn.Module) or id(layer) not in layer_names:
            if _does_nothing(item.dep):
                continue
            return None
        if (
            _is_grouped(layer)
            or any(root is None for root in item.root_idxs)
            or _is_dead_end(item.dep, item.idxs, count)
        ):
            return None
        channels: list[list[int]] = [[] for _ in range(count)]
        for index, root in zip(item.idxs, item.root_idxs, strict=True):
            channels[root].append(index)
        cuts.append(Cut(layer_names[id(layer)], item.dep.handler, tuple(map(tuple, channels))))
    return tuple(cuts)
