"""A report as a value: a title, a verdict, figures and tables; rendered for screen and browser."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Sequence
from typing import Any

#: Dots per inch of a page's pictures.
DPI = 150


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under a heading.

    Attributes
    ----------
    title
        One line.
    columns
        Column names.
    rows
        Cells, as text.
    note
        What a reader must know to read it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure with its caption.

    Attributes
    ----------
    title, caption
        Text.
    png
        The picture's bytes.
    """

    title: str
    caption: str
    png: bytes


@dataclasses.dataclass(frozen=True)
class Page:
    """What a run has to say.

    Attributes
    ----------
    title
        One line.
    lead
        Paragraphs: what was asked, and the answer.
    parts
        Tables and pictures in reading order.
    footer
        How it was made.
    """

    title: str
    lead: Sequence[str]
    parts: Sequence[Table | Picture]
    footer: Sequence[str]

    def to_html(self) -> str:
        """One page that stands alone: style and pictures are inside."""
        return _DOCUMENT.format(
            title=html.escape(self.title), style=_PAGE_STYLE, body=self.to_fragment()
        )

    def to_fragment(self) -> str:
        """The same to stand in another page, such as a notebook, whose looks it leaves alone."""
        body = [f"<style>{STYLE}</style>", f"<h1>{html.escape(self.title)}</h1>"]
        body += [f"<p class=lead>{html.escape(text)}</p>" for text in self.lead]
        for part in self.parts:
            body.append(_table_html(part) if isinstance(part, Table) else _picture_html(part))
        body.append("<footer>")
        body += [f"<p>{html.escape(text)}</p>" for text in self.footer]
        body.append("</footer>")
        return "<div class=landscape>{}</div>".format("\n".join(body))

    def to_markdown(self, pictures: str, level: int = 1) -> tuple[str, dict[str, bytes]]:
        """Text in Markdown, and the pictures that it shows, by name.

        Parameters
        ----------
        pictures
            What the pictures' names begin with, such as ``"results/fig3"``.
        level
            Of the title's heading.

        Returns
        -------
        The text, and PNG bytes for each file that it names.
        """
        mark = "#" * level
        files: dict[str, bytes] = {}
        lines = [f"{mark} {self.title}", *self.lead]
        for part in self.parts:
            lines.append(f"{mark}# {part.title}")
            if isinstance(part, Table):
                lines += [_table_markdown(part), *([part.note] if part.note else [])]
            else:
                name = f"{pictures}-{len(files) + 1}.png"
                files[name] = part.png
                lines += [f"![{part.title}]({name})", part.caption]
        lines += [f"*{text}*" for text in self.footer]
        return "\n\n".join(lines) + "\n", files

    def show(self, console: Any) -> None:
        """Print title, lead and tables to a ``rich`` console."""
        from rich.markup import escape
        from rich.table import Table as RichTable

        console.rule(f"[bold]{escape(self.title)}")
        for text in self.lead:
            console.print(escape(text))
        for part in self.parts:
            if isinstance(part, Picture):
                continue
            table = RichTable(title=escape(part.title), caption=escape(part.note) or None)
            for column in part.columns:
                table.add_column(escape(column), overflow="fold")
            for row in part.rows:
                table.add_row(*[escape(cell) for cell in row])
            console.print(table)


def _table_html(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    note = f"<p class=note>{html.escape(table.note)}</p>" if table.note else ""
    return (
        f"<section><h2>{html.escape(table.title)}</h2><div class=scroll><table><thead><tr>{head}"
        f"</tr></thead><tbody>\n{rows}\n</tbody></table></div>{note}</section>"
    )


def _table_markdown(table: Table) -> str:
    def row(cells: Sequence[str]) -> str:
        # A bar would end the cell.
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "---|" * len(table.columns)
    return "\n".join([row(table.columns), rule, *(row(cells) for cells in table.rows)])


def _picture_html(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    # Letters of one size, whatever the figure's: 96 of a browser's pixels are an inch.
    width = round(96 * _pixels(picture.png) / DPI)
    return (
        f"<section><h2>{html.escape(picture.title)}</h2><figure>"
        f'<img alt="{html.escape(picture.title, quote=True)}" width={width} '
        f'src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure></section>"
    )


def _pixels(png: bytes) -> int:
    """Width of a PNG: after 8 bytes of signature and 8 of the first chunk's head."""
    return int.from_bytes(png[16:20])


# Of whatever stands in a ``div`` of this class; colours are those around it, also dark ones.
STYLE = """
.landscape { font: 16px/1.5 system-ui, sans-serif; }
.landscape h1 { font-size: 1.6rem; line-height: 1.25; }
.landscape h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.landscape .lead { font-size: 1.05rem; }
.landscape .note, .landscape figcaption, .landscape footer { opacity: .75; font-size: .9rem; }
.landscape .scroll { overflow-x: auto; }
.landscape table { border-collapse: collapse; font-size: .92rem; }
.landscape th, .landscape td { text-align: left; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid #8886; vertical-align: top; font-variant-numeric: tabular-nums; }
.landscape th { border-bottom: 2px solid #888; }
.landscape td:first-child { min-width: 7rem; }
.landscape figure { margin: 0; overflow-x: auto; }
.landscape img { max-width: max(100%, 40rem); height: auto; }
.landscape footer { margin-top: 3rem; border-top: 1px solid #8886; }
"""

_PAGE_STYLE = """
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff; }
"""

_DOCUMENT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body></html>
"""
