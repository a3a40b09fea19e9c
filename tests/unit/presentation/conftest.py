"""A reader of HTML: the elements, their attributes, and the text of blocks."""

from html.parser import HTMLParser

import pytest

VOID = {"meta"}


class Reader(HTMLParser):
    """Collects start tags, and the text without elements that are hidden from screen readers.

    names: of all elements, in order. attributes: one mapping per element. blocks: texts of the <pre> elements.
    """

    def __init__(self, source):
        super().__init__()
        self.names, self.attributes, self.blocks = [], [], []
        self._open = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        """Note an element."""
        self.names.append(tag)
        self.attributes.append(dict(attrs))
        if tag not in VOID:
            self._open.append((tag, "aria-hidden" in dict(attrs)))
        if tag == "pre":
            self.blocks.append("")

    def handle_endtag(self, tag):
        """Close the innermost element, which must have that name."""
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        """Collect the text of a block."""
        if any(tag == "pre" for tag, _ in self._open) and not any(is_hidden for _, is_hidden in self._open):
            self.blocks[-1] += data

    @property
    def text(self):
        """The text of the first block; a parser of HTML drops the first line end."""
        return self.blocks[0].removeprefix("\n")


@pytest.fixture(scope="session")
def read_html():
    """Return a function that reads HTML, and fails unless all elements are closed in order."""
    return Reader
