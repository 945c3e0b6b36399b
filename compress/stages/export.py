"""Export: pack each target's graphs into `artifacts/<target>/` with manifest and bench kit, and hold what was packed
against the torch model in a fresh process. graphs -> artifacts."""

from __future__ import annotations

from compress import targets
from compress.measure import contracts
from compress.product import Artifacts, Graph, Graphs, Model
from compress.stages.context import Context
from compress.targets import artifact

LABELLED = 32  # validation images at most that go with an artifact, for its kit to judge it by


def run(product: Model | Graphs, context: Context) -> Artifacts:
    """Takes the graphs of quantize, or a torch model, which is converted first (FP32 only)."""
    model = product.model if isinstance(product, Graphs) else product
    folder = context.folder / "artifacts"
    facts = {"data": context.data.fingerprint, "recipe": context.config.recipe_name}

    split = context.data.validation.subset(LABELLED, context.config.seed)
    numbers = range(len(split))
    labelled = [split.image(index) for index in numbers], [split.target(index) for index in numbers]

    def package(target: str) -> tuple[Graph, ...]:
        if isinstance(product, Graphs):
            graphs = [graph for graph in product.graphs if graph.target == target]
        else:
            graphs = [context.fp32_graph(model, target)]
        artifact.add_labelled_images(folder / target, *labelled)
        packed = targets.get(target).package(graphs, folder / target, model, facts)
        context.contracts.extend(contracts.verify(folder / target, model, context.data.validation))
        return packed

    packed = context.for_each_target(package)
    return Artifacts(model, folder, tuple(graph for graphs in packed for graph in graphs))
