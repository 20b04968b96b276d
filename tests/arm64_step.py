"""Training steps of an exported file, on whatever processor runs this; as a program it writes them to a file.

python arm64_step.py MODEL.tflite BATCH_SIZE NUM_STEPS OUT.npz
"""

import platform
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def steps(path: Path, batch_size: int, num_steps: int) -> dict[str, NDArray[np.float32]]:
    """Probabilities before, `losses` [num_steps], and all weights after, in tflite-runtime."""
    from fedfer.export.runtime import Model
    from fedfer.export.waves import wave_images

    model = Model(path, runtime="tflite-runtime")
    rng = np.random.default_rng(8)
    images = wave_images(rng, batch_size, (48, 48, 1))
    labels = rng.integers(0, 7, batch_size)
    found = {"probabilities": model.infer(images)}
    losses = [model.train(images, labels, learning_rate=0.002, seed=s).loss for s in range(num_steps)]
    return {**found, **model.save(), "losses": np.array(losses, np.float32)}


if __name__ == "__main__":
    model_path, size, count, out = sys.argv[1:]
    result = steps(Path(model_path), int(size), int(count))
    np.savez(out, **{name.replace("/", "|"): value for name, value in result.items()})
    print(platform.machine())
