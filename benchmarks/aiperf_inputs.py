"""What aiperf is given to load a server of images without a network: a tokenizer, prompts, and pictures to edit.

    python benchmarks/aiperf_inputs.py out/aiperf

aiperf counts the tokens of its prompts, with a tokenizer that it would fetch. This one splits at spaces. The prompts
are the ten classes of the digits.
"""

import base64
import io
import json
import sys
from pathlib import Path

from PIL import Image

TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"},
}
CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}


def write(folder: Path, size: int = 32) -> None:
    """tokenizer/, prompts.jsonl and edits.jsonl, with pictures of size x size."""
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer/tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(CONFIG))
    file = io.BytesIO()
    Image.radial_gradient("L").resize((size, size)).save(file, "PNG")
    picture = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    prompts = [{"text": str(digit)} for digit in range(10)]
    edits = [prompt | {"image": picture} for prompt in prompts]
    for name, rows in (("prompts", prompts), ("edits", edits)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
