import json
import os
import stat

import pytest
import torch

from keyhole import artifacts
from keyhole.types import Poisoned, Suspicion


def test_a_record_comes_back_with_its_facts(tmp_path):
    path = tmp_path / "deep" / "suspicion.safetensors"
    record = Suspicion(torch.tensor([0.5, 2.0]), torch.tensor([False, True]))
    artifacts.save(path, record, {"status": "ok", "seconds": 1.5})
    back = artifacts.load(path, Suspicion)
    assert torch.equal(back.scores, record.scores)
    assert torch.equal(back.flagged, record.flagged)
    assert artifacts.facts(path) == {"status": "ok", "seconds": 1.5}
    assert artifacts.load_arrays(path, "flagged")["flagged"].tolist() == [False, True]


def test_an_empty_record_keeps_its_shapes(tmp_path):
    nothing = Poisoned(
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 3, 4, 5, dtype=torch.uint8),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.bool),
    )
    artifacts.save(tmp_path / "p.safetensors", nothing)
    assert artifacts.load(tmp_path / "p.safetensors", Poisoned).images.shape == (0, 3, 4, 5)


def test_rows_of_another_file_are_read_like_a_file_of_their_own(tmp_path):
    whole, part = tmp_path / "old" / "train.safetensors", tmp_path / "old" / "seed=0" / "train.safetensors"
    images = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2)
    artifacts.save(whole, {"images": images, "labels": torch.arange(6)}, {"classes": 6})
    artifacts.save_rows(part, whole, torch.tensor([1, 4, 5]))
    (tmp_path / "old").rename(tmp_path / "new")  # a folder of results that was moved
    part = tmp_path / "new" / "seed=0" / "train.safetensors"
    assert torch.equal(artifacts.load_tensors(part)["images"], images[[1, 4, 5]])
    assert {name: x.tolist() for name, x in artifacts.load_arrays(part, "labels").items()} == {"labels": [1, 4, 5]}
    assert artifacts.facts(part) == {"classes": 6}
    assert not [name for name in artifacts.load_tensors(part) if name == "rows"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "card.json"
    artifacts.save_cards(path, [{"CA": 0.9}])

    def killed():
        with artifacts.atomic(path) as part:
            part.write_text("half a ca")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        killed()
    assert artifacts.load_cards(path) == [{"CA": 0.9}]
    assert os.listdir(tmp_path) == ["card.json"]


def test_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        artifacts.save_cards(tmp_path / "card.json", [])
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "card.json").stat().st_mode) == 0o640


def test_no_pickle_is_read(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(Exception, match=r"(?i)header|deserializ"):
        artifacts.load_tensors(tmp_path / "model.safetensors")


def test_what_is_not_a_number_is_null(tmp_path):
    artifacts.save_cards(tmp_path / "cards.json", [{"ASR": float("nan"), "CA": 1.0}])
    assert artifacts.load_cards(tmp_path / "cards.json") == [{"ASR": None, "CA": 1.0}]


def test_a_card_is_plain_json(tmp_path):
    artifacts.save_cards(tmp_path / "card.json", [{"attack": "none", "flags": ["x"]}])
    assert json.loads((tmp_path / "card.json").read_text()) == [{"attack": "none", "flags": ["x"]}]
