"""What a page is made of, read by Python's own parser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "hr", "input", "link", "wbr"}


class Outline(HTMLParser):
    """Checks nesting, and collects identifiers, references, headings and the text that is seen."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.targets, self.attributes, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        self.targets += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


def require_whole(text: str) -> Outline:
    """A page that is well-formed, refers to itself alone and names its pictures."""
    outline = Outline(text)
    assert len(set(outline.ids)) == len(outline.ids)
    assert {target.removeprefix("#") for target in outline.targets} <= set(outline.ids)
    assert all(target.startswith("#") for target in outline.targets)
    named = re.findall(r"url\(#([^)]*)\)", text)
    assert set(named) <= set(outline.ids)
    assert not re.search(
        r"https?:|//|<script|@import|<link|<img", re.sub(r"<code>.*?</code>", "", text)
    )
    labelled = [value for _, key, value in outline.attributes if key == "aria-labelledby"]
    assert set(labelled) <= set(outline.ids)
    roles = sum(a == ("svg", "role", "img") for a in outline.attributes)
    assert roles == text.count("<svg")
    return outline
