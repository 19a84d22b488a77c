"""Text to image in one model call: a whole pipeline of diffusers as an engine, its loop on a plan of fewstep.

python examples/sdxl_turbo.py                                  a tiny one with random weights, offline
python examples/sdxl_turbo.py FOLDER "a prompt" out/fox.png    SDXL-Turbo, as diffusers saved it
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import fewstep


def tiny_tokenizer() -> Any:
    """One whose tokens are letters."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
        Path(folder, "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def tiny_pipeline() -> Any:
    """SDXL, a few channels wide: two text encoders, a U-Net that is told sizes, and an autoencoder."""
    torch.manual_seed(0)
    tokenizer, text = tiny_tokenizer(), {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPTextConfig(**text, **ends, vocab_size=len(tokenizer), num_hidden_layers=2, projection_dim=32)
    unet = UNet2DConditionModel(
        sample_size=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64),
        attention_head_dim=(2, 4),
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
    )
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(block_out_channels=(16, 32), norm_num_groups=8, **levels).eval(),
        text_encoder=CLIPTextModel(config).eval(),
        text_encoder_2=CLIPTextModelWithProjection(config).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet.eval(),
        scheduler=EulerAncestralDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing"
        ),
    )


def main(source: str | None = None, prompt: str = "a red fox in the snow", out: str = "out/fox.png") -> None:
    half = torch.float16 if torch.cuda.is_available() else torch.float32
    pipe = tiny_pipeline() if source is None else StableDiffusionXLPipeline.from_pretrained(source, torch_dtype=half)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    engine = fewstep.Engine.from_pipeline(pipe, defaults="sdxl-turbo")

    samples = engine.sample(4, prompt=prompt, steps=1, seeds=0)
    print(samples.plan.describe())  # type: ignore[union-attr]
    print(*samples.save(out), sep="\n")

    seconds = engine.sample(prompt=prompt, steps=1, seeds=0, output="uint8").seconds  # its prompt is read already
    print(f"{1000 * seconds:.0f} ms an image of {samples.images.shape[3]}x{samples.images.shape[2]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
