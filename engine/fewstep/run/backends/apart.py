"""A converted network in two: what is made of its times, which float32 alone holds, and the rest."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from fewstep.run.backends.openvino_import import openvino_module

# Where a rounding of what goes in is no rounding of what comes out: bfloat16 has 999 and 1001 as the same number.
PRECISE: Final = {
    *("Sin", "Cos", "Subtract", "Floor", "Ceiling", "Round", "Mod", "FloorMod", "TopK"),
    *("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual"),
}


@dataclass(frozen=True)
class Apart:
    """A model in two, of which the second takes what the first makes.

    Attributes:
        first: makes what depends on no image; None where there is nothing of the kind.
        places: of the inputs that it takes, in the model's order.
        second: takes the model's inputs, and behind them what the first makes, in its order.
    """

    first: Any
    places: tuple[int, ...]
    second: Any


def taken_apart(model: Any) -> Apart:
    """An openvino.Model of static shapes in two. It is left in pieces.

    In bfloat16 OpenVINO rounds all that it multiplies, the times among it: the waves of t = 999 are then those of 1000,
    and an embedding is 0.3 off, relative. With the waves made by a model of their own in float32 the digits' U-Net is
    0.005 off in place of 0.019 and the one of CIFAR-10 0.009 for 0.077, which is as much as torch's is in bfloat16.
    """
    openvino = openvino_module()
    passes = import_module("openvino.passes")
    folding = passes.Manager()
    folding.register_pass(passes.ConstantFolding())
    folding.run_passes(model)  # or what is computed of shapes would be taken for what is computed of values
    nodes = model.get_ordered_ops()
    inputs = model.get_parameters()
    places = {node.get_name(): place for place, node in enumerate(inputs)}
    sources: dict[str, frozenset[int]] = {}  # the places of the inputs that a node depends on
    for node in nodes:
        above = (sources[each.get_node().get_name()] for each in node.input_values())
        own = {places[node.get_name()]} if node.get_name() in places else set()
        sources[node.get_name()] = frozenset(own).union(*above)
    within: set[str] = set()  # the first model's nodes
    for node in reversed(nodes):
        depends = sources[node.get_name()]
        if depends and 0 not in depends and node.get_type_name() in PRECISE:
            within |= {node.get_name()}
        if node.get_name() in within:
            within |= {each.get_node().get_name() for each in node.input_values()}
    crossing = [
        (output, [each for each in output.get_target_inputs() if each.get_node().get_name() not in within])
        for node in nodes
        if node.get_name() in within and node.get_name() not in places and sources[node.get_name()]
        for output in node.outputs()
    ]
    crossing = [(output, targets) for output, targets in crossing if targets]
    if not crossing:
        return Apart(None, (), model)
    ops = openvino.opset13
    used = sorted(frozenset().union(*(sources[output.get_node().get_name()] for output, _ in crossing)))
    results = [ops.result(output) for output, _ in crossing]
    first = openvino.Model(results, [inputs[place] for place in used], "first").clone()
    handed = []
    for output, targets in crossing:
        handed.append(ops.parameter(output.partial_shape, output.element_type))
        for each in targets:
            each.replace_source_output(handed[-1].output(0))
    return Apart(first, tuple(used), openvino.Model(model.get_results(), [*inputs, *handed], "second"))
