"""One set of weights for two modules: a U-Net of ours, and the module of another code base that it stands for."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fewstep.errors import ArgumentError, some_of
from fewstep.models.layouts.keys import Keys, Piece
from fewstep.models.net.unet import UNet

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Sharing:
    """The tensors that `network` and `source` have in common.

    A parameter of `network` that is made of several of `source`, such as q, k and v in one, is the storage, and those
    of `source` become views of its rows. So no number is there twice, and what is written into either is read by both.
    Convolutions lie in channels-last memory. The parameters of `source` stay the same objects, with the same values.

    `bind` shares them; it is called again when something has moved those of `source` (`.to()`, weights that were
    assigned). `release` gives those of `source` memory of their own, as it was before.
    """

    def __init__(self, network: UNet, source: nn.Module, keys: Keys) -> None:
        self.network, self.source, self._keys = network, source, keys
        self._formats = {name: _format(tensor) for name, tensor in source.named_parameters()}

    def bind(self) -> None:
        """Share the tensors, those that are shared already being left where they are.

        Raises:
            ArgumentError: a parameter is missing, left over, not in the shape of the config, or no plain tensor of
                floats; or they are not all of one dtype and on one device. Nothing has been changed then.
        """
        parameters = dict(self.source.named_parameters())
        check_weights(parameters, self._keys)
        with torch.no_grad():
            state = {
                name: _packed([parameters[piece.name] for piece in pieces], pieces)
                for name, pieces in self._keys.items()
            }
            self.network.load_state_dict(state, assign=True)
        self.network.requires_grad_(False)

    def release(self) -> None:
        """Give the parameters of `source` contiguous memory of their own, or in the format that they had."""
        shared = {piece.name for pieces in self._keys.values() if len(pieces) > 1 for piece in pieces}
        with torch.no_grad():
            for name, parameter in self.source.named_parameters():
                layout = self._formats.get(name, torch.contiguous_format)
                own = parameter.data.contiguous(memory_format=layout)
                parameter.data = own.clone() if name in shared else own


def check_weights(parameters: Mapping[str, Tensor], keys: Keys) -> None:
    """ArgumentError for parameters of a module that are not those of the keys, or cannot be shared."""
    pieces = {piece.name: piece for group in keys.values() for piece in group}
    allowed = "those of its config: restore what was exchanged or added in it"
    if missing := [name for name in pieces if name not in parameters]:
        raise ArgumentError("parameters", f"none called {some_of(missing, 5)}", allowed)
    if unknown := [name for name in parameters if name not in pieces]:
        raise ArgumentError("parameters", f"unknown ones: {some_of(unknown, 5)}", allowed)
    for name, tensor in parameters.items():
        if type(tensor) is not nn.Parameter or tensor.dtype not in FLOATS or tensor.layout != torch.strided:
            kind = f"{type(tensor).__name__} of {tensor.dtype}"
            raise ArgumentError(name, kind, "a plain parameter of floats: a quantized model cannot be accelerated")
        if tensor.is_inference() and not torch.is_inference_mode_enabled():
            allowed_weights = "weights that were made outside of it, or all that is done with them within it"
            raise ArgumentError(name, "a parameter that was made in torch.inference_mode()", allowed_weights)
        if not pieces[name].fits(tuple(tensor.shape)):
            raise ArgumentError(name, list(tensor.shape), f"{list(pieces[name].shape)}, as the config says")
    places = sorted({f"{tensor.dtype} on {tensor.device}" for tensor in parameters.values()})
    if len(places) > 1:
        raise ArgumentError("parameters", " and ".join(places), "one dtype and one device for all weights")
    if any(tensor.is_meta for tensor in parameters.values()):
        raise ArgumentError("parameters", "tensors on the meta device", "weights in memory, not offloaded ones")


def _format(tensor: Tensor) -> torch.memory_format:
    last = tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _packed(tensors: Sequence[Tensor], pieces: Sequence[Piece]) -> Tensor:
    """A parameter of ours over the memory of its pieces, which move together first where they do not lie so.

    It counts its writes together with the first of them, as does that of every other network over the same memory.
    """
    if len(tensors) == 1:
        own, piece = tensors[0], pieces[0]
        layout = torch.channels_last if own.ndim == 4 and len(piece.shape) == 4 else torch.contiguous_format
        own.data = own.data.contiguous(memory_format=layout)
        return own.detach().view(piece.shape)
    rows = sum(piece.shape[0] for piece in pieces)
    shape = (rows, *pieces[0].shape[1:])
    if not _adjoin(tensors):
        _move_together(tensors, pieces)
    return tensors[0].detach().as_strided(shape, _strides(shape))


def _move_together(tensors: Sequence[Tensor], pieces: Sequence[Piece]) -> None:
    packed = torch.cat([tensor.data.reshape(piece.shape) for tensor, piece in zip(tensors, pieces, strict=True)])
    start = 0
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.data = packed[start : start + piece.shape[0]].view(tensor.shape)
        start += piece.shape[0]


def _adjoin(tensors: Sequence[Tensor]) -> bool:
    """Whether each lies contiguous behind the one before it in one storage, as an earlier `bind` left them."""
    storage, at = tensors[0].untyped_storage().data_ptr(), tensors[0].storage_offset()
    for tensor in tensors:
        there = tensor.untyped_storage().data_ptr() == storage and tensor.storage_offset() == at
        if not there or not tensor.is_contiguous():
            return False
        at += tensor.numel()
    return True


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides)
