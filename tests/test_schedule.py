import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl4eo_stream.train.schedule import Schedule

RUNS = st.tuples(st.integers(1, 300), st.integers(1, 40)).flatmap(
    lambda run: st.tuples(
        st.just(run[0]), st.just(run[1]), st.integers(0, run[0] - 1),
        st.integers(0, run[0] * run[1] - 1),
    )
)  # fmt: skip


@given(RUNS, st.floats(1e-6, 10), st.floats(0, 1), st.booleans())
def test_every_step_follows_the_formula(run, base, part, reaches_base):
    epochs, steps_per_epoch, warmup, step = run
    floor = part * base
    schedule = Schedule(every="step", warmup_epochs=warmup, floor=floor,
                        warmup_reaches_base=reaches_base)  # fmt: skip
    rate = schedule.rate(base, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs)
    last = warmup * steps_per_epoch
    if step < last:
        rising = max(last - 1, 1) if reaches_base else last
        assert rate == pytest.approx(base * step / rising, rel=1e-12)
    else:
        share = (step - last) / (epochs * steps_per_epoch - last)
        want = base - (base - floor) * math.sin(math.pi / 2 * share) ** 2
        assert rate == pytest.approx(want, rel=1e-9)


@given(RUNS, st.floats(1e-6, 10))
def test_every_epoch_keeps_the_rate_of_its_first_step(run, base):
    epochs, steps_per_epoch, warmup, step = run
    rates = [
        Schedule(every=every, warmup_epochs=warmup).rate(
            base, step=at, steps_per_epoch=steps_per_epoch, epochs=epochs
        )
        for every, at in (("epoch", step), ("step", step - step % steps_per_epoch))
    ]
    assert rates[0] == rates[1]


def test_the_ends():
    schedule = Schedule(every="step", warmup_epochs=10, floor=0.01)
    rates = [
        schedule.rate(1.0, step=e * 7, steps_per_epoch=7, epochs=100) for e in (0, 10, 55, 100)
    ]
    assert rates == pytest.approx([0.0, 1.0, 0.505, 0.01])


@pytest.mark.parametrize("field", ["warmup_epochs", "floor"])
def test_nonsense_is_refused(field):
    with pytest.raises(ValueError, match="must not be negative"):
        Schedule(**{field: -1 if field == "warmup_epochs" else -1.0})
