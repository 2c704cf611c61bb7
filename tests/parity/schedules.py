"""Every schedule against the published codes' tables."""

from dataclasses import replace

import pytest
from parity.arrays import assert_close, part, read

from ssl4eo_stream.methods.dino import teacher_temperature
from ssl4eo_stream.methods.teacher import momentum_at
from ssl4eo_stream.train.schedule import Schedule, cosine


@pytest.mark.parametrize("size", ["small", "paper"])
def test_schedules(size):
    arrays, _ = read("schedules.npz")
    given = part(arrays, f"{size}/")
    epochs, steps_per_epoch, warmup = (int(n) for n in given["in/epochs__iters__warmup_epochs"])
    at = [int(step) for step in given["in/step"]]

    def rates(schedule, base, steps=at):
        return [schedule.rate(base, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs)
                for step in steps]  # fmt: skip

    by_step = Schedule(every="step", warmup_epochs=warmup)
    floor, floor_d2v = (
        replace(by_step, warmup_reaches_base=True, floor=floor) for floor in (1e-6, 1e-5)
    )
    shares = [step / (epochs * steps_per_epoch) for step in at]
    whole = [epoch * steps_per_epoch for epoch in range(epochs)]
    found = {
        "moco_v2_lr_by_epoch": rates(Schedule(every="epoch"), 0.03, whole),
        "moco_v3_lr": rates(by_step, 1.5e-4),
        "mae_lr": rates(by_step, 1.5e-4),
        "moco_v3_momentum": [momentum_at(share, start=0.99) for share in shares],
        "dino_lr_vit": rates(floor, 1.5e-4),
        "dino_lr_rn50": rates(floor, 0.03),
        "dino_wd_vit": [cosine(0.04, 0.4, share=share) for share in shares],
        "dino_momentum": [momentum_at(share, start=0.996) for share in shares],
        "data2vec_lr": rates(floor_d2v, 1e-3),
        "data2vec_wd": [cosine(0.05, 0.05, share=share) for share in shares],
        "dino_teacher_temp_by_epoch_warm": [
            teacher_temperature(epoch, first=0.04, last=0.07, warmup_epochs=min(5, epochs))
            for epoch in range(epochs)
        ],
    }  # fmt: skip
    assert found.keys() == {name for name in given if not name.startswith("in/")}
    for name, got in found.items():
        assert_close(got, given[name], tolerance=(1e-12, 0), name=name)
