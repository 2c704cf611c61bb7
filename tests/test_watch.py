"""Pictures and tasks between steps: when, what they look like, and that training does not care."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import CPU, MemoryLoader, assert_same_state, build, newest, recorded, tiny_run

from ssl4eo_stream.backbones import TransformerSize, vision_transformer
from ssl4eo_stream.bands import S1, S2A, S2C
from ssl4eo_stream.methods.mae import MAE, MAEConfig
from ssl4eo_stream.train.loop import fit
from ssl4eo_stream.train.signals import StopSignals
from ssl4eo_stream.train.watch import Watch, contact_sheet, false_colours

RGB = [band for band in S2C.bands if band.name in ("B2", "B3", "B4")]


@dataclass(frozen=True, kw_only=True)
class Views:
    num_views: int = 2

    def shapes(self, num_channels):
        return ((num_channels, 8, 8),) * self.num_views


@dataclass(frozen=True)
class CountingProbe:
    """A task that counts how often it was asked."""

    asked: list
    every_epochs: int = 1

    def opened(self, *, bands, pixels):
        assert [band.name for band in bands] == ["B2", "B3", "B4"]
        assert pixels == 8

        def ask(backbone):
            self.asked.append(float(next(backbone.parameters()).detach().sum()))
            return {"task": float(len(self.asked))}

        return ask


def go(run, build=build):
    loader = MemoryLoader(batch_size=run.batch_size)
    with StopSignals() as stop:
        return fit(run, build, loader=loader, device=CPU, stop=stop, watch=Watch(run, bands=RGB))


def pictures(folder):
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    return {tag: [event.step for event in board.Images(tag)] for tag in board.Tags()["images"]}


def test_a_task_is_asked_first_last_and_between(tmp_path):
    probe = CountingProbe([])
    go(tiny_run(tmp_path, views=Views(), probe=probe, log_every=2, epochs=3, picture_steps=0))
    rows = {row["step"]: row.get("task") for row in recorded(tmp_path)}
    assert rows == {0: 1, 2: None, 3: 2, 4: None, 6: 3, 8: None, 9: 4}
    assert len(set(probe.asked)) == 4  # it moves


def test_a_task_may_come_less_often(tmp_path):
    probe = CountingProbe([], every_epochs=2)
    go(tiny_run(tmp_path, views=Views(), probe=probe, epochs=3, picture_steps=0))
    assert [row["step"] for row in recorded(tmp_path) if "task" in row] == [0, 6, 9]


def test_looking_changes_nothing_and_a_resumed_run_looks_where_another_does(tmp_path):
    looked, blind, broken = (tmp_path / name for name in ("looked", "blind", "broken"))
    go(tiny_run(looked, views=Views(), probe=CountingProbe([]), picture_steps=2))
    go(tiny_run(blind, views=Views(), picture_steps=0))
    assert_same_state(newest(looked), newest(blind))
    run = tiny_run(broken, views=Views(), probe=CountingProbe([]), picture_steps=2)
    go(replace(run, max_steps=4))
    go(run)
    assert_same_state(newest(broken), newest(looked))
    assert [row["step"] for row in recorded(looked)] == [0, 1, 2, 3, 4, 5, 6]
    assert pictures(looked) == {"views": [1, 2, 4, 6]}
    assert pictures(blind) == {}


def build_mae(_run, channels):
    size = TransformerSize(patch=4, dim=24, depth=1, heads=2)
    vit = vision_transformer(size, in_channels=channels, image_pixels=8)
    return MAE(vit, MAEConfig(decoder_dim=16, decoder_depth=1, decoder_heads=2),
               in_channels=channels)  # fmt: skip


class OneView(MemoryLoader):
    def __iter__(self):
        for batch in super().__iter__():
            yield replace(batch, views=batch.views[:1])


def test_mae_shows_what_it_paints(tmp_path):
    run = tiny_run(tmp_path, views=Views(), max_steps=1)
    with StopSignals() as stop:
        fit(run, build_mae, loader=OneView(batch_size=8), device=CPU, stop=stop,
            watch=Watch(run, bands=RGB))  # fmt: skip
    assert pictures(tmp_path) == {"views": [1], "seen, left, reconstructed": [1]}


def test_maes_pictures_keep_what_was_left_and_draw_from_nobody():
    torch.manual_seed(0)
    method = build_mae(None, 3)
    images = torch.randint(1, 256, (2, 3, 8, 8), dtype=torch.uint8)
    state = torch.get_rng_state()
    first, second = method.pictures([images]), method.pictures([images])
    assert torch.equal(torch.get_rng_state(), state)
    left, whole = first["left"], first["reconstructed"]
    assert torch.equal(whole, second["reconstructed"])
    kept = left != 0
    assert kept.float().mean() == 0.25  # one patch of four
    assert torch.equal(left[kept], (images / 255)[kept])
    assert torch.equal(whole[kept], left[kept])
    assert (whole[~kept] != (images / 255)[~kept]).any()


@pytest.mark.parametrize(
    ("bands", "names"),
    [(S2C.bands, "B8 B4 B3"), (S2A.bands, "B8 B4 B3"), (RGB, "B4 B3 B2"), (S1.bands, "VV VH VV"),
     ((*S1.bands, *S2A.bands), "B8 B4 B3"), (S2C.bands[10:12], "B10 B11 B11")],
)  # fmt: skip
def test_false_colours_are_near_infrared_first(bands, names):
    assert " ".join(bands[channel].name for channel in false_colours(bands)) == names


def test_a_sheet_has_a_row_per_sample_and_a_column_per_view():
    large = torch.zeros(3, 4, 16, 16, dtype=torch.uint8)
    large[:, 2, :, 8:] = 200
    small = torch.full((3, 4, 8, 8), 0.5)
    sheet = contact_sheet([large, small], channels=[2, 1, 0])
    assert sheet.shape == (3, 3 * 18 + 2, 2 * 18 + 2)
    assert sheet[0, 2:18, 2:10].eq(0).all()  # the first sample's left half is dark,
    assert sheet[0, 2:18, 10:18].eq(1).all()  # its right one as bright as it gets
    assert sheet[:, 10:18, 20:36].eq(1).all()  # below a smaller view it is white
    assert sheet[0, 4, 22] == pytest.approx(0.5 / (200 / 255))


def test_large_views_are_made_small():
    sheet = contact_sheet([torch.zeros(1, 3, 300, 300, dtype=torch.uint8)], channels=[0, 1, 2])
    assert max(sheet.shape) <= 132


def test_a_picture_in_tensorboard_is_the_sheet(tmp_path):
    go(tiny_run(tmp_path, views=Views(), max_steps=1))
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    (event,) = board.Images("views")
    (tmp_path / "a.png").write_bytes(event.encoded_image_string)
    batch = next(iter(MemoryLoader(batch_size=8)))
    sheet = contact_sheet([view[:4] for view in batch.views], channels=false_colours(RGB))
    expected = (sheet.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    shown = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.abs(shown.astype(int) - expected).max() <= 1


def test_numbers_of_step_zero_are_dropped_when_a_run_begins_anew(tmp_path):
    run = tiny_run(tmp_path, views=Views(), probe=CountingProbe([]), picture_steps=0, max_steps=1)
    go(run)
    for checkpoint in tmp_path.glob("*.pt"):
        checkpoint.unlink()
    go(run)
    assert [row["step"] for row in recorded(tmp_path)] == [0, 1]
