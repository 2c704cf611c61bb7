"""Ranks that do not fit together: every one of them ends with a reason, none waits for ever."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import run_ranks
from trees import write_tree

from ssl4eo_stream import Reading, Selection, StreamLoader, distributed
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.manifest import INDEX, MANIFEST, Index

VIEWS = MoCoViews(size=8, season="fixed")


@pytest.fixture(scope="module")
def uneven_shards(tmp_path_factory):
    """Shards of 7, 1 and 5 locations."""
    folder = tmp_path_factory.mktemp("uneven")
    write_tree(folder / "tree", "s1", [*range(7), 8, *range(24, 29)], dates=1)
    build(folder / "tree", folder / "s1", product="s1", codec="jpeg:75", samples_per_shard=8,
          workers=0)  # fmt: skip
    return folder / "s1"


def damage(folder, locations):
    """Flip a bit in the first date of some locations."""
    index = Index.from_parquet((folder / INDEX).read_bytes(), url="")
    for row in np.flatnonzero(np.isin(index.ids, locations)):
        tar = folder / f"s2c-{index.shards[row]:06d}.tar"
        data = bytearray(tar.read_bytes())
        data[int(index.offsets[index.first_date[row]]) + 1000] ^= 1
        tar.write_bytes(data)


def outcome(action):
    """What became of it: ("done", its result) or (the error's name, its message)."""
    try:
        return "done", action()
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return type(error).__name__, str(error)


def loader_of(arguments):
    """A loader from every rank's arguments; those that are not given are the same for all."""
    mine = {"views": VIEWS, "batch_size": 2} | arguments[distributed.rank()]
    return StreamLoader(str(mine.pop("url")), **mine)


def train_epoch(loader):
    """Keys of an epoch, with a collective in every step, as training has."""
    keys = []
    for batch in loader:
        keys += batch.keys
        distributed.mean(torch.zeros(1))
    return keys


def one_epoch(arguments):
    def action():
        with loader_of(arguments) as loader:
            return train_epoch(loader)

    return outcome(action)


def in_turn(cases):
    """Outcomes of several cases in one group, which must survive them all."""
    return [one_epoch(arguments) for arguments in cases]


def for_ranks(shards, *, world_size=3, everyone=None, rank_1=None):
    """Arguments of all ranks, the second of which is set up differently."""
    arguments = [{"url": shards} | (everyone or {}) for _ in range(world_size)]
    arguments[1] |= rank_1 or {}
    return arguments


def on_ranks(cases):
    """Answers of all ranks by case; a group that hangs or breaks fails them all."""
    world_size = len(next(iter(cases.values())))
    by_rank = run_ranks(in_turn, world_size, list(cases.values()))
    return dict(zip(cases, zip(*by_rank, strict=True), strict=True))


OTHER_SETTINGS = {
    "batch_size": ({"batch_size": 3}, "batch_size"),
    "workers": ({"workers": 1}, "workers"),
    "seed": ({"seed": 1}, "another seed"),
    "bands": ({"select": Selection(bands=("B2",))}, "another bands"),
    "samples": ({"select": Selection(fraction=0.9)}, "another samples"),
}


@pytest.fixture(scope="module")
def other_settings(shards):
    return on_ranks({
        name: for_ranks(shards, rank_1=setting) for name, (setting, _) in OTHER_SETTINGS.items()
    })  # fmt: skip


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_another_setting_is_told_on_every_rank(other_settings, name):
    for rank, (kind, message) in enumerate(other_settings[name]):
        assert kind == "ShardError"
        assert OTHER_SETTINGS[name][1] in message
        assert f"than rank {rank}" in message
        assert "All ranks need the same" in message


@pytest.fixture(scope="module")
def other_data(shards, uneven_shards, tmp_path_factory):
    """Answers where rank 1 has other shards, or none that it could open."""
    folder = tmp_path_factory.mktemp("broken")
    for name in ("no-index", "no-manifest"):
        shutil.copytree(shards, folder / name)
    (folder / "no-index" / INDEX).unlink()
    (folder / "no-manifest" / MANIFEST).write_text("{}")
    urls = {"other": uneven_shards} | {
        name: folder / name for name in ("nowhere", "no-index", "no-manifest")
    }
    return on_ranks({name: for_ranks(shards, rank_1={"url": url}) for name, url in urls.items()})


def test_other_shards_are_told_on_every_rank(other_data):
    for kind, message in other_data["other"]:
        assert kind == "ShardError"
        assert "another manifest" in message


@pytest.mark.parametrize(
    ("name", "error"),
    [("nowhere", "StorageError"), ("no-index", "MissingError"), ("no-manifest", "ShardError")],
)
def test_a_rank_that_cannot_open_its_shards_stops_all(other_data, name, error):
    answers = other_data[name]
    assert [kind for kind, _ in answers] == [error] * 3
    assert name in answers[1][1]
    assert answers[0][1] == answers[2][1] == f"Rank 1 stopped: {answers[1][1]}"


def resumed(arguments, state):
    def action():
        with loader_of(arguments) as loader:
            loader.load_state_dict(state)
            return train_epoch(loader)

    return outcome(action)


def test_other_shards_are_told_on_every_rank_that_resumes(shards, uneven_shards):
    state = StreamLoader(str(shards), views=VIEWS, batch_size=2).state_dict()
    arguments = for_ranks(shards, rank_1={"url": uneven_shards})
    for kind, message in run_ranks(resumed, 3, arguments, state):
        assert kind in ("ShardError", "CheckpointError")
        assert "manifest" in message


def test_a_rank_without_its_list_of_locations_stops_all(shards, tmp_path):
    """The list is missing there, is none, or names what is not in the shards."""
    lists = {"missing": None, "none": "id\nnot a number\n", "others": "id\n9999999\n"}
    for name, content in lists.items():
        if content:
            (tmp_path / name).write_text(content)
    answers = on_ranks({
        name: for_ranks(shards, rank_1={"select": Selection(locations=tmp_path / name)})
        for name in lists
    })  # fmt: skip
    for name in lists:
        first, second, third = answers[name]
        assert second[0] in ("StorageError", "SourceError", "ShardError", "ValueError")
        assert first == third == (second[0], f"Rank 1 stopped: {second[1]}")


@pytest.fixture(scope="module")
def fitting(shards, uneven_shards):
    """Answers where ranks are set up alike, though not as one would."""
    return on_ranks({
        "too few": for_ranks(shards, everyone={"batch_size": 6}),
        "in process": for_ranks(shards, everyone={"batch_size": 1}),
        "nine readers": for_ranks(shards, everyone={"batch_size": 1, "workers": 3}),
        "uneven": for_ranks(uneven_shards),
        "uneven, workers": for_ranks(uneven_shards, everyone={"workers": 2}),
    })  # fmt: skip


def test_fewer_samples_than_a_global_batch_are_told_on_every_rank(fitting):
    for kind, message in fitting["too few"]:
        assert kind == "ValueError"
        assert "16 samples, fewer than one global batch of 3 ranks × batch_size 6" in message


@pytest.mark.parametrize(
    ("name", "per_rank"),
    [
        ("in process", 5),  # of 16 in two shards
        ("nine readers", 5),  # three ranks of three workers over two shards
        ("uneven", 4),  # of 13 in shards of 7, 1, and 5
        ("uneven, workers", 4),
    ],
)
def test_any_number_of_readers_and_shards_just_works(fitting, name, per_rank):
    answers = fitting[name]
    assert [kind for kind, _ in answers] == ["done"] * 3
    assert [len(mine) for _, mine in answers] == [per_rank] * 3
    assert len({key for _, mine in answers for key in mine}) == 3 * per_rank


def two_epochs_of_changing_shards(cases):
    """Outcomes of the epoch behind a change, for every (arguments, change)."""
    return [outcome_of_a_change(arguments, change) for arguments, change in cases]


def outcome_of_a_change(arguments, change):
    manifest = Path(arguments[1]["url"]) / MANIFEST
    before = manifest.read_text()
    with loader_of(arguments) as loader:
        assert len(train_epoch(loader)) == 4
        distributed.barrier()
        if distributed.rank() == 0:
            if change == "gone":
                manifest.unlink()
            else:
                manifest.write_text(before.replace('"sha256": "', '"sha256": "0', 1))
        distributed.barrier()
        answer = outcome(lambda: train_epoch(loader))
    distributed.barrier()
    if distributed.rank() == 0:
        manifest.write_text(before)
    distributed.barrier()
    return answer


def test_shards_that_change_under_a_run_stop_all(shards, tmp_path):
    """Those that all ranks read, or one node's own copy."""
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    cases = [
        (for_ranks(shards if own else copy, rank_1={"url": copy}), change)
        for own in (False, True)
        for change in ("built anew", "gone")
    ]
    by_rank = run_ranks(two_epochs_of_changing_shards, 3, cases)
    for number, (arguments, change) in enumerate(cases):
        answers = [mine[number] for mine in by_rank]
        error = "MissingError" if change == "gone" else "ShardError"
        assert [kind for kind, _ in answers] == [error] * 3
        reason = answers[1][1]
        assert MANIFEST in reason
        others = reason if arguments[0]["url"] == copy else f"Rank 1 stopped: {reason}"
        assert answers[0][1] == answers[2][1] == others


def test_steps_stay_equal_where_samples_are_replaced(shards, tmp_path):
    """However the bad samples fall on ranks and workers, none runs out of steps."""
    folder, bad = tmp_path / "copy", [1, 2, 3, 5, 6]
    shutil.copytree(shards, folder)
    damage(folder, bad)
    lists = {workers: tmp_path / f"quarantine-{workers}.jsonl" for workers in (0, 1)}
    answers = on_ranks({
        workers: for_ranks(folder, world_size=2, everyone={
            "workers": workers,
            "reading": Reading(on_error="replace", replace_budget=1.0, quarantine=path),
        })
        for workers, path in lists.items()
    })  # fmt: skip
    for workers, path in lists.items():
        assert [kind for kind, _ in answers[workers]] == ["done"] * 2
        assert [len(mine) for _, mine in answers[workers]] == [8, 8]
        listed = [json.loads(line) for line in path.read_text().splitlines()]
        assert sorted(int(line["id"]) for line in listed) == bad
        expected = Counter(f"{i:07d}" for i in range(16) if i not in bad)
        expected.update(line["replaced_by"] for line in listed)
        assert Counter(key for _, mine in answers[workers] for key in mine) == expected


def test_a_rank_that_stops_within_an_epoch_leaves_nobody_waiting(shards, tmp_path):
    """Its own reason is on it; the others hear at least that it has gone."""
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder)
    damage(folder, range(16))
    reading = Reading(on_error="replace", replace_budget=0.0)
    arguments = for_ranks(shards, rank_1={"url": folder, "reading": reading})
    answers = run_ranks(one_epoch, 3, arguments)
    assert answers[1][0] == "ShardError"
    assert re.search(r"damaged|had to be replaced", answers[1][1])
    assert all(kind != "done" for kind, _ in answers)
