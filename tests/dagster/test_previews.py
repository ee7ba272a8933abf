"""Previews are Markdown that Dagster renders: whatever stands in a table is text there."""

import polars as pl
import pytest
from markdown_it import MarkdownIt

from qbawa_assets.metadata import preview

HOSTILE = [
    "![](http://127.0.0.1/1)", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "</td></table><script>a()</script>",
    "a | b\n\n![](http://127.0.0.1/2)", "\\![](http://127.0.0.1/3)", "`x` ``![](y)``", "<svg onload=a()>", "&lt;img src=x&gt;",
    "[r]: http://127.0.0.1/4", "![][r]", "<http://127.0.0.1/5>", "**b** __c__ ~~d~~ # e", "x\u202e\x1b[31m",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_shown_as_it_stands(text: str) -> None:
    markdown = preview(pl.DataFrame({"a": [text, "last"], "b": [1, 2]})).value
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    tags = {part.split(">")[0].strip("/").split(" ")[0] for part in html.split("<")[1:]}
    assert tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert html.count("<tr>") == 3 and html.count("<td>") == 4
