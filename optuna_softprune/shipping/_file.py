"""A safetensors file that holds weights, their plan, and a digest of both."""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from optuna_softprune._errors import PrunedFileError
from optuna_softprune.plan import Plan, parsed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PLAN, DIGEST = "softprune", "sha256"
# Reading JSON takes up to thirty times its length.
LONGEST_PLAN = 2**25


class PrunedFile(NamedTuple):
    """What is in a file.

    Attributes:
        plan: What was removed.
        tensors: Name -> weights on the CPU, of the file's own dtype.
    """

    plan: Plan
    tensors: dict[str, Tensor]


def write(path: Path, plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    """Write a file, the whole of it or nothing.

    Raises:
        ValueError: If a tensor is of a kind that safetensors cannot hold.
        OSError: If the file cannot be written.
    """
    text = plan.text()
    if len(text) > LONGEST_PLAN:
        raise ValueError(f"Expected a plan of at most {LONGEST_PLAN:,} characters, but it has {len(text):,}.")
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().contiguous()
        # Memory of its own for each: a part of another tensor's memory is refused.
        own = held.untyped_storage().nbytes() == held.nbytes and held.data_ptr() not in seen
        plain[name] = held if own else held.clone()
        seen.add(plain[name].data_ptr())
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.touch()  # what the system says of a folder that is not there
        save_file(plain, partial, {"format": "pt", PLAN: text, DIGEST: _digest(text, plain)})
        os.replace(partial, path)
    except KeyError as error:
        raise ValueError(f"Expected tensors of a dtype that safetensors can hold, but got {error}.") from None
    except OSError as error:
        if error.filename is not None:  # the partial file's, which nobody named
            error.filename = str(path)
        raise
    except SafetensorError as error:
        raise OSError(f"`{path}` could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path) -> PrunedFile:
    """Read a file.

    Raises:
        PrunedFileError: If it is damaged, or none of `save_pruned`.
        OSError: If it cannot be opened.
    """
    path.open("rb").close()  # what the system says of a file that is not there
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            text = _text_of(path, metadata)
            names = file.keys()
            # Memory of their own: what the reader gives is a view of the file, which others may write to, and in which
            # kernels round otherwise, since it is aligned to few bytes.
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except PrunedFileError:
        raise
    except Exception as error:  # whatever the reader says of bytes that are none of a safetensors file
        raise PrunedFileError(f"Expected `{path}` to be a safetensors file, but it is damaged: {error}.") from None
    if metadata[DIGEST] != _digest(text, tensors):
        raise PrunedFileError(
            f"Expected `{path}` to be as `save_pruned` wrote it, but its digest differs: it was damaged or changed; "
            "get it anew."
        )
    return PrunedFile(parsed(text), tensors)


def _text_of(path: Path, metadata: Mapping[str, str]) -> str:
    if metadata.get("format") != "pt" or set(metadata) != {"format", PLAN, DIGEST}:
        raise PrunedFileError(
            f"Expected `{path}` to be a file of `save_pruned`, but its metadata are {sorted(metadata)}."
        )
    text = metadata[PLAN]
    if len(text) > LONGEST_PLAN:
        raise PrunedFileError(
            f"Expected a plan of at most {LONGEST_PLAN:,} characters in `{path}`, but it has {len(text):,}."
        )
    return text


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of a plan and weights; it tells damage, not who wrote them."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(flat.data)
    return digest.hexdigest()
