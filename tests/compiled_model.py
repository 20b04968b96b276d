"""An exported file in LiteRT's CompiledModel API, the one that its documentation recommends; for a process of
its own."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import Weights
from fedfer.export.contract import read_contract


class Compiled:
    """Signatures of a `.tflite` on the processor, run by name."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert.compiled_model import CompiledModel

        self._content = content  # read from as long as the model lives
        self._model = CompiledModel.from_buffer(content)
        self._contract = read_contract(content)
        self._inputs: dict[str, dict[str, tuple[int, ...]]] = {}

    def run(self, signature: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        self._resize(signature, {name: value.shape for name, value in inputs.items()})
        model = self._model
        given, taken = {}, {}
        for name, value in inputs.items():
            given[name] = model.create_input_buffer_by_name(signature, name)
            given[name].write(np.ascontiguousarray(value))
        outputs = model.get_output_tensor_details(signature)
        for name in outputs:
            taken[name] = model.create_output_buffer_by_name(signature, name)
        model.run_by_name(signature, given, taken)
        return {name: self._read(taken[name], details) for name, details in outputs.items()}

    def train(self, images: NDArray[Any], labels: NDArray[Any], learning_rate: float) -> float:
        """The loss of one step with seed 0."""
        found = self.run(
            "train",
            images=images,
            labels=labels.astype(np.int32),
            learning_rate=np.array([learning_rate], np.float32),
            seed=np.zeros(1, np.int32),
        )
        return float(found["loss"][0])

    def save(self) -> Weights:
        found = self.run("save", request=np.zeros(1, np.int32))
        return {spec.name: found[spec.name].reshape(spec.shape) for spec in self._contract.weights}

    def _resize(self, signature: str, shapes: dict[str, tuple[int, ...]]) -> None:
        """Sizes that the caller chooses, where they are not what they were."""
        if signature == "train" and self._inputs.get(signature) != shapes:
            for name in ("images", "labels"):
                self._model.resize_input_tensor_by_name(signature, name, list(shapes[name]))
            self._inputs[signature] = shapes

    @staticmethod
    def _read(buffer: Any, details: dict[str, Any]) -> NDArray[Any]:
        count = int(np.prod(details["shape"], dtype=np.int64))
        dtype = np.dtype(details["dtype"])
        values: NDArray[Any] = buffer.read(count, dtype.type)
        return values
