from collections.abc import Sequence

def attention_fwd(
    pointers: Sequence[int],
    strides: Sequence[Sequence[int]],
    sizes: Sequence[int],
    is_half: bool,
    scale: float,
    design: str,
    multiprocessors: int,
    arch: int,
    stream: int,
) -> None: ...
def driver_version() -> int: ...
def head_dims() -> list[int]: ...
def designs(head_dim: int) -> list[str]: ...
