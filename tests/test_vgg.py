"""The network's layer table, and that its weights depend on the seed alone. Keras runs in its own process."""

import hashlib
from typing import Any

import pytest
from prepared import in_tensorflow

from fedfer.model.errors import UsageError

# name, output shape without the batch, parameters
LAYER_TABLE = """
conv1          (46, 46, 64)          640
bn1            (46, 46, 64)          256
conv2          (46, 46, 64)       36_928
bn2            (46, 46, 64)          256
pool1          (22, 22, 64)            0
drop1          (22, 22, 64)            0
conv3          (22, 22, 128)      73_856
bn3            (22, 22, 128)         512
conv4          (22, 22, 128)     147_584
bn4            (22, 22, 128)         512
pool2          (10, 10, 128)           0
drop2          (10, 10, 128)           0
conv5          (10, 10, 256)     295_168
bn5            (10, 10, 256)       1_024
conv6          (10, 10, 256)     590_080
bn6            (10, 10, 256)       1_024
pool3          (4, 4, 256)             0
drop3          (4, 4, 256)             0
conv7          (4, 4, 512)     1_180_160
bn7            (4, 4, 512)         2_048
conv8          (4, 4, 512)     2_359_808
bn8            (4, 4, 512)         2_048
pool4          (1, 1, 512)             0
drop4          (1, 1, 512)             0
flatten        (512,)                  0
dense1         (512,)            262_656
drop5          (512,)                  0
dense2         (256,)            131_328
drop6          (256,)                  0
dense3         (64,)              16_448
drop7          (64,)                   0
probabilities  (7,)                  455
"""


def describe() -> dict[str, Any]:
    """Facts about freshly built networks (in a process that may import Keras)."""
    import keras

    from fedfer.model.vgg import build_vgg

    def count(weights: list[keras.Variable]) -> int:
        return sum(int(weight.value.numpy().size) for weight in weights)

    def digest(model: keras.Model) -> str:
        return hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest()

    model, narrow = build_vgg(), build_vgg(width=0.25)
    keras.utils.set_random_seed(99)  # what was drawn before must not matter
    return {
        "name": model.name,
        "input": model.input_shape,
        "layers": [(each.name, each.output.shape[1:], each.count_params()) for each in model.layers],
        "relu": [
            each.name for each in model.layers if getattr(each, "activation", None) is keras.activations.relu
        ],
        "momenta": {
            each.momentum for each in model.layers if isinstance(each, keras.layers.BatchNormalization)
        },
        "rates": {each.rate for each in model.layers if isinstance(each, keras.layers.Dropout)},
        "totals": [count(model.weights), count(model.trainable_weights), count(model.non_trainable_weights)],
        "digests": [digest(model), digest(build_vgg()), digest(build_vgg(seed=1))],
        "undropped": {
            each.rate for each in build_vgg(dropout=0.0).layers if isinstance(each, keras.layers.Dropout)
        },
        "narrow": (narrow.name, [each.filters for each in narrow.layers if hasattr(each, "filters")]),
        "narrow_total": count(narrow.weights),
        "distinct": len({weight.tobytes() for weight in model.get_weights() if weight.ndim > 1}),
    }


def refusals() -> list[str]:
    from fedfer.model.vgg import build_vgg

    messages = []
    for settings in ({"dropout": 1.0}, {"dropout": -0.1}, {"seed": -1}, {"width": 0.0}, {"width": 1.1}):
        with pytest.raises(UsageError) as caught:
            build_vgg(**settings)
        messages.append(str(caught.value))
    return messages


def test_network_is_the_articles() -> None:
    facts = in_tensorflow(describe)
    table = [(name, shape, f"{parameters:_}") for name, shape, parameters in facts["layers"]]
    expected = []
    for line in LAYER_TABLE.strip().splitlines():
        name, rest = line.split(maxsplit=1)
        shape, parameters = rest.rsplit(maxsplit=1)
        expected.append((name, tuple(int(n) for n in shape.strip("() ").split(",") if n), parameters))
    assert table == expected
    assert facts["name"] == "vgg_fer"
    assert facts["input"] == (None, 48, 48, 1)
    assert facts["relu"] == [f"conv{n}" for n in range(1, 9)] + ["dense1", "dense2", "dense3"]
    assert facts["totals"] == [5_102_791, 5_098_951, 3_840]
    assert facts["rates"] == {0.3}
    assert facts["momenta"] == {0.9}
    assert facts["undropped"] == {0.0}
    first, again, other = facts["digests"]
    assert first == again != other
    assert facts["distinct"] == 12
    assert facts["narrow"] == ("vgg_fer_narrow", [16, 16, 32, 32, 64, 64, 128, 128])
    assert facts["narrow_total"] == 321_079


def test_refuses_impossible_settings() -> None:
    assert in_tensorflow(refusals) == [
        "expected a dropout of at least 0 and below 1; received 1.0",
        "expected a dropout of at least 0 and below 1; received -0.1",
        "expected a seed of at least 0; received -1",
        "expected a width of 0.015625 to 1; received 0.0",
        "expected a width of 0.015625 to 1; received 1.1",
    ]
