"""Coverage-guided fuzzing (libFuzzer through atheris) of the update reader, which reads what strangers send.

    python tests/fuzz/fuzz_checkpoint.py SECONDS [DIRECTORY]

Whatever the bytes are, the reader either gives weights, the same as the safetensors library does, or raises
CheckpointError; its two ways (whole, and block by block) agree; and the process does not grow. The corpus
starts from the hostile uploads of tests/attacks and stays in DIRECTORY, if one is named, for the next time.
What broke the reader is left there, or in the working directory, as `crash-...`; give that file's name in
place of SECONDS to run it alone.
"""

import json
import os
import random
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np
import safetensors.numpy

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["fedfer.export.checkpoint"]):
    from fedfer.export import checkpoint

from attacks.hostile_checkpoints import hostile_bodies
from average_helpers import SMALL, random_weights

from fedfer.model.errors import CheckpointError

WARM_UP_RUNS = 3000
MAX_GROWTH_BYTES = 64 * 2**20  # libFuzzer's own corpus grows too
MAX_INPUT_BYTES = 16_384
MAX_ALLOCATION_MIB = 32  # by one call of malloc, for a model of 40 bytes of weights
NUMBERS = (
    0,
    1,
    -1,
    4,
    8,
    24,
    36,
    40,
    2**31,
    2**32,
    2**53,
    2**62,
    2**63,
    2**64,
    2**200,
    0.5,
    1e308,
    True,
    None,
)
VALUES: tuple[object, ...] = (
    *NUMBERS,
    *([first, second] for first in NUMBERS for second in NUMBERS),
    *("F32", "F16", "BF16", "I32", "F8_E4M3", "U8", "", SMALL.digest),
    *([], [[]], {}, [2, 3], [3, 2], [6], [1, 6], [2, 3, 1], [2**32, 2**32], [0, 4, 8], ["0", "4"]),
)
WORDS = ("data_offsets", "dtype", "shape", "__metadata__", "fedfer.contract", "F32", "F16", SMALL.digest)


class Reader:
    """Gives each input to the reader, in a file in memory that is written over and over."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("input")
        self.path = Path(f"/proc/self/fd/{self._descriptor}")
        self.runs, self.accepted, self.start_bytes = 0, 0, 0

    def read(self, data: bytes) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)
        whole, blocks = self._refusal(self._load), self._refusal(self._check)
        if whole != blocks:
            raise AssertionError(f"read whole: {whole}; block by block: {blocks}")
        self.runs += 1
        self.accepted += whole is None
        if self.runs == WARM_UP_RUNS:
            self.start_bytes = peak_bytes()
            if not self.accepted:
                raise AssertionError("not even the seed that is a valid checkpoint was accepted")
        elif self.runs % 1000 == 0 and self.runs > WARM_UP_RUNS:
            grown_bytes = peak_bytes() - self.start_bytes
            if grown_bytes > MAX_GROWTH_BYTES:
                raise AssertionError(f"grown by {grown_bytes} bytes in {self.runs} runs")

    def _refusal(self, read: Callable[[], object]) -> str | None:
        try:
            read()
        except CheckpointError as error:
            if len(str(error)) > 1000 or not str(error).isprintable():
                raise AssertionError(f"unfit for a log: {str(error)!r}") from error
            return error.code
        return None

    def _check(self) -> None:
        checkpoint.check_file(self.path, SMALL)

    def _load(self) -> None:
        weights = checkpoint.load_checkpoint(self.path, SMALL)
        data = self.path.read_bytes()
        others = safetensors.numpy.load(data)
        if {n: w.tobytes() for n, w in weights.items()} != {n: w.tobytes() for n, w in others.items()}:
            raise AssertionError("other weights than the safetensors library's")
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        if header["__metadata__"]["fedfer.contract"] != SMALL.digest:
            raise AssertionError("accepted weights of another model")
        for spec in SMALL.weights:
            values = others[spec.name]
            if (values.shape, values.dtype) != (spec.shape, "float32") or not np.isfinite(values).all():
                raise AssertionError(f"accepted {spec.name} as {values!r}")
            if spec.nonnegative and values.min() < 0:
                raise AssertionError(f"accepted a variance below 0: {values!r}")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_corpus(directory: Path) -> Path:
    """Seeds and dictionary; returns the dictionary."""
    weights = random_weights(1)
    seeds = [checkpoint.checkpoint_bytes(weights, SMALL), *(a.body for a in hostile_bodies(SMALL, weights))]
    for seed in seeds:
        if len(seed) <= MAX_INPUT_BYTES:
            (directory / checkpoint.digest_of(seed)).write_bytes(seed)
    dictionary = directory.with_suffix(".dict")
    dictionary.write_text("".join(f'"{word}"\n' for word in (*WORDS, *(w.name for w in SMALL.weights))))
    return dictionary


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Every other time a change of the bytes as they are, otherwise of the header, its length put right."""
    rng = random.Random(seed)
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.5 or not 0 < length <= len(data) - 8:
        return bytes(atheris.Mutate(data, len(data)))
    header, tensors = data[8 : 8 + length], data[8 + length :]
    changed = _change_field(header, rng) if rng.random() < 0.7 else atheris.Mutate(header, len(header) + 64)
    return (len(changed).to_bytes(8, "little") + changed + tensors)[:max_size]


def _change_field(header: bytes, rng: random.Random) -> bytes:
    """The header with one field of one tensor exchanged; as it is if it cannot be read."""
    try:
        entries = json.loads(header)
        entry = entries[rng.choice(sorted(entries))]
        entry[rng.choice(("dtype", "shape", "data_offsets", "fedfer.contract"))] = rng.choice(VALUES)
        return json.dumps(entries).encode()
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return header


def main(limit: str, directory: Path) -> None:
    corpus = directory / "corpus"
    corpus.mkdir(exist_ok=True)
    options = [
        f"-dict={write_corpus(corpus)}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-malloc_limit_mb={MAX_ALLOCATION_MIB}",
        f"-artifact_prefix={directory}/",
        "-timeout=10",
        "-print_final_stats=1",
    ]
    what = [f"-max_total_time={limit}", str(corpus)] if limit.isdigit() else [limit]
    atheris.Setup([sys.argv[0], *options, *what], Reader().read, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(sys.argv[1], Path(temporary))
