"""What a prompt and labels mean to each kind of model."""

from typing import Any

import pytest
import torch

from fewstep.errors import ArgumentError
from fewstep.request.conditions import Classes, Condition, Numbers, Prompts, Unconditional
from fewstep.serve.http.wire.conditions import conditioned
from fewstep.serve.http.wire.fields import Generation, read

CLASSES: Condition = Classes(3, names=("cat", "Hot Dog", "7"))
NUMBERS: Condition = Numbers(0.0, 1.0)
PROMPTS: Condition = Prompts(lambda text, negative: {"context": torch.zeros(1, 4)}, width=4)


def words(condition: Condition, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
    return conditioned(condition, read(Generation, fields), count)[0]


@pytest.mark.parametrize(
    ("prompt", "label"), [("cat", "cat"), ("A Cat.", "cat"), ("the hot dog", "Hot Dog"), ("7", "7"), ("1", 1)]
)
def test_a_class_by_its_name(prompt: str, label: str | int) -> None:
    assert words(CLASSES, 2, prompt=prompt) == [{"labels": [label]}] * 2


def test_labels_are_one_for_all_or_one_for_each() -> None:
    assert words(CLASSES, 2, labels="cat") == [{"labels": ["cat"]}] * 2
    assert words(CLASSES, 2, labels=[0, "cat"]) == [{"labels": [0]}, {"labels": ["cat"]}]
    assert words(CLASSES, 4) == [{"labels": [number]} for number in (0, 1, 2, 0)]
    with pytest.raises(ArgumentError, match="one for each of the 3 images"):
        words(CLASSES, 3, labels=[0, 1])


def test_numbers() -> None:
    assert words(NUMBERS, prompt="0.25") == [{"labels": [0.25]}]
    assert words(NUMBERS, 3, prompt="any") == [{"labels": [number]} for number in (0.0, 0.5, 1.0)]
    with pytest.raises(ArgumentError, match="numbers from 0 to 1"):
        words(NUMBERS, prompt="a hill")


def test_texts() -> None:
    said = words(PROMPTS, 2, prompt="a red fox", negative_prompt="blurry")
    assert said == [{"prompt": "a red fox", "negative_prompt": "blurry"}] * 2
    assert words(PROMPTS, prompt="") == [{"prompt": ""}]
    with pytest.raises(ArgumentError, match="this model reads prompts"):
        words(PROMPTS)
    with pytest.raises(ArgumentError, match="this model takes a prompt"):
        words(PROMPTS, prompt="a fox", labels=1)


def test_no_condition() -> None:
    assert conditioned(Unconditional(), read(Generation, {"prompt": "a fox"}), 1) == ([{}], ["prompt"])
    assert conditioned(Unconditional(), read(Generation, {}), 1) == ([{}], [])
    with pytest.raises(ArgumentError, match="takes no labels"):
        words(Unconditional(), labels=1)


def test_what_was_asked_beside_a_label_is_told() -> None:
    assert conditioned(CLASSES, read(Generation, {"prompt": "a fox", "labels": 1}), 1)[1] == ["prompt"]
