"""What of a converted `.tflite` decides how much memory a training step takes: the order of its operators
(fedfer.export.schedule) and which activations its backward pass makes again (fedfer.export.recompute)."""

import copy

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from fedfer.export.recompute import Recomputed, read_again, recompute
from fedfer.export.schedule import Operator, schedule

MIN_READ_AGAIN = 2**14  # numbers of a variable that is read anew for the backward pass
MAX_CHEAP_DEPTH = 16
TARGETS = (b"labels", b"targets")  # inputs of `train` that the loss compares with
# One or two passes over memory, or less; BATCH_MATMUL with a constant is one of fedfer.export.winograd_dense.
CHEAP = frozenset(
    getattr(schema.BuiltinOperator, name)
    for name in (
        *("ADD", "SUB", "MUL", "RESHAPE", "STRIDED_SLICE", "PAD", "CONCATENATION", "SPACE_TO_DEPTH"),
        "TRANSPOSE",
    )
)


def make_again(model: schema.ModelT) -> None:
    """Gives the backward pass of `train` its own copies of activations that are cheap to make."""
    for signature in model.signatureDefs:
        if signature.signatureKey == b"train":
            (target,) = (int(i.tensorIndex) for i in signature.inputs if i.name in TARGETS)
            _make_again(model, model.subgraphs[signature.subgraphIndex], target)


def sort_operators(model: schema.ModelT, subgraph: schema.SubGraphT) -> None:
    """Puts the operators in an order that keeps few tensors alive at a time."""
    subgraph.operators = [subgraph.operators[i] for i in schedule(_operators(model, subgraph))]


def complete_shapes(subgraph: schema.SubGraphT) -> None:
    """Sizes that the converter could not tell for a batch of 1 become 1: interpreters refuse -1, and compute
    the shapes of what operators give anew."""
    for tensor in subgraph.tensors:
        if tensor.shape is not None:
            tensor.shape = np.maximum(tensor.shape, 1)


def operator_codes(model: schema.ModelT) -> list[int]:
    """The builtin operator behind each opcode index."""
    return [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]


def _make_again(model: schema.ModelT, subgraph: schema.SubGraphT, target: int) -> None:
    constant = {i for i, t in enumerate(subgraph.tensors) if model.buffers[t.buffer].data is not None}
    by_batch = [t.shapeSignature is not None and -1 in t.shapeSignature for t in subgraph.tensors]
    product, codes = schema.BuiltinOperator.BATCH_MATMUL, operator_codes(model)

    def parts() -> tuple[list[Operator], set[int], set[int], list[int]]:
        """The operators, which are late, which cheap, and their kinds."""
        operators, kinds = _operators(model, subgraph), [codes[op.opcodeIndex] for op in subgraph.operators]
        products = {
            i
            for i, op in enumerate(operators)
            if kinds[i] == product and (constant & {*op.inputs} or _is_shallow(subgraph, i))
        }
        cheap = products | {i for i, kind in enumerate(kinds) if kind in CHEAP}
        return operators, _after_the_outputs(operators, kinds, target), cheap, kinds

    operators, late, cheap, _ = parts()
    large = {i for i, large in enumerate(by_batch) if large}
    _apply(recompute(operators, late, cheap, large, len(subgraph.tensors)), subgraph)
    operators, late, cheap, kinds = parts()
    reads = {
        i
        for i, op in enumerate(operators)
        if kinds[i] == schema.BuiltinOperator.READ_VARIABLE
        and np.prod(subgraph.tensors[op.outputs[0]].shape) >= MIN_READ_AGAIN
    }
    _apply(read_again(operators, late, cheap, reads, len(subgraph.tensors)), subgraph)


def _is_shallow(subgraph: schema.SubGraphT, number: int) -> bool:
    """Whether a product sums so few terms that it costs little more than writing it down: the convolution of
    an image's one or three colours."""
    op = subgraph.operators[number]
    options = op.builtinOptions
    depth = subgraph.tensors[op.inputs[0]].shape[-1]
    return bool(depth <= MAX_CHEAP_DEPTH and not (options is not None and options.adjX))


def _apply(plan: Recomputed, subgraph: schema.SubGraphT) -> None:
    subgraph.tensors += [copy.copy(subgraph.tensors[tensor]) for tensor in plan.tensors]
    subgraph.operators = [copy.copy(subgraph.operators[number]) for number in plan.originals]
    for packed, op in zip(subgraph.operators, plan.operators, strict=True):
        packed.inputs, packed.outputs = np.array(op.inputs, np.int32), np.array(op.outputs, np.int32)


def _after_the_outputs(operators: list[Operator], kinds: list[int], target: int) -> set[int]:
    """The operators of the loss and the backward pass: those that depend on the target, and those whose
    results only such use. (By CUMSUM dropout counts the samples: the target's values do not matter to it.)"""
    reached, found = {target}, set()
    for number, op in enumerate(operators):
        if kinds[number] != schema.BuiltinOperator.CUMSUM and reached & {*op.inputs}:
            found.add(number)
            reached.update(op.outputs)
    users: dict[int, set[int]] = {}
    for number, op in reversed(list(enumerate(operators))):
        using = {user for tensor in op.outputs for user in users.get(tensor, ())}
        if using and using <= found:
            found.add(number)
        for tensor in op.inputs:
            users.setdefault(tensor, set()).add(number)
    return found


def _operators(model: schema.ModelT, subgraph: schema.SubGraphT) -> list[Operator]:
    """The subgraph's operators as plain data, with the variables that they read and write."""
    codes = operator_codes(model)
    variables: dict[int, str] = {}
    found = []
    for op in subgraph.operators:
        code = codes[op.opcodeIndex]
        if code == schema.BuiltinOperator.VAR_HANDLE:
            variables[op.outputs[0]] = op.builtinOptions.sharedName.decode()
        variable = variables.get(op.inputs[0]) if op.inputs is not None and len(op.inputs) else None
        found.append(
            Operator(
                inputs=tuple(int(i) for i in (op.inputs if op.inputs is not None else [])),
                outputs=tuple(int(i) for i in (op.outputs if op.outputs is not None else [])),
                reads=variable if code == schema.BuiltinOperator.READ_VARIABLE else None,
                writes=variable if code == schema.BuiltinOperator.ASSIGN_VARIABLE else None,
                first=code == schema.BuiltinOperator.CALL_ONCE,
            )
        )
    return found
