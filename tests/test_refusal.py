"""What cannot be exported is named before anything is converted: the layer, the reason, a way out."""

import pytest
from prepared import in_tensorflow

SAID = {
    "two inputs": "2 inputs and 1 outputs; expected one of each",
    "two outputs": "1 inputs and 2 outputs; expected one of each",
    "subclassed": "Subclassed has no layers to look at; build it by keras.Sequential or keras.Model",
    "any size": "input shape (None, None, None, 2): expected fixed sizes, images (None, height,",
    "any length": "input shape (None, None, 3): expected fixed sizes",
    "half precision": "layer half (Conv2D): it computes in float16; build the model with the float32 policy",
    "volume": "layer v (Conv3D): phones cannot train it; use Conv2D on images or Conv1D on sequences",
    "noise": "layer n (GaussianNoise): phones cannot train it; use Dropout",
    "augmentation": "layer flip (RandomFlip): phones cannot train it; augment the images before they enter",
    "recurrent convolution": "layer c (ConvLSTM2D): phones cannot train it; use TimeDistributed(Conv2D)",
    "channels first": "layer first (MaxPooling2D): its data_format is channels_first; use channels_last",
    "constraint": "layer bound (Conv2D): phones do not apply the constraint of kernel; leave it out",
    "stateful": "layer state (LSTM): it is stateful, and every step on a phone is another batch",
    "recurrent dropout": "layer gru (GRU): its own dropout draws numbers that phones cannot; put Dropout",
    "both ways with dropout": "(LSTM): its own dropout draws numbers that phones cannot",
    "attention with dropout": "layer look (Attention): its own dropout draws numbers that phones cannot",
    "own noise": "layer own (OwnNoise): it draws random numbers, which phones cannot; leave that to Dropout",
    "bicubic": "layer up (UpSampling2D): interpolation 'bicubic' has no operator; use one of",
    "dilated and transposed": "layer t (Conv2DTranspose): transposed with dilation_rate (2, 2); use",
    "groups of rows": "layer rows (GroupNormalization): groups of axis 1; use axis=-1",
    "scaling": "layer scaling (LayerNormalization): rms_scaling; use RMSNormalization",
    "mask of a batch": "layer mask (Dropout): noise_shape (4, 1, 1, 2) fixes the size of a batch; begin",
    "long sequence": "layer long (LSTM): sequences of 600 steps, each laid out in the file; expected",
    "name of a layer": "layer größe 1 (Conv2D): its name: expected letters of A to Z, digits, ",
    "name of the model": "its name 'my model': expected letters of A to Z, digits, ",
    "output by name": "its output is a dict; build it by keras.Model(inputs, output) of the output itself",
    "unknown function": "layer own (Lambda): its function uses Erf, which phones lack",
    "rolling function": "layer own (Lambda): its function uses Roll, which phones lack",
}


def build_refusals() -> dict[str, str]:
    from refused_models import refusals

    return refusals()


def build_allowed() -> dict[str, str]:
    from refused_models import allowed

    return allowed()


def find_operators() -> tuple[list[str], list[str]]:
    from refused_models import operators_by_layer

    return operators_by_layer()


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return in_tensorflow(build_refusals)


@pytest.mark.parametrize("what", SAID)
def test_what_cannot_be_exported_is_named(said: dict[str, str], what: str) -> None:
    assert said[what].startswith("this model cannot be exported: ")
    assert SAID[what] in said[what]
    assert "\n" not in said[what]


def test_every_refused_model_is_in_the_list(said: dict[str, str]) -> None:
    assert said.keys() == {*SAID, "many"}


def test_of_many_faults_three_are_named(said: dict[str, str]) -> None:
    assert said["many"].count("phones cannot train it") == 3
    assert said["many"].endswith("; and 1 more")


def test_what_can_be_exported_passes() -> None:
    assert set(in_tensorflow(build_allowed).values()) == {""}


def test_operators_are_traced_to_their_layers() -> None:
    """`up` and `up_2` are told apart; a gradient's operators belong to the layer that it is of."""
    assert in_tensorflow(find_operators) == (["up_2"], ["up"])
