"""A Keras model -> an inference-only `.tflite`, in float32, float16 or int8.

The converter folds BatchNorm into the convolutions before it where nothing stands between them, else into one
multiplication and one addition. int8 is the scheme of Jacob et al. 2018 (arXiv 1712.05877): weights and
activations in 8 bits, their ranges taken from representative inputs; inputs and probabilities stay float32.
Tokens are int32 in all three: as float32 they would be rounded to one of 256 values by int8.
"""

import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema

from fedfer.export.inference_card import METADATA_NAME, InferenceCard
from fedfer.export.loss_settings import LossSettings
from fedfer.export.losses import predictions
from fedfer.export.packing import add_metadata, pack, share_buffers, strip
from fedfer.export.recurrent import laid_out
from fedfer.export.trainable import frozen_as_constants
from fedfer.model.errors import ExportError, first_line


def convert_for_inference(
    model: keras.Model,
    card: InferenceCard,
    loss: LossSettings,
    representative: NDArray[Any] | None = None,
) -> bytes:
    """The `.tflite` file's bytes. int8 needs `representative` inputs [n,...] as `infer` takes them.

    The model is left frozen. Raises ExportError.
    """
    module = tf.Module()
    model.trainable = False

    def infer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        with frozen_as_constants(model), laid_out():  # a loop's stack is an op that only Flex has
            given = tf.cast(images, model.inputs[0].dtype)
            return {card.output: predictions(model(given, training=False), loss)}

    spec = tf.TensorSpec([None, *card.image_shape], card.input_type, name="images")
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own deprecations
        signature = tf.function(infer).get_concrete_function(spec)
        tf.saved_model.save(module, directory, {"infer": signature})
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=["infer"])
        _set_precision(converter, card, representative)
        try:
            content: bytes = converter.convert()
        except Exception as error:  # the converter raises whatever MLIR says
            said = first_line(error)
            raise ExportError(f"TensorFlow cannot convert the model to {card.precision}: {said}") from None
    return _finish(content, card)


def _set_precision(
    converter: tf.lite.TFLiteConverter, card: InferenceCard, representative: NDArray[Any] | None
) -> None:
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if card.precision == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    if card.precision == "int8":
        if representative is None or not len(representative):
            raise ExportError("int8 takes the ranges of numbers from examples; expected some to calibrate on")

        def images() -> Iterator[dict[str, NDArray[Any]]]:
            for image in representative:
                yield {"images": image[None]}

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = images
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


def _finish(content: bytes, card: InferenceCard) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for subgraph in model.subgraphs:
        strip(subgraph)
    add_metadata(model, METADATA_NAME, card.to_json(), f"{card.model_name}, for inference, by fedfer")
    share_buffers(model)
    return pack(model)
