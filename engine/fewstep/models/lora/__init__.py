"""LoRA: files of low-rank updates, read in their several formats, and merged into a network's weights in place."""

from fewstep.models.lora.adapters import Adapters, Loaded
from fewstep.models.lora.names import tables_of
from fewstep.models.lora.read import Lora, read_lora

__all__ = ["Adapters", "Loaded", "Lora", "read_lora", "tables_of"]
