"""Results are judged by their records, whatever the times of files; one run at a time writes to a folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keyhole.planning.locks import Held, hold
from keyhole.planning.records import PAST, Record, digest, long_ago, settle

PARAMS = {"a": {"x": 1}, "b": {"x": 2}}


@pytest.fixture
def results(tmp_path):
    """Job `a` made a.txt; job `b` made b.txt of it."""
    folder = tmp_path / "results"
    for rule, inputs, started in (("a", [], 100), ("b", ["../one/a.txt"], 300)):
        place = folder / ("one" if rule == "a" else "two")
        place.mkdir(parents=True)
        (place / f"{rule}.txt").write_text(rule)
        record(place, rule, started, inputs)
    return folder


def record(place, rule, started, inputs):
    asked = digest(rule, PARAMS[rule])
    Record(rule, {"seed": "0"}, asked, started, started + 50, inputs, [f"{rule}.txt"]).write(place / f"{rule}.log")


def expected(rule, _cell):
    return digest(rule, PARAMS[rule]) if rule in PARAMS else None


def times(results):
    return [(results / name).stat().st_mtime_ns for name in ("one/a.txt", "two/b.txt")]


def test_what_is_up_to_date_gets_the_time_at_which_it_was_made(results, tmp_path):
    assert settle(results, expected) == []
    assert times(results) == [150, 350]
    shutil.copytree(results, tmp_path / "copy", copy_function=shutil.copy)
    assert settle(tmp_path / "copy", expected) == []
    assert times(tmp_path / "copy") == [150, 350]


def test_what_was_made_with_other_params_is_older_than_anything(results, monkeypatch):
    monkeypatch.setitem(PARAMS, "b", {"x": 3})
    assert settle(results, expected) == [str(results / "two/b.txt")]
    assert times(results) == [150, PAST]
    monkeypatch.undo()
    assert settle(results, expected) == []
    assert times(results) == [150, 350]


def test_what_was_made_before_its_input_was_made_again_is_outdated(results):
    record(results / "one", "a", 500, [])
    assert settle(results, expected) == [str(results / "two/b.txt")]
    record(results / "two", "b", 600, ["../one/a.txt"])
    assert settle(results, expected) == []


def test_places_do_not_count():
    assert digest("a", {"x": 1, "data_dir": "here"}) == digest("a", {"x": 1, "data_dir": "there"})
    assert digest("a", {"x": 1}) != digest("b", {"x": 1})
    assert digest("a", {"x": 1, "y": 2}) == digest("a", {"y": 2, "x": 1})


def test_jobs_of_other_grids_broken_records_and_deleted_files_are_left_alone(results, monkeypatch):
    before = times(results)
    monkeypatch.delitem(PARAMS, "a")
    (results / "two/.b.made").write_text("{")
    assert settle(results, expected) == []
    assert times(results) == before
    (results / "one/a.txt").unlink()
    monkeypatch.undo()
    assert settle(results, expected) == []


def test_long_ago_is_between(tmp_path):
    assert PAST < Path(long_ago(tmp_path / "m/long_ago")).stat().st_mtime_ns < 10**10


def test_a_second_run_in_a_folder_is_refused_and_told_who_has_it(tmp_path):
    hold(tmp_path / "results")
    code = (
        f"from pathlib import Path; from keyhole.planning.locks import hold; hold(Path({str(tmp_path)!r}, 'results'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"process {os.getpid()} of " in done.stderr
    with pytest.raises(Held, match="choose another folder"):
        hold(tmp_path / "results")
