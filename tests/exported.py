"""Exports for tests, each for a process of its own: light to import, TensorFlow comes inside."""

from pathlib import Path


def export_tiny(path: Path, dropout: float, proximal: bool = False) -> None:
    """Writes the tiny model of tests/keras_models.py as a `.tflite`."""
    from keras_models import LABELS, tiny_model

    from fedfer.export.contract import TrainingSettings
    from fedfer.export.tflite import convert

    path.write_bytes(convert(tiny_model(dropout), LABELS, TrainingSettings(proximal=proximal)))


def export_wide(path: Path) -> None:
    """Writes the wide model of tests/keras_models.py as a `.tflite`."""
    from keras_models import LABELS, wide_model

    from fedfer.export.contract import TrainingSettings
    from fedfer.export.tflite import convert

    path.write_bytes(convert(wide_model(), LABELS, TrainingSettings()))


def save_tiny_keras(path: Path, dropout: float) -> None:
    """Writes the tiny model itself, as a `.keras` file."""
    from keras_models import tiny_model

    tiny_model(dropout).save(path)


def export_smooth(path: Path) -> None:
    """Writes the smooth model of tests/keras_models.py as a `.tflite`, and beside it as a `.keras` file."""
    from keras_models import LABELS, smooth_model

    from fedfer.export.contract import TrainingSettings
    from fedfer.export.tflite import convert

    model = smooth_model()
    path.write_bytes(convert(model, LABELS, TrainingSettings()))
    model.save(path.with_suffix(".keras"))
