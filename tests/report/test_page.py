import base64
import html
import io
from html.parser import HTMLParser

import pytest
from rich.console import Console

from landscape.report import Page, Picture, Table

PNG = b"\x89PNG\r\n\x1a\nnot really"
NASTY = '<script>alert("5 & 6 > 3")</script>'


def page(**changes):
    parts = {
        "title": "Depth & width",
        "lead": ["What was asked.", "What came out: λ ≤ 10⁻³."],
        "parts": [
            Table(
                "Claims", ("claim", "verdict"), [("a > b", "holds"), ("b > c", "fails")], "Read."
            ),
            Picture("Curves", "A caption.", PNG),
            Table("Training", ("net",), [("plain",)]),
        ],
        "footer": ["Made by hand."],
    }
    return Page(**{**parts, **changes})


class Reader(HTMLParser):
    """Tags in order, references, texts, and whether every element is closed."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.texts, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def shown(page, **options):
    console = Console(file=io.StringIO(), **{"width": 120, **options})
    page.show(console)
    return console.file.getvalue()


def test_the_html_holds_every_text_table_and_picture_in_order():
    text = page().to_html()
    plain = html.unescape(text)
    wanted = [
        "Depth & width", "What was asked.", "λ ≤ 10⁻³", "Claims", "claim", "verdict", "a > b",
        "holds", "b > c", "fails", "Read.", "Curves", "A caption.", "Training", "plain",
        "Made by hand.",
    ]  # fmt: skip
    body = plain[plain.index("<body>") :]
    places = [body.index(words) for words in wanted]
    assert places == sorted(places)
    assert Reader(text).tags.count("table") == 2
    assert Reader(text).tags.count("tr") == 5


def test_the_html_is_well_formed_and_declares_its_encoding():
    text = page().to_html()
    assert text.startswith("<!doctype html>")
    assert '<meta charset="utf-8">' in text
    assert Reader(text).open == []
    assert text.encode()


def test_the_html_stands_alone():
    text = page().to_html()
    reader = Reader(text)
    assert not {"script", "iframe"} & set(reader.tags)
    assert "url(" not in text
    # An icon of nothing, without which a browser asks the page's host for one.
    icon, picture = reader.references
    assert icon == "data:,"
    kind, _, data = picture.partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == PNG


@pytest.mark.parametrize(
    "changes",
    [
        {"title": NASTY},
        {"lead": [NASTY]},
        {"footer": [NASTY]},
        {"parts": [Table(NASTY, ("a",), [("b",)])]},
        {"parts": [Table("t", (NASTY,), [("b",)])]},
        {"parts": [Table("t", ("a",), [(NASTY,)])]},
        {"parts": [Table("t", ("a",), [("b",)], NASTY)]},
        {"parts": [Picture(NASTY, "caption", PNG)]},
        {"parts": [Picture("title", NASTY, PNG)]},
    ],
)
def test_no_text_becomes_markup(changes):
    reader = Reader(page(**changes).to_html())
    assert "script" not in reader.tags
    assert reader.open == []
    assert NASTY in "".join(reader.texts)


def test_a_quote_in_a_title_stays_inside_the_alternative_text():
    text = page(parts=[Picture('say "x" onload="y', "caption", PNG)]).to_html()
    assert 'onload="y' not in text


def test_braces_are_text():
    assert "{title} {0}" in page(lead=["{title} {0}"]).to_html()


def test_a_table_without_a_note_has_none():
    table = Table("Training", ("net",), [("plain",)])
    assert "class=note" not in page(parts=[table]).to_html()


def test_a_page_without_parts_is_still_a_page():
    text = page(parts=[], lead=[], footer=[]).to_html()
    assert Reader(text).open == []
    assert "Depth &amp; width" in text


@pytest.mark.parametrize("width", [60, 120])
def test_the_terminal_shows_title_lead_and_every_table(width):
    text = shown(page(), width=width)
    for words in ("Depth & width", "What was asked.", "Claims", "a > b", "fails", "Read.", "plain"):
        assert words in text
    assert "A caption." not in text


def test_brackets_are_text_in_the_terminal():
    table = Table("[t]", ("[c]",), [("[-1.00, +2.00]",), ("[bold]x[/bold]",)], "[n]")
    text = shown(page(title="[red]title", lead=["[/] lead"], parts=[table]))
    for words in (
        "[red]title", "[/] lead", "[t]", "[c]", "[-1.00, +2.00]", "[bold]x[/bold]", "[n]",
    ):  # fmt: skip
        assert words in text


def test_long_cells_are_folded_not_cut_in_a_narrow_terminal():
    table = Table("t", ("claim", "verdict"), [("word " * 20, "unmistakable")])
    text = shown(page(parts=[table]), width=40)
    assert text.count("word") == 20
    assert "…" not in text
