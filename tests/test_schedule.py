import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl4eo_stream.train.schedule import Schedule

RUNS = st.integers(1, 300).flatmap(
    lambda epochs: st.tuples(
        st.just(epochs), st.integers(0, epochs - 1), st.floats(0, epochs, exclude_max=True)
    )
)


@given(RUNS, st.floats(1e-6, 10), st.floats(0, 1))
def test_every_step_follows_the_formula(run, base, part):
    epochs, warmup, epoch = run
    floor = part * base
    rate = Schedule(every="step", warmup_epochs=warmup, floor=floor).rate(
        base, epoch=epoch, epochs=epochs
    )
    if epoch < warmup:
        assert rate == pytest.approx(base * epoch / warmup, rel=1e-12)
    else:
        share = (epoch - warmup) / (epochs - warmup)
        want = base - (base - floor) * math.sin(math.pi / 2 * share) ** 2
        assert rate == pytest.approx(want, rel=1e-9)


@given(RUNS, st.floats(1e-6, 10))
def test_every_epoch_keeps_the_rate_of_its_first_step(run, base):
    epochs, warmup, epoch = run
    schedules = [Schedule(every=every, warmup_epochs=warmup) for every in ("epoch", "step")]
    kept = schedules[0].rate(base, epoch=epoch, epochs=epochs)
    first = schedules[1].rate(base, epoch=float(math.floor(epoch)), epochs=epochs)
    assert kept == first


def test_the_ends():
    schedule = Schedule(every="step", warmup_epochs=10, floor=0.01)
    rates = [schedule.rate(1.0, epoch=float(e), epochs=100) for e in (0, 10, 55, 100)]
    assert rates == pytest.approx([0.0, 1.0, 0.505, 0.01])


@pytest.mark.parametrize("field", ["warmup_epochs", "floor"])
def test_nonsense_is_refused(field):
    with pytest.raises(ValueError, match="must not be negative"):
        Schedule(**{field: -1 if field == "warmup_epochs" else -1.0})
