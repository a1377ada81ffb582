"""The page stands alone: parsed as a browser would, it loads nothing that is not there."""

import base64
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from keyhole.reporting import report
from keyhole.reporting.columns import TABLES
from keyhole.reporting.runs import frame
from keyhole.reporting.tables import tabulate
from keyhole.scoring.flags import FLAGS

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """What a page loads, which elements it opens without closing, and its text."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.open, self.words, self.tags, self.ids = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href") and not value.startswith("#")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def rendered(tmp_path):
    """What a run leaves for its report."""
    rows = []
    for attack, seed in (("none", 0), ("badnets", 0), ("badnets", 1)):
        place = {"dataset": "digits", "model": "convnet", "attack": attack, "poison_rate": 0.01, "seed": seed}
        start = {
            **place,
            "told": "",
            "flags": [],
            "cpu_seconds": 1800.0,
            "commit": "abc1234",
            "hardware": "a processor",
        }
        rows.append({**start, "role": "attack", "defense": "none", "CA": 0.9, "ASR": 0.99, "RA": 0.01})
        failed = {"status": "failed", "reason": "ValueError: <b>not & bold</b>"}
        rows.append({**start, "role": "detector", "defense": "scan", "AUROC": None, **failed})
    tabulate(frame(rows), [("sig", "too few rows")]).write(tmp_path)
    return json.loads((tmp_path / "rendered.json").read_text())


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "seed=0" / "preview.png"
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)).save(path)
    return path


def test_the_page_needs_no_other_file(rendered, picture, tmp_path):
    target = tmp_path / "report.html"
    report.write(target, rendered, "seeds: [0, 1]", [picture], {"digits, badnets": [picture, picture]})
    page = Page(target.read_text())
    assert page.open == []
    assert page.tags.count("img") == 3
    assert len(page.loads) == 3
    for source in page.loads:
        head, _, data = source.partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == picture.read_bytes()
    assert page.tags.count("script") == 0
    assert "http" not in target.read_text()


def test_many_pictures_are_linked(rendered, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MOST_BYTES", 10)
    report.write(tmp_path / "report.html", rendered, "", [], {"digits, badnets": [picture]})
    assert Page((tmp_path / "report.html").read_text()).loads == ["seed=0/preview.png"]


def test_all_parts_are_on_the_page(rendered, tmp_path):
    report.write(tmp_path / "report.html", rendered, "seeds: [0, 1]")
    page = Page((tmp_path / "report.html").read_text())
    assert {"overview", *TABLES, "figures", "pictures", "flags", "grid", "provenance"} <= set(page.ids)
    text = " ".join(page.words)
    for words in ("seeds: [0, 1]", "Skipped, too few rows: sig.", "abc1234", "a processor", "3 h 0 min", *FLAGS):
        assert words in text
    assert "Exclusion flow: 3 victims (1 of them clean), 0 fail the validity gate, 3 judged." in text


def test_what_a_method_says_is_not_taken_for_markup(rendered, tmp_path):
    report.write(tmp_path / "report.html", rendered, "a: <script>")
    page = Page((tmp_path / "report.html").read_text())
    assert "b" not in page.tags
    assert "script" not in page.tags
    assert "<b>not & bold</b>" in "".join(page.words)
