"""Long inputs in blocks of examples, so that what lies between operations fits into caches and is not returned."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from optuna_softprune.evaluation._shareable import Shareable

# Bytes of a block's largest value. Allocators return memory of 32 MiB and more to the system, and the next operation
# waits for it again: convolutional autoencoder, 1,000 images, one block 65 to 225 ms, blocks of 16 MiB 22 to 45 ms.
BLOCK_BYTES = 2**24
# What no data holds: an example of it changes whatever looks at all examples.
STRANGE = 1e30


def block_length(program: Shareable, flat: Sequence[Any]) -> int | None:
    """Return how many examples a block should have, a power of two; None if inputs are better left whole.

    A block's values take at least as much memory as the weights, which are read again for each. Kernels treat the
    examples of an odd block in another way than those of the whole.
    """
    tensors = [each for each in flat if isinstance(each, Tensor)]
    lengths = {each.shape[0] if each.dim() else 0 for each in tensors}
    if len(lengths) != 1 or program.largest_bytes == 0 or any(each.device.type != "cpu" for each in tensors):
        return None
    fewest = math.ceil(program.weight_bytes / program.total_bytes)
    length = 2 ** int(math.log2(max(BLOCK_BYTES // program.largest_bytes, fewest, 1)))
    return length if length < lengths.pop() else None


def blocks(flat: Sequence[Any], length: int | None) -> list[list[Any]]:
    """Return parts of inputs along axis 0, of `length` examples each but the last; views."""
    if length is None:
        return [list(flat)]
    parts = [torch.split(each, length) if isinstance(each, Tensor) else itertools.repeat(each) for each in flat]
    return [list(part) for part in zip(*parts, strict=False)]


def joined(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the outputs of blocks as those of the whole input."""
    if len(parts) == 1:
        return list(parts[0])
    return [torch.cat(each) if isinstance(each[0], Tensor) else each[0] for each in zip(*parts, strict=True)]


def is_by_example(
    run: Callable[[list[Any]], list[Any]], flat: Sequence[Any], length: int, whole: Sequence[Any]
) -> bool:
    """Whether passes of blocks return what one of the whole returns, and no example sees the others.

    Args:
        run: A pass: flat inputs -> flat outputs.
        flat: The inputs.
        length: Examples of a block.
        whole: What it returns for them together.
    """
    try:
        if not _identical(joined([run(block) for block in blocks(flat, length)]), whole):
            return False
        few = blocks(flat, max(length, 2))[0]
        others = _but_first(run(few))
        return all(
            _identical(_but_first(run([_with_first(each, strange) for each in few])), others)
            for strange in (math.nan, STRANGE, -STRANGE)
        )
    except Exception:  # an output or an operation is not example by example
        return False


def _with_first(given: Any, strange: float) -> Any:
    """Return an input whose first example is another: a strange one, or of integers the last one."""
    if not isinstance(given, Tensor):
        return given
    changed = given.clone()
    changed[0] = strange if given.is_floating_point() else given[-1]
    return changed


def _but_first(outputs: Sequence[Any]) -> list[Any]:
    return [each[1:] if isinstance(each, Tensor) else each for each in outputs]


def _identical(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether outputs are equal bit for bit."""
    return all(
        one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
        if isinstance(one, Tensor) and isinstance(other, Tensor)
        else bool(one == other)
        for one, other in zip(some, others, strict=True)
    )
