"""What a weight file is that holds no U-Net of ours: told by a name in it, so that a user knows what they have."""

import re
from collections.abc import Collection
from typing import Final

# What it is called -> a name that only it has. The first that fits says it: a LoRA of Flux has names of Flux too.
KNOWN: Final[dict[str, str]] = {
    "a LoRA": r"lora_(A|B|down|up|unet|te|linear_layer)|_lora\.|\.(hada_w|lokr_w|oft_)",
    "a textual inversion": r"^(string_to_param\b|emb_params$|clip_[lg]$)",
    "an IP-Adapter": r"^(image_proj|ip_adapter)\.",
    "a ControlNet": r"(^|\.)(input_hint_block|controlnet_cond_embedding|zero_convs|controlnet_down_blocks)\.",
    "a motion module of AnimateDiff": r"(^|\.)motion_modules\.",
    "the transformer of Flux": r"(^|\.)(double_blocks|single_blocks|single_transformer_blocks)\.",
    "the transformer of Stable Diffusion 3": r"(^|\.)(joint_blocks\.|transformer_blocks\.\d+\.attn\.add_k_proj\.)",
    "a diffusion transformer": (
        r"(^|\.)(adaln_single|cap_embedder|(transformer_)?blocks\.\d+\.(scale_shift_table|cross_attn))\b"
    ),
    "a network of Stable Cascade": r"(^|\.)(clip_txt_mapper|channelwise)\b",
    "a text encoder": (
        r"(^|\.)(text_model\.(encoder|embeddings)|transformer\.resblocks|encoder\.block\.\d+\.layer|embed_tokens)\b"
    ),
    "an autoencoder": r"(^|\.)(decoder|encoder)\.(conv_in|up_blocks|down_blocks|up|down|layers|mid)\b",
}


def what_it_is(names: Collection[str]) -> str | None:
    """What tensors of these names belong to; None where they do not tell."""
    for what, pattern in KNOWN.items():
        found = re.compile(pattern, re.ASCII)
        if any(found.search(name) for name in names):
            return what
    return None
