"""Records of simulations that never ran, made by arithmetic, for tests of what is done with records."""

import hashlib
import math
from typing import Any

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
UPDATE_BYTES = 1_000_000
ROUND_SEC = 60.0


def make_record(
    num_devices: int = 10, num_rounds: int = 12, *, places: int | None = None, attackers: int = 0, **more: Any
) -> dict[str, Any]:
    """A run in which `places` devices in turn train a round, the last `attackers` of them are turned away,
    and accuracy goes as 1 - 0.85 exp(-round / 5); `more` replaces entries."""
    places = places or num_devices
    rounds = [_round(i, num_devices, min(places, num_devices), attackers) for i in range(num_rounds + 1)]
    devices = [_device(i, num_devices, attackers, rounds) for i in range(num_devices)]
    last = rounds[-1]
    total = 0
    target = None
    for each in rounds:
        total += each["bytes_up"] + each["bytes_down"]
        if target is None and each["accuracy"] >= 0.8:
            target = {
                "accuracy": 0.8,
                "round": each["round"],
                "virtual_sec": each["closed_sec"],
                "bytes": total,
            }
    return {
        "format": "fedfer.simulation/1",
        "name": "made-up",
        "title": "A made-up run",
        "scenario": {
            "name": "made-up",
            "seed": 7,
            "partition": {"kind": "dirichlet", "alpha": 0.5},
            "run": {
                "num_rounds": num_rounds,
                "rounds": {"num_clients": places},
                "strategy": {"name": "fedavg"},
            },
            "profiles": [{"name": "mid", "share": 1.0}],
        },
        "toml": 'name = "made-up"\nseed = 7  # <any>\n\n[rounds]\nnum_clients = 10\n',
        "command": "fedfer simulate made-up.toml --output out",
        "fedfer_version": "0.1.0",
        "runtime": "ai-edge-litert 2.3.0",
        "engine": "tflite",
        "num_processes": 2,
        "seed": 7,
        "started_at": "2026-01-02T03:04:05Z",
        "wall_sec": 12.5,
        "virtual_sec": last["closed_sec"],
        "model": {
            "name": "vgg_fer",
            "sha256": "a" * 64,
            "contract": "b" * 64,
            "num_bytes": 20_630_000,
            "num_parameters": 5_102_791,
            "checkpoint_bytes": UPDATE_BYTES,
            "labels": list(LABELS),
        },
        "stop": {"reason": "rounds", "text": f"{num_rounds} rounds are done"},
        "target": target,
        "final": {"weights": "c" * 64, "round": num_rounds, "measures": _measures(last)},
        "devices": devices,
        "rounds": rounds,
        "refusals": {"norm_too_large": attackers * num_rounds, "round_over": (num_devices + 1) // 3},
        "faults": [
            {"at_sec": 90.0, "device": "phone-1", "kind": "killed", "text": "killed in step 3, went on"},
            {"at_sec": 200.5, "device": None, "kind": "aggregator_killed", "text": "killed, started again"},
        ],
        **more,
    }


def _noise(*key: object) -> float:
    """In 0..1, the same for the same key."""
    return int(hashlib.sha256(repr(key).encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def _round(i: int, num_devices: int, places: int, attackers: int) -> dict[str, Any]:
    accuracy = 1 - 0.85 * math.exp(-i / 5)
    chosen = sorted((i * places + k) % num_devices for k in range(places)) if i else []
    updates = [_update(i, device, device >= num_devices - attackers, accuracy) for device in chosen]
    return {
        "round": i,
        "opened_sec": max(0, i - 1) * ROUND_SEC,
        "closed_sec": i * ROUND_SEC,
        "wall_sec": 1.0 if i else 0.0,
        "outcome": "committed",
        "reason": None,
        "loss": round(0.01 - math.log(accuracy), 4),
        "accuracy": round(accuracy, 4),
        "train_loss": None,
        "train_accuracy": None,
        "bytes_up": len(updates) * UPDATE_BYTES,
        "bytes_down": len(updates) * UPDATE_BYTES + len(updates) * 1000,
        "updates": updates,
    }


def _update(i: int, device: int, attacks: bool, accuracy: float) -> dict[str, Any]:
    own = min(1.0, accuracy * (0.9 + 0.2 * _noise(i, device)))
    return {
        "device": f"phone-{device}",
        "num_examples": 60,
        "loss": round(-math.log(own) + 0.05, 4),
        "accuracy": round(own, 4),
        "train_sec": round(20 + 20 * _noise(device), 2),
        "code": "norm_too_large" if attacks else None,
    }


def _device(i: int, num_devices: int, attackers: int, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    name = f"phone-{i}"
    own = [update for each in rounds for update in each["updates"] if update["device"] == name]
    counts = [int(1 + 16 * _noise("holds", i, k) ** 3) for k in range(len(LABELS))]
    return {
        "name": name,
        "index": i,
        "num_examples": sum(counts),
        "label_counts": counts,
        "profile": {"examples_per_sec": 30.0, "up_bytes_per_sec": 1e6, "windows": []},
        "attack": "sign_flip" if i >= num_devices - attackers else None,
        "num_tasks": len(own) + i % 2,
        "num_accepted": len(own),
        "num_rejected": int(i % 3 == 1),
        "num_dropped": i % 2,
        "received_bytes": len(own) * UPDATE_BYTES,
        "sent_bytes": len(own) * UPDATE_BYTES,
        "busy_sec": round(sum(update["train_sec"] for update in own), 2),
    }


def _measures(last: dict[str, Any]) -> dict[str, Any]:
    """100 images of each label: most right, the others taken for the label after it."""
    right = [round(100 * last["accuracy"]) - k for k in range(len(LABELS))]
    confusion = [[0] * len(LABELS) for _ in LABELS]
    for k, hits in enumerate(right):
        confusion[k][k] = hits
        confusion[k][(k + 1) % len(LABELS)] += 100 - hits
    return {
        "num_examples": 100 * len(LABELS),
        "loss": last["loss"],
        "accuracy": sum(right) / (100 * len(LABELS)),
        "per_class_recall": [hits / 100 for hits in right],
        "confusion": confusion,
    }
