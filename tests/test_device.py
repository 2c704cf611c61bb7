"""Views rendered on a device from native planes equal those of the CPU path and of the oracle."""

import math
import os
from dataclasses import dataclass, replace

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import views as oracle
from torch._subclasses.fake_tensor import FakeTensorMode

from ssl4eo_stream.augment.device import DeviceViews
from ssl4eo_stream.augment.geometry import Box
from ssl4eo_stream.augment.native import NativeViews
from ssl4eo_stream.augment.view import ViewParameters, apply
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.bands import S1, S2A, S2C
from ssl4eo_stream.shard.quantize import to_bytes
from ssl4eo_stream.shard.source import read_location, read_patch

SIDES = {product.name: tuple(band.pixels for band in product.bands) for product in (S1, S2A, S2C)}
SIDES |= {
    "rgb": (264,) * 3,
    "20 m": (132,) * 6,
    "s1+s2c": (264,) * 2 + SIDES["s2c"],
    "odd": (45, 15, 45, 5),
}
WHOLE = ViewParameters(
    box=Box(top=0, left=0, height=44, width=44, cells=44),
    flip=False, brightness=1.0, contrast=1.0, gray=False, blur_sigma=0.0,
)  # fmt: skip
DTYPES = [torch.float32, torch.float16]


@dataclass(frozen=True)
class SameView:
    """Always the same view."""

    parameters: ViewParameters
    size: tuple[int, int]
    num_views: int = 1
    interpolation: str = "bilinear"

    @property
    def each(self):
        return (self,)

    def shapes(self, num_channels):
        return ((num_channels, *self.size),)

    def dates(self, num_dates, *, rng):  # noqa: ARG002
        return (0,)

    def draw(self, *, cells, rng):  # noqa: ARG002
        assert cells == self.parameters.box.cells
        return self.parameters


@pytest.fixture
def unchecked(monkeypatch):
    """Users run without the type checks of the tests; what they get wrong must be told by us."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def textures(sides, *, seed=0):
    """Planes with detail on every scale, at their native sizes."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (side, side), dtype=np.uint8) for side in sides]


def handed_over(native, patches, *, seeds):
    """Rows of one view, one patch per seed, as a loader yields them."""
    rows = np.full((len(seeds), 1, 1, native.num_bytes), 7, np.uint8)
    for planes, seed, row in zip(patches, seeds, rows, strict=True):
        native.render(planes, view=0, rng=np.random.default_rng(seed), out=row)
    return torch.from_numpy(rows)


def both_ways(views, patches, *, seeds, **options):
    """(B, C, H, W) views by the device's code and by the CPU path, as int."""
    native = NativeViews(views=views, sides=tuple(len(plane) for plane in patches[0]))
    rows = handed_over(native, patches, seeds=seeds)
    device = DeviceViews(native, **options)([rows] * views.num_views)[0].numpy().astype(int)
    cpu = np.zeros(device.shape, np.uint8)
    for i, (planes, seed) in enumerate(zip(patches, seeds, strict=True)):
        p = views.draw(cells=native.cells, rng=np.random.default_rng(seed))
        apply(p, planes=planes, out=cpu[i], lap=lambda _: None)
    return device, cpu.astype(int)


def rendered(parameters, planes, *, size=(56, 56), **options):
    """One view of given parameters, by the device's code."""
    return both_ways(SameView(parameters, size), [planes], seeds=[0], **options)[0][0]


def real_patches(folder):
    """The published dates of one location, in bytes."""
    location = read_location(folder / "ssl4eo" / "genuine" / "s2c" / "0000200", product=S2C)
    patches = [read_patch(each, product=S2C).bands for each in location.acquisitions]
    return [[to_bytes(values, band=band) for values, band in zip(bands, S2C.bands, strict=True)]
            for bands in patches]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SIDES)
def test_device_equals_the_cpu_path_on_noise(name, dtype):
    """Noise is the hardest case: every pixel lies between far values."""
    patches = [textures(SIDES[name], seed=seed) for seed in range(6)]
    device, cpu = both_ways(MoCoViews(size=80), patches, seeds=range(6), dtype=dtype)
    # Each side rounds after adjusting, which may differ where a half is near; the CPU path rounds
    # between resampling and blur, and cv2 resamples bytes with weights of 11 bits.
    assert np.abs(device - cpu).max() <= 2
    assert np.abs(device - cpu).mean(axis=(1, 2, 3)).max() < 0.3
    assert np.abs(device - cpu).mean() < 0.15


@pytest.mark.parametrize("dtype", DTYPES)
def test_device_equals_the_cpu_path_on_real_patches(real_data, dtype):
    patches = real_patches(real_data) * 4
    device, cpu = both_ways(MoCoViews(), patches, seeds=range(len(patches)), dtype=dtype)
    assert np.abs(device - cpu).max() <= 2
    assert np.abs(device - cpu).mean() < 0.1


@pytest.mark.parametrize("name", ["s1", "s2c", "odd"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_device_equals_the_oracle(name, seed):
    views, sides = MoCoViews(size=56), SIDES[name]
    planes = textures(sides, seed=seed)
    device, _ = both_ways(views, [planes], seeds=[seed], dtype=torch.float32)
    p = views.draw(cells=math.gcd(*sides), rng=np.random.default_rng(seed))
    # Two roundings to a byte, of adjusted pixels and of the view, of 0.5 each.
    assert np.abs(device[0] - oracle.render(planes, p, views.size)).max() <= 1.001


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"flip": True},
        {"gray": True},
        {"brightness": 1.4, "contrast": 1.4},
        {"brightness": 0.6, "contrast": 0.6},
        {"brightness": 0.0},
        {"contrast": 0.0},
        {"blur_sigma": 0.1},
        {"blur_sigma": 2.0},
        {"blur_sigma": 5.0},
        {"gray": True, "blur_sigma": 1.0, "flip": True, "contrast": 0.7},
        {"box": Box(top=0, left=0, height=1, width=1, cells=44)},
        {"box": Box(top=43, left=43, height=1, width=1, cells=44)},
        {"box": Box(top=0, left=43, height=44, width=1, cells=44), "flip": True},
        {"box": Box(top=43, left=0, height=1, width=44, cells=44), "contrast": 1.4},
    ],
    ids=str,
)
def test_every_choice_alone(changes, dtype):
    parameters = replace(WHOLE, **changes)
    planes = textures(SIDES["s2c"])
    view = rendered(parameters, planes, dtype=dtype)
    expected = oracle.render(planes, parameters, 56)
    assert np.abs(view - expected).max() <= (1.001 if dtype == torch.float32 else 1.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_neutral_view_of_native_size_is_the_patch(dtype):
    planes = textures([44] * 5)
    view = rendered(WHOLE, planes, size=(44, 44), dtype=dtype)
    np.testing.assert_array_equal(view, np.stack(planes))
    mirrored = rendered(replace(WHOLE, flip=True), planes, size=(44, 44), dtype=dtype)
    np.testing.assert_array_equal(mirrored, np.stack(planes)[:, :, ::-1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_oblong_views(dtype):
    planes = textures([44])
    parameters = replace(WHOLE, blur_sigma=1.5)
    view = rendered(parameters, planes, size=(30, 70), dtype=dtype)
    wide = oracle.bilinear_matrix(44, 30) @ planes[0] @ oracle.bilinear_matrix(44, 70).T
    expected = oracle.blur_matrix(30, 1.5) @ wide @ oracle.blur_matrix(70, 1.5).T
    assert np.abs(view[0] - expected).max() <= 0.75


def test_flat_ground_stays_flat_in_half_precision():
    """Weights that do not add up to one would show here, and wrap 255 around to 0."""
    values = [0, 1, 127, 254, 255] * 6
    patches = [[np.full((side, side), value, np.uint8) for side in (264, 132, 44)]
               for value in values]  # fmt: skip
    views = MoCoViews(size=112, jitter_probability=0.0, blur_probability=1.0)
    device, _ = both_ways(views, patches, seeds=range(30), dtype=torch.float16)
    expected = np.array(values)[:, None, None, None]
    assert np.abs(device - expected).max() <= 1
    assert (device[::5] == 0).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["s1", "s2a", "s2c", "rgb"])
def test_bands_stay_registered(name, axis):
    """A ramp of ground coordinates in every grid agrees between bands to half a 10 m pixel.

    One byte is a whole 10 m pixel, too coarse to see that. So every line across the ramp is raised
    by its own known fraction, and the lines of the view are averaged. The outermost half pixel of
    the coarsest grid is left out: interpolation has nothing beyond it to reach for.
    """
    slope, sides = 239 / 264, SIDES[name]  # bytes per 10 m
    planes, lifts = [], []
    for side in sides:
        ground = (np.arange(side) + 0.5) * 264 / side
        lift = 16 * (np.arange(side) * 0.618034 % 1)
        plane = np.rint(ground[None, :] * slope + lift[:, None]).astype(np.uint8)
        planes.append(np.ascontiguousarray(plane if axis == 1 else plane.T))
        lifts.append(lift)
    views = MoCoViews(jitter_probability=0.0, gray_probability=0.0, blur_probability=0.0)
    cells, seeds = min(sides), range(20)
    device, _ = both_ways(views, [planes] * len(seeds), seeds=seeds)
    for seed, view in zip(seeds, device, strict=True):
        p = views.draw(cells=cells, rng=np.random.default_rng(seed))
        crops = [lift[p.box.slices(len(lift))[1 - axis]] for lift in lifts]
        raised = [(oracle.bilinear_matrix(len(each), views.size) @ each).mean() for each in crops]
        metres10 = (view.mean(axis=2 - axis) - np.array(raised)[:, None]) / slope
        start, length = (p.box.top, p.box.height) if axis == 0 else (p.box.left, p.box.width)
        expected = (start + (np.arange(views.size) + 0.5) * length / views.size) * 264 / cells
        if axis == 1 and p.flip:
            expected = expected[::-1]
        margin = int(np.ceil(0.5 * views.size / length))
        inside = slice(margin, -margin)
        assert np.ptp(metres10[:, inside], axis=0).max() < 0.5
        assert np.abs(metres10 - expected)[:, inside].max() < 0.5


def test_samples_do_not_depend_on_their_batch():
    patches = [textures(SIDES["odd"], seed=seed) for seed in range(7)]
    native = NativeViews(views=MoCoViews(size=40), sides=SIDES["odd"])
    rows = handed_over(native, patches, seeds=range(7))
    whole = DeviceViews(native)([rows, rows])
    pieces = DeviceViews(native, chunk_samples=3)([rows, rows.flip(0)])
    torch.testing.assert_close(pieces[0], whole[0], rtol=0, atol=0)
    torch.testing.assert_close(pieces[1].flip(0), whole[1], rtol=0, atol=0)


def test_training_context_changes_nothing():
    native = NativeViews(views=MoCoViews(size=40), sides=SIDES["odd"])
    rows = handed_over(native, [textures(SIDES["odd"])] * 4, seeds=range(4))
    plain = DeviceViews(native)([rows, rows])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = DeviceViews(native)([rows, rows])[0]
    torch.testing.assert_close(mixed, plain, rtol=0, atol=0)


@pytest.mark.usefixtures("unchecked")
def test_compiled_views_are_one_graph_and_the_same():
    native = NativeViews(views=MoCoViews(size=40), sides=SIDES["odd"])
    rows = handed_over(native, [textures(SIDES["odd"])] * 4, seeds=range(4))
    compiled = torch.compile(DeviceViews(native), backend="aot_eager", fullgraph=True)
    plain = DeviceViews(native)([rows, rows])
    torch.testing.assert_close(compiled([rows, rows]), plain, rtol=0, atol=0)


def test_no_operation_waits_for_a_gpu():
    """Tensors that have no values: whatever asked for one, or for the host, would raise."""
    native = NativeViews.over(MoCoViews(), bands=S2C.bands)
    with FakeTensorMode():
        rows = torch.empty(6, 1, 1, native.num_bytes, dtype=torch.uint8, device="cuda")
        views = DeviceViews(native, chunk_samples=4)([rows, rows])
    assert [(each.shape, each.device.type) for each in views] == [((6, 13, 224, 224), "cuda")] * 2


@pytest.mark.gpu
@pytest.mark.skipif(
    not (torch.cuda.is_available() or os.environ.get("REQUIRE_GPU")), reason="no CUDA device"
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_equals_the_cpu_path_and_never_waits(dtype):
    views, seeds = MoCoViews(), range(24)
    patches = [textures(SIDES["s2c"], seed=seed) for seed in seeds]
    native = NativeViews.over(views, bands=S2C.bands)
    rows = handed_over(native, patches, seeds=seeds).cuda()
    render = DeviceViews(native, dtype=dtype, chunk_samples=10)
    torch.cuda.set_sync_debug_mode("error")
    try:
        device, _ = render([rows, rows])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    _, cpu = both_ways(views, patches, seeds=seeds)
    difference = np.abs(device.cpu().numpy().astype(int) - cpu)
    assert difference.max() <= 2
    assert difference.mean() < 0.15


@pytest.mark.usefixtures("unchecked")
def test_arguments_are_checked():
    native = NativeViews.over(MoCoViews(), bands=S2C.bands)
    with pytest.raises(ValueError, match="chunk_samples=0 must be at least 1"):
        DeviceViews(native, chunk_samples=0)
    with pytest.raises(ValueError, match=r"dtype=torch.bfloat16 must be torch.float16"):
        DeviceViews(native, dtype=torch.bfloat16)
