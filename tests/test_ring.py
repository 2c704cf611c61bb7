"""The ring: slots are filled in place, lent, and come back only when nobody looks any more."""

import gc

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl4eo_stream.stream.ring import ALIGNMENT, Ring, layout, map_file, views_of

shapes = st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=4).map(tuple)


@given(shapes=shapes, batch_size=st.integers(1, 5))
def test_layout_holds_every_view_apart(shapes, batch_size):
    starts, end = layout(shapes, batch_size=batch_size)
    assert all(start % ALIGNMENT == 0 for start in [*starts, end])
    slot = np.zeros(end, np.uint8)
    for number, view in enumerate(views_of(slot, shapes, batch_size=batch_size), 1):
        assert view.shape == (batch_size, *shapes[number - 1])
        assert not view.any()
        view[:] = number
    for number, view in enumerate(views_of(slot, shapes, batch_size=batch_size), 1):
        assert (view == number).all()


def test_two_maps_of_one_file_are_the_same_memory():
    ring = Ring(slots=2, shapes=((1, 2, 2),), batch_size=1)
    other = map_file(ring.descriptor, ring.num_bytes)
    other[ring.slot_bytes] = 7
    lent = ring.lend(1)
    assert lent[0] == 7
    ring.close()
    assert lent[0] == 7
    ring.close()


def test_a_slot_comes_back_with_the_last_tensor_over_it():
    ring = Ring(slots=1, shapes=((1, 2, 2),), batch_size=1)
    slot = ring.acquire()
    assert slot == 0
    assert ring.acquire() is None
    memory = torch.from_numpy(ring.lend(slot))
    view = memory[:4].view(1, 1, 2, 2)
    del memory
    gc.collect()
    assert ring.num_free == 0
    part = view[0, 0]
    del view
    gc.collect()
    assert ring.num_free == 0
    del part
    gc.collect()
    assert ring.num_free == 1


def test_a_copy_is_not_overwritten():
    ring = Ring(slots=1, shapes=((1, 2, 2),), batch_size=1)
    memory = map_file(ring.descriptor, ring.num_bytes)
    slot = ring.acquire()
    memory[:] = 5
    kept = ring.copy(slot)
    assert ring.num_free == 1
    memory[:] = 9
    assert (kept == 5).all()
