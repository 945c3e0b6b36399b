"""Reconstructs a pruned network layer by layer, in the order in which the layers run.

Each layer is solved just before it runs, in a forward hook. If the activations of all images fit in memory, one forward
pass of all images solves the network. Otherwise the images are divided into batches: a pass ends at the first unsolved
layer, and that layer is solved once all batches have reached it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from compress.reconstruction import layers as tracing
from compress.reconstruction.problem import Problem, Solution
from compress.training.placement import CPU

MEMORY = 2 * 2**30  # bytes of activations that a pass may hold
LIVE = 6  # outputs of the largest size that a pass holds at once, about

Load = Callable[[int, int], Tensor]
"""Returns the images start to stop - 1: float32 (b, c, s, s) in [0, 1], on the CPU."""


class _Stop(Exception):
    """Ends a forward pass."""


@torch.no_grad()
def reconstruct(
    net: nn.Module,
    reference: nn.Module,
    kept: Mapping[str, Sequence[int]],
    load: Load,
    images: int,
    *,
    growth: float,
    seed: int = 0,
    device: torch.device = CPU,
    memory: int = MEMORY,
) -> list[Solution]:
    """Solves the weights and biases of the layers of `net`, in place, so that each reproduces the output of the same
    layer of `reference`, given the input that the layers before it, already solved, compute.

    Args:
        net, reference: the pruned and the unpruned network, in eval mode, with the same layers.
        kept: {layer: channels of `reference` that its outputs are}, for layers that lost any.
        images: number of images.
        growth: bound on the norm of an output's weights, relative to before.
        device: where the networks compute. They are on the CPU afterwards.
        memory: bytes of activations that a pass may hold.

    Returns the solved layers. Raises UserError if `images` are too few for a layer.
    """
    net.to(device)
    reference.to(device)
    layers, _ = tracing.trace(net, load(0, 1).to(device))
    tracing.check_images(layers, images)
    _, largest = tracing.trace(reference, load(0, 1).to(device))
    size = min(images, max(1, memory // (LIVE * largest)))
    batches = [(start, min(start + size, images)) for start in range(0, images, size)]
    problems = [Problem(net, layer, images, seed + index) for index, layer in enumerate(layers)]
    for start, stop in batches:
        with ExitStack() as hooks:
            for problem in problems:
                add = partial(_add_targets, problem, start, reference, kept.get(problem.layer.name))
                hooks.enter_context(reference.get_submodule(problem.layer.name).register_forward_hook(add))
            reference(load(start, stop).to(device))
    solutions: list[Solution] = []
    with tqdm(total=len(problems), desc="reconstruct", unit="layer", disable=None) as bar:
        while waiting := sum(len(problem.targets) for problem in problems):
            for start, stop in batches:
                with ExitStack() as hooks:
                    for problem in problems:
                        solve = partial(_add_inputs, problem, start, growth, solutions)
                        hooks.enter_context(net.get_submodule(problem.layer.name).register_forward_pre_hook(solve))
                    hooks.enter_context(suppress(_Stop))
                    net(load(start, stop).to(device))
                bar.update(sum(not problem.targets for problem in problems) - bar.n)
            if waiting == sum(len(problem.targets) for problem in problems):
                break  # a layer that ran in the trace does not run for these images
    net.cpu()
    reference.cpu()
    return solutions


def _add_targets(
    problem: Problem,
    start: int,
    reference: nn.Module,
    kept: Sequence[int] | None,
    _: nn.Module,
    __: object,
    out: Tensor,
) -> None:
    problem.add_targets(start, reference, out, kept)


def _add_inputs(
    problem: Problem, start: int, growth: float, solutions: list[Solution], _: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    """Adds the inputs of a batch. Solves the layer if it was the last one, else ends the pass. The layer then runs."""
    if start in problem.targets:
        problem.add_inputs(start, inputs[0])
        if not problem.targets and (solution := problem.solve(growth)) is not None:
            solutions.append(solution)
    if problem.targets:
        raise _Stop
