"""What the other tests of serving stand on does what it says: a server in a thread, and faults on order."""

import threading

from support.serving import Knobs, out_of_memory_above, running_server, tiny_engine, tiny_family, until


def test_a_tiny_model_is_served_and_waits_at_its_gate() -> None:
    knobs, answers = Knobs(), []
    with running_server(tiny_family(knobs=knobs)) as remote:
        assert remote.generate(model="tiny", labels=[3], num_inference_steps=2).status == 200
        knobs.shut()
        ask = threading.Thread(target=lambda: answers.append(remote.generate(model="tiny", labels=[1])))
        ask.start()
        until(knobs.entered.is_set)
        assert not answers
        knobs.open()
        ask.join(60)
    assert [answer.status for answer in answers] == [200]


def test_faults_come_on_order() -> None:
    knobs = Knobs(nan_label=3)
    images = tiny_engine(knobs).sample(labels=[3, 4], steps=1, seeds=0).images
    assert not images[0].isfinite().any()
    assert images[1].isfinite().all()
    error = out_of_memory_above(2)
    assert isinstance(error(3), MemoryError)
    assert error(2) is None
