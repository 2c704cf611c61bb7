"""The long run: many at once, whatever fails, however it is stopped."""

import _thread
import logging
import threading

import pytest
from archive_of_images import Images
from test_collect_tree import digests

from ssl4eo_stream.collect.choice import Rejection, Wish
from ssl4eo_stream.collect.crawl import crawl
from ssl4eo_stream.collect.fetch import Request, fetch
from ssl4eo_stream.collect.state import State
from ssl4eo_stream.collect.taken import Place
from ssl4eo_stream.collect.tree import Tree
from ssl4eo_stream.collect.windows import Calendar
from ssl4eo_stream.errors import ServiceError, StorageError

PLACES = [Place(id=i, lon=9.2 + 0.05 * i, lat=48.2) for i in range(30)]
PRODUCTS = ("s1", "s2c")
CALENDAR = Calendar(year=2021, dates=((3, 20), (9, 22)))


def request(**options):
    return Request(wish=Wish(products=PRODUCTS), calendar=CALENDAR, **options)


def run(folder, service, *, wanted=8, concurrency=4, missing="next", sink=None, **options):
    folder.mkdir(exist_ok=True)
    outcomes = []
    state = State(folder / "collect.sqlite", places=PLACES, settings={}, wanted=wanted)
    try:
        crawl(
            service, sink or Tree(folder, products=PRODUCTS), request=request(missing=missing),
            state=state, concurrency=concurrency,
            **{"on_outcome": lambda each: outcomes.append((each.place.id, each.status)), **options},
        )  # fmt: skip
    finally:
        again = State(folder / "collect.sqlite", places=PLACES, settings={}, wanted=wanted)
        counts, reasons = again.counts(), again.reasons("rejected")
        again.close()
    return sorted(outcomes), counts, reasons


def test_the_result_does_not_depend_on_how_many_work(tmp_path):
    results = []
    for concurrency in (1, 7):
        service = Images(clear=0.1)
        folder = tmp_path / f"{concurrency}"
        result = run(folder, service, concurrency=concurrency)
        assert service.most <= concurrency
        results.append((result, digests(folder), sorted(service.asked)))
    assert results[0] == results[1]
    (outcomes, counts, reasons), files, asked = results[0]
    assert counts.done == 8
    assert counts.rejected == sum(reasons.values()) == len(outcomes) - 8 > 0
    assert all("no s2c with cloud < 10 % on date" in reason for reason in reasons)
    assert len({path.split("/")[1] for path in files if path.startswith("s2c")}) == 8
    assert len(asked) == len(set(asked))  # no request is made twice


def test_a_failed_location_is_tried_by_the_next_run_and_the_result_is_the_same(tmp_path, caplog):
    run(tmp_path / "straight", Images(clear=0.3))
    expected = digests(tmp_path / "straight")
    service, failed = Images(clear=0.3, failing=0.05), []
    for _ in range(30):
        with caplog.at_level(logging.WARNING):
            outcomes, counts, _ = run(tmp_path / "failing", service)
        failed += [i for i, status in outcomes if status == "failed"]
        if counts.done == 8:
            break
    assert len(failed) >= 2
    assert "location 00000" in caplog.text
    assert "the images answer 503" in caplog.text
    assert digests(tmp_path / "failing") == expected


def test_a_dead_service_ends_the_run_with_its_message(tmp_path):
    with pytest.raises(ServiceError, match=r"5 locations failed in a row; the last: the images an"):
        run(tmp_path, Images(failing=1.0), failures_in_a_row=5, wanted=20)
    assert not digests(tmp_path)


def test_what_cannot_be_kept_ends_the_run(tmp_path):
    class Full(Tree):
        def write(self, *_, **__):
            raise StorageError("the disk is full")

    with pytest.raises(StorageError, match="the disk is full"):
        run(tmp_path, Images(), sink=Full(tmp_path, products=PRODUCTS))


def test_ctrl_c_ends_it_at_once_and_the_rest_is_done_later(tmp_path):
    run(tmp_path / "straight", Images(clear=0.3))
    service = Images(clear=0.3)

    def interrupt(outcome):
        if outcome.status == "done":
            _thread.interrupt_main()

    rounds = 0
    while True:
        before = set(service.asked)
        try:
            _, counts, _ = run(tmp_path / "stopped", service, on_outcome=interrupt)
        except KeyboardInterrupt:
            rounds += 1
            assert set(service.asked) > before
        else:
            break
    assert rounds >= 2
    assert counts.done == 8
    assert digests(tmp_path / "stopped").keys() == digests(tmp_path / "straight").keys()


def test_requests_that_hang_do_not_hold_it_up(tmp_path):
    hanging = threading.Event()

    class Hangs(Images):
        def pixels(self, scene, box):
            hanging.wait()
            return super().pixels(scene, box)

    timer = threading.Timer(0.5, _thread.interrupt_main)
    timer.start()
    state = State(tmp_path / "collect.sqlite", places=PLACES, settings={}, wanted=8)
    with pytest.raises(KeyboardInterrupt):
        crawl(
            Hangs(clear=1.0), Tree(tmp_path, products=PRODUCTS), request=request(), state=state,
            concurrency=3,
        )  # fmt: skip
    other = State(tmp_path / "collect.sqlite", places=PLACES, settings={}, wanted=8)
    assert other.counts().claimed == 3  # what may still end in this process is no one else's
    other.close()
    before = {thread for thread in threading.enumerate() if thread.daemon}
    hanging.set()
    for thread in before:
        thread.join(timeout=10)
    state.close()
    assert not digests(tmp_path)


@pytest.mark.parametrize("missing", ["next", "reject", "record"])
def test_missing_pixels_are_dealt_with_as_asked(missing):
    service = Images(clear=0.8, whole=0.5)
    results = [fetch(place, service, request=request(missing=missing)) for place in PLACES]
    rejected = [each.reason for each in results if isinstance(each, Rejection)]
    taken = [
        t for each in results if not isinstance(each, Rejection) for d in each.values() for t in d
    ]
    holes = sum(each.pixels.missing for each in taken)
    if missing == "record":
        assert not rejected
        assert holes > 20
    else:
        assert holes == 0
    if missing == "reject":
        assert len(rejected) > 20
        assert all(reason.startswith("missing pixels in s") for reason in rejected)
    if missing == "next":
        assert len(rejected) < 10
        assert all(
            reason.endswith("without missing pixels on date 1")
            or reason.endswith("without missing pixels on date 2")
            for reason in rejected
        )
        assert len(service.asked) == len(set(service.asked))


def test_the_year_before_is_searched_only_for_the_dates_that_need_it():
    class Sparse(Images):
        def scenes(self, product, *, lon, lat, windows):
            found = super().scenes(product, lon=lon, lat=lat, windows=windows)
            return [each for each in found if (each.time.year, each.time.month) != (2021, 9)
                    and (each.time.year, each.time.month) != (2021, 10)]  # fmt: skip

    service = Sparse(clear=1.0)
    made = fetch(PLACES[0], service, request=request())
    assert [each.scene.time.year for each in made["s1"]] == [2021, 2020]
    assert [each.scene.time.year for each in made["s2c"]] == [2021, 2020]
    searches = [(what[1], len(what[4:])) for what in service.asked if what[0] == "scenes"]
    assert searches == [("s1", 2), ("s2c", 2), ("s1", 1), ("s2c", 1)]
    assert sum(what[0] == "pixels" for what in service.asked) == 4
