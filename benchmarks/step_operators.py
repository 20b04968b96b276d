"""Where a training step's time goes: every distinct operator of the exported file, run alone.

The runtimes' Python packages come without a profiler. Each operator of `train`, with its options,
constants and the shapes that it has at the batch size, is put into a `.tflite` of its own, timed on
noise, and counted as often as it occurs. Variables are left out. As in the step, LiteRT runs through
XNNPACK and tflite-runtime without.
"""

import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPEATS = 3
LEFT_OUT = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE")


@dataclass(frozen=True)
class OperatorTime:
    """All operators of one kind in a step; `ms` by processor time, one thread."""

    name: str
    count: int
    ms: float


def operator_times(model: Path, runtime: str, batch_size: int) -> list[OperatorTime]:
    """By kind, the longest first."""
    with tempfile.TemporaryDirectory() as directory:
        here = [sys.executable, __file__]
        shapes = Path(directory) / "shapes.json"
        _run([*here, "shapes", str(model), str(batch_size), str(shapes)])
        _run([*here, "split", str(model), str(shapes), directory])
        _run([*here, "time", runtime, directory])
        found = json.loads((Path(directory) / "times.json").read_text())
    return sorted((OperatorTime(*entry) for entry in found), key=lambda entry: -entry.ms)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def write_shapes(model: Path, batch_size: int, path: Path) -> None:
    """The shapes of all tensors of `train` once it has run at the batch size."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(model), num_threads=1, experimental_op_resolver_type=plain)
    train = interpreter.get_signature_runner("train")
    inputs = {}
    for name, detail in train.get_input_details().items():
        sizes = [batch_size if size == -1 else int(size) for size in detail["shape_signature"]]
        inputs[name] = np.zeros(sizes, detail["dtype"])
    train(**inputs)
    inner, graph = interpreter._interpreter, _train_graph(model)
    shapes = []
    for number in range(inner.NumTensors(graph)):
        try:
            shapes.append([int(size) for size in inner.TensorSize(number, graph)])
        except ValueError:  # a scalar
            shapes.append([])
    path.write_text(json.dumps(shapes))


def split(model: Path, shapes: Path, directory: Path) -> None:
    """Writes a file for each distinct operator, and what each one is and how often it occurs."""
    from fedfer.export.packing import pack

    whole, sizes = _unpacked(model), json.loads(shapes.read_text())
    graph = whole.subgraphs[_train_graph(model)]
    counts: Counter[str] = Counter()
    listed: list[tuple[str, str]] = []
    for op in graph.operators:
        name = _name(whole, op)
        if name in LEFT_OUT:
            continue
        inputs = [(sizes[i], _content(whole, graph.tensors[i])) for i in op.inputs]
        key = repr((name, vars(op.builtinOptions) if op.builtinOptions else None, inputs))
        counts[key] += 1
        if counts[key] == 1:
            (directory / f"{len(listed)}.tflite").write_bytes(pack(_alone(whole, graph, op, sizes)))
            listed.append((name, key))
    (directory / "listed.json").write_text(json.dumps([(name, counts[key]) for name, key in listed]))


def time_files(runtime: str, directory: Path) -> None:
    """Times every file in turn."""
    options: dict[str, Any] = {}
    if runtime == "tflite-runtime":
        from tflite_runtime.interpreter import Interpreter, OpResolverType

        options["experimental_op_resolver_type"] = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    else:
        from ai_edge_litert.interpreter import Interpreter
    rng = np.random.default_rng(0)
    counts: dict[str, int] = defaultdict(int)
    totals: dict[str, float] = defaultdict(float)
    for number, (name, count) in enumerate(json.loads((directory / "listed.json").read_text())):
        interpreter = Interpreter(str(directory / f"{number}.tflite"), num_threads=1, **options)
        interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            value = rng.random(detail["shape"]) if detail["dtype"] == np.float32 else np.ones(detail["shape"])
            interpreter.set_tensor(detail["index"], value.astype(detail["dtype"]))
        interpreter.invoke()
        seconds = []
        for _ in range(REPEATS):
            started = time.process_time()
            interpreter.invoke()
            seconds.append(time.process_time() - started)
        counts[name] += count
        totals[name] += count * statistics.median(seconds) * 1000
    times = [(name, counts[name], totals[name]) for name in counts]
    (directory / "times.json").write_text(json.dumps(times))


def _alone(whole: Any, graph: Any, op: Any, sizes: list[list[int]]) -> Any:
    """A model of this operator only, at these shapes."""
    model, alone = copy.copy(whole), copy.copy(graph)
    numbers = [int(i) for i in dict.fromkeys([*op.inputs, *op.outputs])]
    alone.tensors = [copy.copy(graph.tensors[i]) for i in numbers]
    for tensor, number in zip(alone.tensors, numbers, strict=True):
        tensor.shape, tensor.shapeSignature = np.array(sizes[number], np.int32), None
        tensor.name = f"t{number}"
    step = copy.copy(op)
    step.inputs, step.outputs = (
        np.array([numbers.index(i) for i in ends], np.int32) for ends in (op.inputs, op.outputs)
    )
    alone.operators, alone.outputs = [step], step.outputs
    fed = [i for i in dict.fromkeys(step.inputs.tolist()) if _content(whole, alone.tensors[i]) is None]
    alone.inputs = np.array(fed, np.int32)
    model.subgraphs, model.signatureDefs, model.metadata = [alone], [], []
    model.buffers = list(whole.buffers)
    used = {tensor.buffer for tensor in alone.tensors}
    for number, buffer in enumerate(model.buffers):
        if number not in used and buffer.data is not None:
            model.buffers[number] = copy.copy(whole.buffers[0])
    return model


def _content(model: Any, tensor: Any) -> bytes | None:
    data = model.buffers[tensor.buffer].data
    return None if data is None else bytes(data)


def _name(model: Any, op: Any) -> str:
    from tensorflow.lite.python import schema_py_generated as schema

    kind = model.operatorCodes[op.opcodeIndex]
    number = max(kind.builtinCode, kind.deprecatedBuiltinCode)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    return str(names[number])


def _unpacked(model: Path) -> Any:
    from tensorflow.lite.python import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(model.read_bytes(), 0)


def _train_graph(model: Path) -> int:
    import tflite

    file = tflite.Model.GetRootAs(model.read_bytes(), 0)
    signatures = (file.SignatureDefs(i) for i in range(file.SignatureDefsLength()))
    return next(int(s.SubgraphIndex()) for s in signatures if s.SignatureKey() == b"train")


if __name__ == "__main__":
    task, arguments = sys.argv[1], sys.argv[2:]
    if task == "shapes":
        write_shapes(Path(arguments[0]), int(arguments[1]), Path(arguments[2]))
    elif task == "split":
        split(Path(arguments[0]), Path(arguments[1]), Path(arguments[2]))
    else:
        time_files(arguments[0], Path(arguments[1]))
