"""Where the Triton kernels are tested."""

import pytest
import torch

# In Triton's interpreter, or where there is a GPU by its compiler instead: a fixture's params.
KERNEL_DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="compiled for the GPU instead")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
