"""Show what a .tflite holds: size, signatures, fedfer's contract, operators. Works on any .tflite."""

import argparse
from pathlib import Path
from typing import Any

HELP = "show what a .tflite holds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help=".tflite file")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(args: argparse.Namespace) -> int:
    import json

    summary = summarise(args.file)
    print(json.dumps(summary, indent=2) if args.json else "\n".join(describe(summary)))
    return 0


def summarise(path: Path) -> dict[str, Any]:
    """All there is to tell, as plain data; `contract` is null for files that fedfer did not make.

    Raises ModelFileError.
    """
    from dataclasses import asdict

    from fedfer.export import flatbuffer
    from fedfer.export.checkpoint import digest_of
    from fedfer.export.contract import METADATA_NAME, load_model_bytes, parse_contract

    data = load_model_bytes(path)
    stored = flatbuffer.metadata(data).get(METADATA_NAME)
    contract = parse_contract(stored) if stored is not None else None
    census = flatbuffer.op_census(data)
    return {
        "file": str(path),
        "size_bytes": len(data),
        "sha256": digest_of(data),
        "builtin_only": flatbuffer.is_builtin_only(census),
        "signatures": [asdict(signature) for signature in flatbuffer.signatures(data)],
        "contract": contract and {"digest": contract.digest, **asdict(contract)},
        "num_parameters": contract and contract.num_parameters,
        "operators": census,
    }


def describe(summary: dict[str, Any]) -> list[str]:
    """The same for people."""
    lines = [
        f"{summary['file']}: {summary['size_bytes']:,} bytes",
        f"sha256 {summary['sha256']}",
        "",
        "signatures",
    ]
    for signature in summary["signatures"]:
        lines.append(f"  {signature['name']}")
        lines += [f"    {way} {text}" for way in ("inputs", "outputs") for text in _tensors(signature[way])]
    lines += ["", *_contract_lines(summary["contract"], summary["num_parameters"])]
    stock = "builtin only: runs in stock runtimes" if summary["builtin_only"] else "NOT builtin only"
    lines += ["", f"operators ({sum(summary['operators'].values())}, {stock})"]
    lines.append("  " + ", ".join(f"{name} {count}" for name, count in summary["operators"].items()))
    return lines


def _tensors(tensors: list[dict[str, Any]], most: int = 6) -> list[str]:
    def describe_one(tensor: dict[str, Any]) -> str:
        sizes = ",".join("B" if size == -1 else str(size) for size in tensor["shape"])
        return f"{tensor['name']}: {tensor['dtype']}[{sizes}]"

    shown = [describe_one(tensor) for tensor in tensors[:most]]
    return shown + ([f"... and {len(tensors) - most} more"] if len(tensors) > most else [])


def _contract_lines(contract: dict[str, Any] | None, num_parameters: int | None) -> list[str]:
    if contract is None:
        return ["no fedfer contract: not made by `fedfer export`"]
    from fedfer.export.optimizer_settings import OptimizerSettings

    training = contract["training"]
    optimizer = OptimizerSettings(**training["optimizer"])
    rate = f"learning rate {training['learning_rate']}{', FedProx' if training['proximal'] else ''}"
    num_tensors = len(contract["weights"])
    trainable = sum(1 for weight in contract["weights"] if weight["role"] == "trainable")
    counts = f"{num_tensors} tensors ({trainable} trainable, {num_tensors - trainable} statistics)"
    frozen = f", beside {contract['num_frozen']:,} frozen" if contract["num_frozen"] else ""
    return [
        f"contract {contract['digest']}",
        f"  model {contract['model_name']}, {num_parameters:,} parameters in {counts}{frozen}",
        f"  images {contract['image_shape']}, pixels divided by {contract['pixel_divisor']:g}",
        f"  labels {', '.join(contract['labels'])}",
        f"  training {training['loss']['name']}, {optimizer}, {rate}",
        f"  initial weights {contract['initial_weights']}",
    ]
