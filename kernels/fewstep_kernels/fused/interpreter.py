"""Triton's interpreter, which runs the kernels where there is no GPU, beside a newer numpy than its own."""

from typing import Any

import triton


def read_bounds_by_item(interpreter: Any) -> None:
    """Let `range` take a bound that is a kernel's argument: there it is an array of one element and one dimension.

    triton 3.6 converts it by `int(array)`, which numpy 2.4 and newer refuse; triton 3.7 squeezes it first.
    """
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched


def mend() -> None:
    """Change the interpreter where it is the one that runs, and only a version that needs it."""
    if triton.knobs.runtime.interpret and triton.__version__.startswith("3.6."):
        from triton.runtime import interpreter

        read_bounds_by_item(interpreter)
