"""Parts of HTML: text never becomes an element, an attribute or a style."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.presentation import html

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' style='background:url(//x)",
    "</pre></details></table><h1>",
    "<!-- ",
    "]]> &amp; &lt;b&gt; &#60;",
    "\x00\x1b[31m\x7f\r",
]

TEXTS = st.text() | st.lists(
    st.sampled_from(["<", ">", '"', "'", "&", "script", "</pre>", "\n", "\r", "\x00", "a"])
).map("".join)


def shown(text):
    """Return a text as a reader sees it: control characters are pictures."""
    return "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\t\n" else "␡" if c == "\x7f" else c for c in text)


@given(TEXTS, st.none() | st.floats(0, 1), TEXTS)
def test_a_token_is_one_element_and_its_text(read_html, text, probability, title):
    """Whatever the text and the title are, one span follows, its title and its text are these, and nothing else."""
    read = read_html(html.text_block(html.token_span(text, probability, title)))
    assert [name for name in read.names if name != "span"] == ["pre"]
    assert read.names.count("span") == 1 + text.count("\n")
    assert read.attributes[1]["title"] == shown(title)
    assert set(read.attributes[1]) <= {"style", "title"}
    assert read.text == shown(text)


@given(TEXTS)
def test_every_part_keeps_text_apart(read_html, text):
    """Paragraphs, headings, tables, details and pages have the elements that they have with harmless text."""

    def parts(text):
        table = html.table([text], [[html.escaped(text)]])
        return html.page(text, [html.paragraph(text), html.heading(text), html.details(text, table), html.legend()])

    read, harmless = read_html(parts(text)), read_html(parts("a"))
    assert (read.names, read.attributes) == (harmless.names, harmless.attributes)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts(read_html, text):
    """Scripts, attributes, closing tags, comments and entities are text."""
    read = read_html(html.text_block(html.token_span(text, 0.5, text)))
    assert (read.names, read.text) == (["pre", "span"], shown(text))


def test_a_page_can_load_and_run_nothing(read_html):
    """Its policy allows styles within the page alone, and no element names a resource."""
    read = read_html(html.page("title", [html.legend()]))
    policies = [one["content"] for one in read.attributes if one.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert not {"script", "link", "img", "iframe"} & set(read.names)
    assert not any(name in one for one in read.attributes for name in ("src", "href"))


def test_a_long_cell_says_how_much_it_leaves_out():
    """The number of characters that are not shown stands in the cell; a short one is whole."""
    assert html.shortened("a" * 60) == "a" * 60
    assert html.shortened("a" * 75) == "a" * 60 + "... (15 more)"
