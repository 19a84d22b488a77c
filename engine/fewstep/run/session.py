"""A session: samples in slots and lanes on one device, taken step by step until each is done. It knows no user."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fewstep.checks import integer, whole
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.trained import MAX_STEPS
from fewstep.errors import ArgumentError
from fewstep.run.buffers import Place, Signature
from fewstep.run.decode import Decoder, Images, taken, taken_alone, to_pixels
from fewstep.run.denoiser import Denoiser
from fewstep.run.features import Prepared, prepare, schema, unlike
from fewstep.run.lanes import assign_lanes
from fewstep.run.noise import noise_tables
from fewstep.run.runners import Runner
from fewstep.run.sample import Sample
from fewstep.run.weights_lock import WeightsLock


class Session:
    """Slots and lanes of one `Signature`, given to samples and taken back.

    A session that `admits` takes samples between any two steps, gives their slots and lanes to others when
    they are done, and decodes each by itself. One that is not is filled once, has exactly the lanes it needs, and is
    taken in as few launches as the runner can.

    Args:
        runner: what executes the steps. What the session holds of it is given back by `close`.
        denoiser: the network.
        decoder: what makes images of x.
        signature: slots, lanes and features, which do not change any more; see `features.signature_of`. The last lane
            is scratch where the session admits, or has one to spare.
        admits: samples come and go while others run.
        watched: somebody looks between the steps, so they are taken one by one.
        steps: the most model calls that a sample takes, where the session does not admit.
        lock: held while the device works; whoever shares the runner or the weights shares it. It knows the session for
            as long as it is open, in which the weights do not change.
        narrows: leave out slots and lanes that nobody has, where the runner can; else every step has all of them, and a
            sample's bits do not depend on its company.
        strange: why a plan is not one for the network, "that ..." or "for ..."; None for one that is.

    A session is used by one thread at a time; others may use the engine meanwhile. After a step that failed it can only
    be closed, since some of its samples may have taken that step and others not.
    """

    def __init__(
        self,
        runner: Runner,
        denoiser: Denoiser,
        decoder: Decoder,
        signature: Signature,
        *,
        admits: bool = False,
        watched: bool = False,
        steps: int = 1,
        lock: WeightsLock | None = None,
        narrows: bool = True,
        strange: Callable[[Plan], str | None] = lambda plan: None,
    ) -> None:
        self.signature, self.admits, self._narrows = signature, admits, admits and narrows
        self._denoiser, self._strange = denoiser, strange
        self._lock = WeightsLock() if lock is None else lock
        self._decoder = decoder
        self._usable = "open"  # else why it cannot be used
        self._places: dict[int, Place] = {}
        self._left: dict[int, int] = {}  # steps of those that run
        self._stopped: dict[int, int] = {}  # and of those that were cancelled and keep their slots
        self._finished: list[int] = []
        self._free_slots = list(range(signature.samples))
        self._free_lanes = list(range(signature.lanes - 1 if admits else signature.lanes))
        with self._lock:
            self._run = runner.prepare(denoiser, decoder, signature, steps, stepwise=admits or watched)
            self._lock.hold(self)
        self.buffers = self._run.buffers

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def finished(self) -> tuple[int, ...]:
        """The slots whose samples are done and not taken yet, in the order in which they were done."""
        return tuple(self._finished)

    @property
    def running(self) -> tuple[int, ...]:
        """The slots whose samples are neither done nor cancelled."""
        return tuple(self._left)

    @property
    def left(self) -> int:
        """Steps until the last of the samples is done."""
        return max(self._left.values(), default=0)

    def why_not(self, *samples: Sample) -> str | None:
        """Why these samples cannot be admitted now; None where they can."""
        for sample in samples:
            if not isinstance(sample, Sample):
                raise ArgumentError("sample", sample, "what Engine.samples makes, one argument for each")
        lanes = sum(sample.lanes for sample in samples)
        if len(samples) > len(self._free_slots):
            return f"{len(samples)} samples and {len(self._free_slots)} free slots"
        if lanes > len(self._free_lanes):
            return f"{lanes} lanes and {len(self._free_lanes)} free ones"
        return next((why for sample in samples if (why := self._unlike(sample)) is not None), None)

    def accepts(self, *samples: Sample) -> bool:
        """Whether these samples can be admitted now, all of them."""
        return self.why_not(*samples) is None

    def admit(self, *samples: Sample, prepared: Sequence[Prepared] | None = None) -> list[int]:
        """Give samples a slot each, and its lanes; the slots.

        Args:
            samples: who comes.
            prepared: what `prepare` made of each, where that is known already.

        Raises:
            ArgumentError: what `why_not` says, or a condition that the session was not opened for.
        """
        self._check_usable()
        if not samples:
            return []
        why = self.why_not(*samples)
        if why is not None:
            raise ArgumentError("sample", why, "what the session has room for")
        if prepared is None:
            with self._lock:
                prepared = [prepare(self._denoiser, sample, self.signature) for sample in samples]
        for lane in (lane for ready in prepared for lane in ready):
            if schema(lane) != self.signature.conditioning:
                allowed = f"{self.signature.conditioning}, as for the samples that the session was opened for"
                raise ArgumentError("prepare_condition", schema(lane), allowed)
        slots = self._free_slots[: len(samples)]
        lanes = assign_lanes([sample.plan for sample in samples], self._free_lanes)
        tables = self._noise(samples)
        places = [
            Place(sample, slot, *owned, ready, noise)
            for sample, slot, owned, ready, noise in zip(samples, slots, lanes, prepared, tables, strict=True)
        ]
        used = [lane for place in places for lane in dict.fromkeys((place.cond_lane, place.uncond_lane))]
        with self._lock:
            try:
                self.buffers.fill(places)
            except Exception:
                for slot in slots:  # nobody is admitted
                    self.buffers.vacate(slot, self.signature.lanes - 1)
                raise
            if not self._places and len(used) < self.signature.lanes:
                self.buffers.spare_lanes(len(used))
        self._free_slots = self._free_slots[len(slots) :]
        self._free_lanes = [lane for lane in self._free_lanes if lane not in set(used)]
        for place in places:
            self._places[place.slot] = place
            self._left[place.slot] = place.sample.calls
        self._narrow()
        return slots

    def advance(self, steps: int | None = None) -> list[int]:
        """Take so many steps, or all that are left; the slots whose samples got done, in order.

        A sample that is done earlier than the others stays as it is.

        Raises:
            ArgumentError: fewer than 0 steps, or a session that cannot be used any more.
        """
        self._check_usable()
        steps = self.left if steps is None else min(self.left, integer("steps", steps, 0, MAX_STEPS))
        if steps > 0:
            self._usable = "one whose last step failed"
            with self._lock, torch.no_grad():
                self._denoiser.look()
                self._run.advance(steps)
            self._usable = "open"
        done = [slot for slot, left in self._left.items() if left <= steps]
        for slot in self._left:
            self._left[slot] -= steps
        for slot in done:
            del self._left[slot]
        self._finished += done
        return done

    def compact(self) -> dict[int, int]:
        """Move samples into the first slots and lanes, where a step then leaves more of them out.

        Nothing else about them changes. It pays after several have left and nobody came.

        Returns:
            The new slot of each sample that has another now.
        """
        self._check_usable()
        used = sorted(self._places.values(), key=lambda place: (place.slot, place.cond_lane))
        lanes = sum(place.sample.lanes for place in used)
        if not self._narrows or self._reach() == (len(used), lanes):
            return {}
        slots_left = [slot for slot in range(len(used)) if slot not in self._places]
        owned = {lane for place in used for lane in (place.cond_lane, place.uncond_lane)}
        lanes_left = [lane for lane in range(lanes) if lane not in owned]
        moved = {}
        for before in used:
            slot = before.slot if before.slot < len(used) else slots_left.pop(0)
            ends = dict.fromkeys((before.cond_lane, before.uncond_lane))
            to = {lane: lane if lane < lanes else lanes_left.pop(0) for lane in ends}
            after = before._replace(slot=slot, cond_lane=to[before.cond_lane], uncond_lane=to[before.uncond_lane])
            if after[1:4] != before[1:4]:
                self._move(before, after)
            if slot != before.slot:
                moved[before.slot] = slot
        self._narrow()
        return moved

    def cancel(self, slot: int) -> None:
        """Take a sample out of the run from the next step on; where the session admits, free its slot and lanes."""
        slot = self._held(slot)
        with self._lock:
            self.buffers.cancel(slot)
        self._stopped[slot] = self._left.pop(slot, 0)
        if slot in self._finished:
            self._finished.remove(slot)
        if self.admits:
            self._release(slot)

    def sample(self, slot: int) -> Sample:
        """The sample in a slot as it stands: what `admit` goes on from, here or elsewhere."""
        slot = self._held(slot)
        place, left = self._places[slot], self._left.get(slot, self._stopped.get(slot, 0))
        with self._lock:
            return replace(place.sample, start=self.buffers.state(slot, len(place.sample.plan) - left))

    def take(self, slot: int) -> Images:
        """The images of one sample, [1, C, H, W] with the sizes of its x, which leaves its slot and lanes to others.

        Beside them `log_prob` [1, len(plan)], where the session was opened with that feature.
        """
        slot = self._held(slot)
        with self._lock, torch.no_grad():
            images = self._with_log_prob(self._alone(slot), [slot])
        if slot in self._finished:
            self._finished.remove(slot)
        self._left.pop(slot, None)
        self._release(slot)
        return images

    def images(self) -> Images:
        """The images of all samples in the order of their slots, as they stand, in a closed session."""
        output, count = self.signature.output, len(self._places)
        with self._lock, torch.no_grad():
            if output is not None and output.each:
                images = Images.cat([self._alone(slot) for slot in sorted(self._places)])
            else:
                self._run.decode()
                images = taken(self.buffers, count)
            return self._with_log_prob(images, sorted(self._places))

    def preview(self, slot: int) -> Tensor:
        """The estimate of x_0 of one sample after its last step, [C, H, W]: a copy.

        Raises:
            ArgumentError: a slot that nobody has, or a session that was opened without the feature "preview".
        """
        slot = self._held(slot)
        if self.buffers.preview is None:
            raise ArgumentError("preview", "a session without", "one that was opened with features=['preview', ...]")
        with self._lock:
            return self.buffers.preview[slot].clone()

    def picture(self, slot: int) -> Tensor:
        """What `preview` says of a sample as pixels, uint8 [H, W, C]: decoded, where the run ends in decoded images.

        Raises:
            ArgumentError: as `preview` does.
        """
        estimate = self.preview(slot)[None]
        with self._lock, torch.no_grad():
            return to_pixels(self._decoder(estimate))[0]

    def close(self) -> None:
        """Give back what the session holds of its runner. It can be used no more; to close it again does nothing."""
        if self._usable != "one that is closed":
            self._usable = "one that is closed"
            with self._lock:
                self._run.close()
                self._lock.let_go(self)

    def _alone(self, slot: int) -> Images:
        if self.buffers.final is None:
            return taken_alone(self.buffers, slot)
        self.buffers.final.copy_(self.buffers.x[slot : slot + 1])
        self._run.decode()
        return taken(self.buffers, 1)

    def _with_log_prob(self, images: Images, slots: list[int]) -> Images:
        """Beside them how probable each step of their slots was: a copy, as long as the longest of their plans."""
        if self.buffers.log_prob is None:
            return images
        rows = max(len(self._places[slot].sample.plan) for slot in slots)
        return images._replace(log_prob=self.buffers.log_prob[slots, :rows])

    def _unlike(self, sample: Sample) -> str | None:
        strange = self._strange(sample.plan)
        return unlike(self.signature, sample) if strange is None else f"a plan {strange}, which this one does not"

    def _check_usable(self) -> None:
        if self._usable != "open":
            raise ArgumentError("session", self._usable, "an open session, to which its samples can be admitted again")
        self._lock.hold(self)

    def _held(self, slot: int) -> int:
        self._check_usable()
        held = whole(slot)
        if held is None or held not in self._places:
            raise ArgumentError("slot", slot, f"one of {sorted(self._places)}")
        return held

    def _release(self, slot: int) -> None:
        place = self._places.pop(slot)
        self._stopped.pop(slot, None)
        if self.admits:
            with self._lock:
                self.buffers.vacate(slot, self.signature.lanes - 1)
        self._free_slots = sorted([*self._free_slots, slot])
        self._free_lanes = sorted({*self._free_lanes, place.cond_lane, place.uncond_lane})
        self._narrow()

    def _narrow(self) -> None:
        """Tell the run how far the slots and lanes in use reach; one lane more where a slot before them idles."""
        if self._narrows:
            slots, lanes = self._reach()
            self._run.narrow(slots, lanes + (len(self._places) < slots))

    def _reach(self) -> tuple[int, int]:
        """How far the slots and the lanes in use reach."""
        lanes = 1 + max((max(each.cond_lane, each.uncond_lane) for each in self._places.values()), default=-1)
        return max(self._places, default=-1) + 1, lanes

    def _move(self, before: Place, after: Place) -> None:
        """Have a sample elsewhere; where it was is free."""
        freed = {before.cond_lane, before.uncond_lane} - {after.cond_lane, after.uncond_lane}
        taken = {after.cond_lane, after.uncond_lane}
        with self._lock, torch.no_grad():
            self.buffers.move(before, after)
            if after.slot != before.slot:
                self.buffers.vacate(before.slot, self.signature.lanes - 1)
        self._free_lanes = sorted({*self._free_lanes, *freed} - taken)
        del self._places[before.slot]
        self._places[after.slot] = after
        if after.slot != before.slot:
            self._free_slots = sorted({*self._free_slots, before.slot} - {after.slot})
            for held in (self._left, self._stopped):
                if before.slot in held:
                    held[after.slot] = held.pop(before.slot)
            self._finished = [after.slot if slot == before.slot else slot for slot in self._finished]

    def _noise(self, samples: Sequence[Sample]) -> list[Tensor | None]:
        """[N + 1, C, H, W] for each sample, where the session has a table of noise: its own, or what its seed draws."""
        if not self.signature.given_noise:
            return [None] * len(samples)
        bare = [sample for sample in samples if sample.noise is None]
        drawn = iter(self._drawn(bare))
        return [next(drawn) if sample.noise is None else sample.noise for sample in samples]

    def _drawn(self, samples: Sequence[Sample]) -> Sequence[Tensor]:
        """What samples without noise of their own draw, in one call."""
        if not samples:
            return ()
        rows = max(len(sample.plan) for sample in samples)
        return tuple(
            noise_tables([sample.seed for sample in samples], rows, self.signature.shape, initial=self.signature.known)
        )
