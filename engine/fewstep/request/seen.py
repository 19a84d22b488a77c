"""The kinds of run that an engine has seen, and how often, in the user's words: what a manifest is made of."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import Clip
from fewstep.errors import ArgumentError
from fewstep.request.asked import Asked
from fewstep.request.manifest import MAX_REQUESTS, plain_option
from fewstep.run.graphs.cache import GraphKey


class Seen:
    """Counts runs by their key. Its caller sees to it that threads take turns."""

    def __init__(self) -> None:
        self._uses: Counter[GraphKey] = Counter()
        self._words: dict[GraphKey, dict[str, Any]] = {}
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it nothing is counted: a warm-up is no use."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def note(self, key: GraphKey, words: Callable[[], dict[str, Any] | None]) -> None:
        """Count a run; `words` are asked for once per key, and None where they cannot say it."""
        if self._paused:
            return
        self._uses[key] += 1
        if key not in self._words:
            said = words()
            if said is not None:
                self._words[key] = said

    def requests(self, key_of: Callable[[Mapping[str, Any]], GraphKey]) -> list[dict[str, Any]]:
        """An entry per key, most used first: those whose words, by `key_of`, give their key again."""
        found = []
        for key, _ in self._uses.most_common():
            words = self._words.get(key)
            if words is not None and _gives(key_of, words, key):
                found.append(dict(words))
        return found[:MAX_REQUESTS]


def words_of(asked: Asked, plans: Sequence[Plan], **flags: bool) -> dict[str, Any] | None:
    """A run of some samples of a request in the words of `Engine.sample`; None where one line cannot say it.

    Steps, sampler and guidance are those of the plan that ran, since a request may name another for each sample, or
    none; the sampler's options are as they were typed.

    Args:
        asked: the whole request.
        plans: of the samples that ran together.
        flags: what was given and is only noted as given.
    """
    if asked.condition is not None or len({id(plan) for plan in plans}) > 1:
        return None
    plan, said = plans[0], {"n": len(plans)}
    words: dict[str, Any] = {"steps": len(plan), "sampler": plan.sampler}
    w, phi = plan.column("w").tolist(), float(plan.column("phi").max())
    if len(set(w)) > 1:
        words["guidance_per_call"] = w
    elif w[0] != 1 or asked.guidance_scale is not None:
        words["guidance_scale"] = w[0]
    if asked.plan is None and asked.guidance_scale is not None and w[0] == 1:
        words["guidance_scale"] = _first(asked.guidance_scale)
    options = {name: asdict(value) if isinstance(value, Clip) else value for name, value in asked.options.items()}
    options.pop("guidance_rescale", None)
    if not all(plain_option(value) for value in options.values()):
        return None
    words |= {"guidance_rescale": phi} if phi else {}
    words |= {"options": options} if options else {}
    words |= {name: True for name, there in flags.items() if there}
    return said | {name: value for name, value in words.items() if value is not None}


def _first(scale: Any) -> float | None:
    """A scale for all, or the first that one per sample names, if any: a graph serves them all alike."""
    return next((float(each) for each in (scale if isinstance(scale, list) else [scale]) if each is not None), None)


def _gives(key_of: Callable[[Mapping[str, Any]], GraphKey], words: Mapping[str, Any], key: GraphKey) -> bool:
    try:
        return key_of(words) == key
    except ArgumentError:
        return False
