"""A text as the condition: what reaches the network, what it is guided away from, and what cannot be asked."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep import ArgumentError, EmbeddedGuidance, Engine, Model, Prompts, Resume, Sample, Step, schedules
from support.small import small_engine

TOKENS, WIDTH, POOLED = 5, 6, 4


class Reader:
    """An encoder whose embeddings are random, a function of the text alone; it counts its calls."""

    def __init__(self, pooled: bool = False) -> None:
        self.pooled, self.read = pooled, list[tuple[str | None, bool]]()

    def __call__(self, text: str | None, negative: bool) -> dict[str, Tensor]:
        self.read.append((text, negative))
        generator = torch.Generator().manual_seed(sum(map(ord, text or "")) if text is not None else 7)
        context = torch.randn(TOKENS, WIDTH, generator=generator)
        return {"context": context} | ({"pooled": torch.randn(POOLED, generator=generator)} if self.pooled else {})


class TextNet(nn.Module):
    """Adds what it is given, each in its own way, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.given: list[dict[str, Tensor]] = []

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        pooled: Tensor | None = None,
        sizes: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        given = {"context": context, "pooled": pooled, "sizes": sizes, "guidance": guidance}
        self.given.append({name: each.clone() for name, each in given.items() if each is not None})
        shift = sum(each.to(x.dtype).reshape(len(x), -1).mean(1) for each in given.values() if each is not None)
        return torch.tanh(self.conv(x) + torch.as_tensor(shift, dtype=x.dtype)[..., None, None, None])


def text_engine(full: bool = False, **options: Any) -> tuple[Engine, TextNet, Reader]:
    """Of a network with a context alone; `full` has pooled texts and sizes too."""
    net, reader = TextNet(), Reader(full)
    conditions = Prompts(reader, WIDTH, POOLED, (64, 48)) if full else Prompts(reader, WIDTH)
    settings = {"schedule": schedules.scaled_linear(), "shape": (3, 8, 6), "defaults": {"sampler": "ddim", "steps": 2}}
    engine = Engine(Model(net, conditions=conditions, **(settings | options)))
    return engine, net, reader


def embedding(text: str | None, full: bool = False) -> dict[str, Tensor]:
    return Reader(full)(text, False)


def test_texts_reach_the_network_as_embeddings_and_each_is_read_once_a_request() -> None:
    engine, net, reader = text_engine()
    assert engine.sample(prompt=["a", "b", "a"], seeds=0).images.shape == (3, 3, 8, 6)
    expected = torch.stack([embedding(text)["context"] for text in ("a", "b", "a")])
    assert torch.equal(net.given[0]["context"], expected)
    assert reader.read == [("a", False), ("b", False)]


def test_one_text_serves_all_samples_and_a_sample_does_not_depend_on_the_others() -> None:
    engine, _, _ = text_engine()
    together = engine.sample(3, prompt="a", seeds=0).images
    alone = [engine.sample(prompt="a", seeds=seed).images for seed in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_guidance_is_away_from_the_negative_text_and_from_none_unless_it_is_said() -> None:
    engine, net, reader = text_engine()
    engine.sample(prompt=["a", "b"], negative_prompt=["dark", None], guidance_scale=3.0)
    lanes = torch.stack([embedding(text)["context"] for text in ("a", "dark", "b", None)])
    given = net.given[0]["context"]
    assert all(any(torch.equal(lane, row) for row in given) for lane in lanes)
    assert reader.read == [("a", False), ("b", False), ("dark", True), (None, True)]
    engine.sample(prompt="a", guidance_scale=3.0)
    assert reader.read[4:] == [("a", False), (None, True)]
    engine.sample(prompt="a", guidance_scale=1.0)
    assert reader.read[6:] == [("a", False)], "no null where nobody is guided by it"


def test_sizes_are_the_images_own_unless_they_are_said() -> None:
    engine, net, _ = text_engine(full=True)
    engine.sample(prompt="a", guidance_scale=2.0)
    assert net.given[0]["sizes"].tolist() == [[64, 48, 0, 0, 64, 48]] * 2
    assert net.given[0]["pooled"].shape == (2, POOLED)
    said = [{"original_size": (32, 32), "crops_coords_top_left": (4, 8)}, None, [1, 2, 3, 4, 5, 6]]
    samples = engine.sample(3, prompt="a", sizes=said)
    assert net.given[2]["sizes"].tolist() == [[32, 32, 4, 8, 64, 48], [64, 48, 0, 0, 64, 48], [1, 2, 3, 4, 5, 6]]
    assert net.given[2]["sizes"].dtype == torch.float32
    assert samples.parameters_of(0)["sizes"] == "32,32,4,8,64,48"


def test_sizes_keep_their_precision_beside_a_network_of_16_bits() -> None:
    engine, net, _ = text_engine(full=True)
    half = Engine(engine.model, dtype=torch.bfloat16)
    half.sample(prompt="a", sizes=[1023, 1, 0, 0, 1, 1])
    given = net.given[0] if net.given else half.module.given[0]
    assert given["sizes"][0, 0] == 1023
    assert given["context"].dtype == given["pooled"].dtype == torch.bfloat16


@pytest.mark.parametrize("full", [False, True], ids=["context alone", "with a pooled text"])
def test_embeddings_stand_for_their_texts(full: bool) -> None:
    engine, _, reader = text_engine(full)
    arguments: dict[str, Any] = {"guidance_scale": 2.0, "seeds": 0}
    texts = engine.sample(prompt=["a", "b"], negative_prompt="c", **arguments).images
    read = len(reader.read)
    rows = [embedding(text, full) for text in ("a", "b", "c")]
    several = {name: torch.stack([row[name] for row in rows[:2]]) for name in rows[0]}
    one: Any = rows[2]
    forms: list[tuple[Any, Any]] = [(several, one), (rows[:2], [one, one])]
    if not full:
        forms += [(several["context"], one["context"]), (several["context"].numpy(), [one["context"]] * 2)]
    for prompt, negative in forms:
        found = engine.sample(prompt=prompt, negative_prompt=negative, **arguments).images
        assert torch.equal(found, texts)
    assert len(reader.read) == read


def test_the_texts_are_in_the_record() -> None:
    engine, _, _ = text_engine()
    samples = engine.sample(prompt=["a, b", "ü"], negative_prompt="dark", guidance_scale=2.0)
    assert [samples.parameters_of(i)["prompt"] for i in range(2)] == ["a, b", "ü"]
    assert samples.parameters_of(1)["negative_prompt"] == "dark"
    embedded = engine.sample(prompt=embedding("a")["context"])
    assert embedded.parameters_of(0)["prompt"] == "(embeddings)"
    assert "negative_prompt" not in embedded.parameters_of(0)


def test_a_scale_that_the_network_takes_needs_no_negative_half() -> None:
    engine, net, reader = text_engine(guidance=EmbeddedGuidance(1.0, 14.0, 8.0))
    engine.sample(prompt="a", guidance_scale=4.0)
    assert net.given[0]["guidance"].tolist() == [4.0]
    assert reader.read == [("a", False)]
    with pytest.raises(ArgumentError, match=r"negative_prompt: got 'b'; allowed: nothing where no sample is guided"):
        engine.sample(prompt="a", negative_prompt="b")


def test_a_sample_that_was_kept_goes_on_with_its_text() -> None:
    engine, _, reader = text_engine()
    states: list[Sample] = []

    def keep(step: Step) -> None:
        if step.index == 0:
            states.append(step.state(0))

    whole = engine.sample(prompt="a", seeds=0, guidance_scale=2.0, callback=keep).images
    read = len(reader.read)
    assert torch.equal(engine.sample(start=Resume(states)).images, whole)
    assert len(reader.read) == read
    with pytest.raises(ArgumentError, match="prompt: got 'b'; allowed: nothing beside Resume"):
        engine.sample(start=Resume(states), prompt="b")


def test_a_session_and_a_manifest_take_any_text() -> None:
    engine, net, _ = text_engine(full=True)
    with engine.session(2) as session:
        session.admit(*engine.samples(prompt=["a", "b"], guidance_scale=[1.0, 3.0], seeds=0))
        session.advance(2)
    engine.sample(2, prompt="a", guidance_scale=3.0)
    requests = engine.manifest()
    assert {"n": 2, "steps": 2, "sampler": "ddim", "guidance_scale": 3.0} in requests
    calls = len(net.given)
    engine.warm_up(requests)
    assert len(net.given) > calls


A = embedding("a")["context"]
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a text for n": ({"n": "a fox"}, r"n: got a fox; allowed: 1 to 100000 samples; a text is said by prompt='a fox'"),
    "no text": (
        {},
        r"prompt: got None; allowed: a text, or one for each .*its embedding: floats \[tokens, 6\]",
    ),
    "labels": ({"labels": 3}, r"labels: got 3; allowed: nothing: this model takes a text, as prompt='a red fox'"),
    "sizes of a network that is told none": (
        {"prompt": "a", "sizes": [1] * 6},
        "sizes: .* this model takes a text",
    ),
    "a number": ({"prompt": 3}, "prompt: got 3; allowed: a text"),
    "a number among texts": ({"prompt": ["a", 3]}, "prompt: got 3; allowed: a text"),
    "another width": (
        {"prompt": A[:, :4]},
        r"prompt: got context torch.float32 \[5, 4\] .*: floats \[tokens, 6\]",
    ),
    "integers": ({"prompt": A.long()}, r"prompt: got context torch.int64 \[5, 6\]"),
    "no axis of tokens": ({"prompt": A[0]}, r"prompt: got context torch.float32 \[6\] for a sample"),
    "a name that is none": ({"prompt": {"contexts": A}}, "prompt: got an embedding without 'context'"),
    "a pooled text too many": ({"prompt": {"context": A, "pooled": A[0]}}, "prompt: got 'pooled'; allowed: context"),
    "other tokens in the negative": (
        {"prompt": A, "negative_prompt": A[:3], "guidance_scale": 2.0},
        "negative_prompt: got 3 tokens; allowed: 5 of them, as the prompt has",
    ),
    "unlike tokens": ({"prompt": [A, A[:3]]}, "prompt: got embeddings of 5 and of 3 tokens; allowed: as many for each"),
    "more texts than samples": ({"n": 3, "prompt": ["a", "b"]}, "prompt: got 2 samples; allowed: 3, as n says"),
    "more negatives": (
        {"prompt": ["a", "b"], "negative_prompt": ["c"], "guidance_scale": 2.0},
        "negative_prompt: got 1 samples; allowed: 2, as prompt says",
    ),
    "a negative that nobody reads": (
        {"prompt": "a", "negative_prompt": "b", "guidance_scale": 1.0},
        "negative_prompt: got 'b'; allowed: nothing where no sample is guided by two halves",
    ),
    "a prompt that nobody reads": (
        {"prompt": "a", "guidance_scale": 0},
        "guidance_scale: got 0.0; allowed: 1 for the prompt alone, which diffusers writes as 0",
    ),
    "a context by hand": (
        {"condition": {"context": A[None]}},
        r"condition\['context'\]: got a tensor; allowed: nothing: it is said by prompt=, which takes embeddings too",
    ),
    "an embedding and another's length": ({"n": 2, "prompt": A[None].repeat(3, 1, 1)}, "prompt: got 3 samples"),
    "what diffusers calls steps": (
        {"prompt": "a", "num_inference_steps": 4},
        "got 4; allowed: nothing: it is said by steps",
    ),
    "a misspelt prompt": ({"promt": "a"}, "promt: .*did you mean 'prompt'"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_said_is_told(arguments: dict[str, Any], message: str) -> None:
    engine, _, _ = text_engine()
    with pytest.raises(ArgumentError) as error:
        engine.sample(**arguments)
    assert re.search(message, str(error.value)), error.value


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([1, 2, 3], "sizes: got .1, 2, 3.; allowed: six numbers of pixels"),
        ({"original": (1, 2)}, "sizes: got 'original'; allowed: .*did you mean 'original_size'"),
        ({"target_size": (1, -2)}, r"sizes\['target_size'\]: got \(1, -2\); allowed: two numbers of pixels"),
        ([[1] * 6, [2] * 6], "sizes: got 2 samples; allowed: 1, as n says"),
    ],
    ids=["three numbers", "a name that is none", "a negative number", "of more samples"],
)
def test_sizes_that_are_none_are_told(sizes: Any, message: str) -> None:
    engine, _, _ = text_engine(full=True)
    with pytest.raises(ArgumentError, match=message):
        engine.sample(1, prompt="a", sizes=sizes)


def test_other_models_say_that_they_take_no_text() -> None:
    with pytest.raises(ArgumentError, match=r"prompt: got a fox; allowed: .* takes no prompts, but labels"):
        small_engine().sample(prompt="a fox")
    with pytest.raises(ArgumentError, match=r"negative_prompt: got 'a'; .* takes no prompts, and no"):
        small_engine(conditions=None).sample(1, negative_prompt="a")


def test_a_network_without_a_context_is_no_model_of_texts() -> None:
    with pytest.raises(ArgumentError, match=r"conditions: .*the network's call takes no context"):
        small_engine(conditions=Prompts(Reader(), WIDTH))
