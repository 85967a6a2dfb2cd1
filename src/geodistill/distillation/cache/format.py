"""What a teacher cache looks like on disk: its tables, its manifest, its fingerprint.

A cache is a folder. Each table is one file of rows of a fixed width, back to back, no padding: one row for each example
(`logits.bin`, vectors) or one for each of its tokens or words. All tables hold the examples in the same order, longest
first, which is the order in which the teacher read them; `examples.safetensors` says which example has how many rows.
`manifest.json` is written last: a folder without it is no cache, and it holds the size and SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from geodistill.distillation.signals import FeatureRequest, Teacher, runs_in_bfloat16
from geodistill.errors import GeodistillError
from geodistill.files import fingerprint_of, sha256, write_json

FORMAT = 4
MANIFEST = "manifest.json"
PROGRESS = "progress.json"
INDEX = "examples.safetensors"
AXES = "axes.safetensors"
LOGITS = "logits.bin"

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
CacheDtype = Literal["bfloat16", "float32"]


class TopK(NamedTuple):
    """How token logits are cut before they are kept: to their k largest and the mass of the rest, at a temperature."""

    k: int
    temperature: float


@dataclass(frozen=True)
class Table:
    """Rows of one shape and dtype, stored back to back in one file; with `top_k`, each is a packed `TopKLogits`.

    per: what the table has a row for, a name of the index's counts; `example` for one row an example
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    per: str
    top_k: TopK | None = None

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Table:
        top_k = content["top_k"] and TopK(*content["top_k"])
        return cls(content["file"], content["dtype"], tuple(content["shape"]), content["per"], top_k)

    def map(self, folder: Path, rows: int) -> Tensor:
        """Memory-map the table as a tensor (rows, …), read-only in effect: what is written to it stays in memory."""
        size = rows * math.prod(self.shape)
        flat = torch.from_file(str(folder / self.file), shared=False, size=size, dtype=DTYPES[self.dtype])
        return flat.view(rows, *self.shape)


def fingerprint_teacher(
    teacher: Teacher,
    data: str,
    dtype: str,
    variance: float | None,
    top_k: TopK | None,
) -> str:
    """SHA-256 over all that decides what a cache holds, except the requests it answers: the manifest lists these."""
    digest = hashlib.sha256()
    config = _config_of(teacher.model)
    bfloat16 = runs_in_bfloat16(teacher.precision, teacher.device)
    settings = [FORMAT, sys.byteorder, type(teacher.model).__name__, config, bfloat16, data, dtype, variance, top_k]
    if teacher.vocabulary is not None:
        settings.append(teacher.vocabulary)
    digest.update(json.dumps(settings, sort_keys=True, default=_as_json).encode())
    for name, tensor in teacher.model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _config_of(model: Any) -> dict[str, Any]:
    """A model's config with those of its adapters, whose scale is in no weight. A module of the user's own has none: it
    is known by its class and its weights."""
    configs = {"": getattr(model, "config", None), **getattr(model, "peft_config", {})}
    return {
        f"{adapter}.{name}" if adapter else name: value
        for adapter, config in configs.items()
        if hasattr(config, "to_dict")
        for name, value in config.to_dict().items()
        # where it was loaded from and by what
        if name not in ("_name_or_path", "transformers_version", "base_model_name_or_path")
    }


def _as_json(value: Any) -> Any:
    # A set's order depends on the process.
    return sorted(value) if isinstance(value, set) else str(value)


def tensor_bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


class FileSum(NamedTuple):
    bytes: int
    sha256: str


def write_manifest(folder: Path, content: Mapping[str, Any], files: Sequence[str]) -> None:
    """Seal a cache: list its files with size and SHA-256, and put the manifest in place in one step."""
    sums = {name: FileSum((folder / name).stat().st_size, sha256(folder / name))._asdict() for name in files}
    body = {"format": FORMAT, **content, "files": sums}
    write_json(folder / MANIFEST, {"body": body, "sha256": fingerprint_of(body)})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a cache, None when there is none; raises GeodistillError when it is damaged."""
    try:
        sealed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise damaged(folder, f"{MANIFEST} cannot be read") from None
    if not isinstance(sealed, dict) or fingerprint_of(sealed.get("body")) != sealed.get("sha256"):
        raise damaged(folder, f"{MANIFEST} was altered")
    return sealed["body"]


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare every file with the manifest: its size, and its bytes once in a process. Raises GeodistillError."""
    for name, expected in manifest["files"].items():
        try:
            status = (folder / name).stat()
        except FileNotFoundError:
            raise damaged(folder, f"{name} is missing") from None
        if status.st_size != expected["bytes"]:
            raise damaged(folder, f"{name} has {status.st_size:,} bytes instead of {expected['bytes']:,}")
        if sha256(folder / name) != expected["sha256"]:
            raise damaged(folder, f"the contents of {name} have changed since it was written")


def damaged(folder: Path, how: str) -> GeodistillError:
    return GeodistillError(
        f"The teacher cache in {folder} is damaged: {how}.", "Delete the folder, or start over with --fresh."
    )


def request_to_json(request: FeatureRequest) -> dict[str, Any]:
    return dict(request._asdict())


def request_from_json(content: Mapping[str, Any]) -> FeatureRequest:
    return FeatureRequest(content["point"], content["rows"], content["special_tokens"])
