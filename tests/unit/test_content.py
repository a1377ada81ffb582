"""What moves the digest of the user's files and what does not."""

import os
from pathlib import Path

import pytest

from keyhole.planning import content
from keyhole.planning.content import Contents


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / ".snakemake" / "keyhole" / "contents.json"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of images in class folders."""
    for name in ("cat/1.png", "cat/2.png", "dog/deep/1.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(name)
    return tmp_path / "data"


@pytest.fixture
def digest(memory):
    """The digest that a new process gets."""
    return lambda *paths: Contents(memory).digest(map(str, paths))


@pytest.mark.parametrize("name", ["cat/1.png", ""])
def test_a_touch_and_an_equal_copy_change_nothing(digest, data, name):
    path = data / name
    before = digest(path)
    for file in data.rglob("*"):
        os.utime(file, (1, 1))
    assert digest(path) == before
    data.rename(data.with_name("old"))
    for file in data.with_name("old").rglob("*.png"):
        target = data / file.relative_to(data.with_name("old"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    assert digest(path) == before


def test_the_place_does_not_count(digest, data):
    before = digest(data)
    assert digest(data.rename(data.with_name("elsewhere"))) == before


@pytest.mark.parametrize("name", ["cat/1.png", ""])
def test_a_file_repaired_in_place_is_seen_though_size_and_time_are_kept(digest, data, name):
    before = digest(data / name)
    file, times = data / "cat/1.png", (data / "cat/1.png").stat()
    file.write_text(file.read_text()[::-1])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digest(data / name) != before


def test_in_a_folder_names_count_and_hidden_files_do_not(digest, data):
    seen = {digest(data)}
    (data / ".DS_Store").write_text("of a file manager")
    assert digest(data) in seen
    (data / "cat/3.png").write_text("new")
    seen.add(digest(data))
    (data / "cat/3.png").rename(data / "dog/3.png")
    seen.add(digest(data))
    (data / "dog/3.png").rename(data / "dog/4.png")
    seen.add(digest(data))
    assert len(seen) == 4


def test_what_is_gone_counts_as_it_was_when_last_seen(digest, data):
    file, never_seen = data / "cat/1.png", digest(data / "none.png")
    before = digest(file), digest(data)
    data.rename(data.with_name("archive"))
    assert (digest(file), digest(data)) == before
    assert digest(data / "cat") == never_seen


def test_contents_are_read_once(digest, data, monkeypatch):
    before, read = digest(data), []
    monkeypatch.setattr(content, "_file_hash", lambda path: read.append(path) or "")
    assert digest(data) == before
    assert read == []
    (data / "cat/3.png").write_text("new")
    assert digest(data) != before
    assert len(read) == 4


def test_a_process_keeps_to_what_it_saw(memory, data):
    contents = Contents(memory)
    before = contents.digest([str(data)])
    (data / "cat/3.png").write_text("new")
    assert contents.digest([str(data)]) == before


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"stamp": 1}}', "no JSON"])
def test_a_damaged_memory_is_written_anew(digest, data, memory, text):
    before = digest(data)
    memory.write_text(text)
    assert digest(data) == before
    assert str(data) in memory.read_text()


def test_without_a_memory_digests_are_computed(data, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    digests = {Contents(tmp_path / "file" / "contents.json").digest([str(data)]) for _ in range(2)}
    assert len(digests) == 1


def test_folders_that_hold_themselves_end(digest, data):
    before = digest(data)
    (data / "cat/loop").symlink_to(data)
    (data / "cat/broken").symlink_to(data / "nowhere")
    assert digest(data) == before


def test_two_processes_forget_nothing_of_each_other(memory, data):
    first, second = Contents(memory), Contents(memory)
    first.digest([str(data / "cat")])
    second.digest([str(data / "dog")])
    assert str(data / "cat") in memory.read_text()
    assert str(data / "dog") in memory.read_text()
