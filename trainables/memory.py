"""Was that the memory? Every library has its own way to say that it can have no more."""

from __future__ import annotations

import torch

from trainables.errors import UserError

# In RuntimeErrors: the CPU's allocator, cuBLAS and cuDNN, and oneDNN, which says no more than that.
SIGNS = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "could not create a primitive")


class OutOfMemory(UserError):
    """Something does not fit into memory; the message says what, and what would make it fit."""


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the CPU or on a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
