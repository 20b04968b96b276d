"""Finding operators of a `.tflite` whose output shapes are known only when it runs."""

import tflite

# Which input holds a shape or places.
SHAPED_BY = {
    **dict.fromkeys(("RESHAPE", "SLICE", "PAD", "PADV2", "TILE", "STRIDED_SLICE", "TRANSPOSE"), 1),
    "TRANSPOSE_CONV": 0,
}
NAMES = {value: name for name, value in vars(tflite.BuiltinOperator).items() if not name.startswith("_")}


def computed_shapes(content: bytes) -> list[str]:
    """Operators whose shape input is no constant."""
    model = tflite.Model.GetRootAs(content, 0)
    found = []
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for place in range(graph.OperatorsLength()):
            op = graph.Operators(place)
            code = model.OperatorCodes(op.OpcodeIndex())
            name = NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            which = SHAPED_BY.get(name)
            if which is not None and op.InputsLength() > which:
                tensor = graph.Tensors(op.Inputs(which))
                if model.Buffers(tensor.Buffer()).DataLength() == 0:
                    found.append(f"{name} {place} of subgraph {number}")
    return found
