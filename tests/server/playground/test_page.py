"""The playground in a real browser: type, stream, look at tokens, replay; by pointer, keyboard, and on a phone."""

from __future__ import annotations

import re

import pytest

from decoding.params import PARAMETERS

HTML = """<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>&lt;b&gt;"""


def fill(page, **parameters):
    """Set parameters by their controls, in groups that are opened for it."""
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    for name, value in parameters.items():
        page.locator(f"#p-{name}").fill(str(value))


def generate(page, prompt="def f(", **parameters):
    """Run a completion to its end."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    fill(page, **{"max_tokens": 12, "seed": 7, **parameters})
    page.get_by_role("button", name="Generate").click()
    page.locator("#status.good").wait_for()


def tokens(page):
    """The tokens of all choices; drop-down lists have options, too."""
    return page.locator("[role=option]")


def texts(page):
    """The text of each choice as it is shown, with the prompt, without the signs for new lines."""
    script = """() => [...document.querySelectorAll('.choice .text')].map(one => {
        const copy = one.cloneNode(true);
        copy.querySelectorAll('.return').forEach(sign => sign.remove());
        return copy.textContent;
    })"""
    return page.evaluate(script)


def test_a_completion_streams_into_coloured_tokens(page, server):
    """The tokens are those of the API for this request, and each has the colour and the number of its probability."""
    generate(page, n=1, temperature=0.8, top_p=0.95)
    body = {"seed": 7, "max_tokens": 12, "temperature": 0.8, "top_p": 0.95, "logprobs": 5}
    (choice,) = server.complete(prompt="def f(", **body).json["choices"]
    assert texts(page) == ["def f(" + choice["text"]]
    options = tokens(page)
    assert options.count() == 12
    for index, logprob in enumerate(choice["logprobs"]["token_logprobs"]):
        p = 2.718281828459045**logprob
        level = sum(p < least for least in (0.9, 0.5, 0.2, 0.05))
        assert f"p{level}" in options.nth(index).get_attribute("class").split()
        assert float(re.search(r"([\d.]+) %$", options.nth(index).get_attribute("aria-label"))[1]) == pytest.approx(
            100 * p, abs=0.06
        )


def test_it_shows_tokens_before_the_end(visit, serve_script):
    """A model that takes its time is seen at work; Stop ends it, and what came stays."""
    page = visit(serve_script("paced"))
    page.get_by_label("Prompt", exact=True).fill("a")
    fill(page, max_tokens=2000)
    page.get_by_role("button", name="Generate").click()
    tokens(page).nth(3).wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped after").wait_for()
    assert 3 < tokens(page).count() < 2000
    assert page.get_by_role("button", name="Replay").is_disabled()


def test_a_token_under_the_pointer(page):
    """Alternatives with bars and the table of stages; a stage that is chosen shows its own distribution."""
    generate(page, temperature=0.8, top_k=5, top_p=0.9, min_p="")
    tokens(page).nth(4).hover()
    page.locator(".stages").wait_for()
    panel = page.get_by_role("region", name=re.compile("^Token 5"))
    titles = panel.locator(".stages tbody th").all_inner_texts()
    assert titles == ["the model", "temperature=0.8", "top_k=5", "top_p=0.9"]
    assert panel.locator(".bar-row.is-chosen").count() == 1
    assert panel.get_by_text("dropped by top_k=5").count() >= 1
    kept = [row.split("\t")[1] for row in panel.locator(".stages tbody tr").all_inner_texts()]
    assert (kept[0], kept[2]) == ("4,096", "5")
    panel.get_by_label("the model").check()
    assert panel.get_by_role("heading", name="As the model gives them").is_visible()
    assert panel.locator(".bar-row.is-out").count() == 0
    page.keyboard.press("Escape")
    assert page.get_by_text("Point at a token").is_visible()


def test_a_click_holds_a_token(page):
    """After a click, passing over other tokens changes nothing; the close button gives way again."""
    generate(page)
    tokens(page).nth(2).click()
    tokens(page).nth(6).hover()
    page.wait_for_timeout(300)
    assert page.get_by_role("heading", name=re.compile("^Token 3")).is_visible()
    page.get_by_role("button", name="Close").click()
    tokens(page).nth(7).hover()
    page.get_by_role("heading", name=re.compile("^Token 8")).wait_for()


def test_replay(page):
    """The same seed gives the same bytes, also where the first run chose the seed itself."""
    generate(page, n=2, seed="", temperature=1)
    before = texts(page)
    page.get_by_role("button", name="Replay").click()
    verdict = page.get_by_text(re.compile(r"^Replayed with seed \d+: 24 tokens"))
    verdict.wait_for()
    assert verdict.inner_text().endswith("the same bytes.")
    assert texts(page) == before


def test_choices_side_by_side(page):
    """Three choices: three columns in one row, each with tokens of its own that can be explained."""
    generate(page, n=3, temperature=1)
    boxes = [page.get_by_role("article").nth(index).bounding_box() for index in range(3)]
    assert len({box["y"] for box in boxes}) == 1
    assert len({box["x"] for box in boxes}) == 3
    page.get_by_role("listbox", name="Choice 3: tokens").locator("[role=option]").nth(1).click()
    page.locator(".stages").wait_for()
    assert page.get_by_role("heading", name=re.compile("^Choice 3, Token 2")).is_visible()


def test_structured_output_and_stop_strings(page):
    """A list of texts holds the output to one of them; a stop string with an escape ends it."""
    fill(page)
    page.locator("#p-structured").select_option("choice")
    page.get_by_label("structured: its text").fill("yes\nno")
    generate(page, prompt="# ")
    assert texts(page)[0] in ("# yes", "# no")
    page.get_by_role("button", name="Reset structured").click()
    fill(page, stop="\\n")
    generate(page, prompt="import os", max_tokens=200)
    assert page.get_by_text('stop: "\\n"').is_visible()
    assert "\n" not in texts(page)[0]


def test_html_is_text(page):
    """Markup in prompt and output is shown as it stands: nothing of it becomes an element, or runs."""
    fill(page)
    page.locator("#p-structured").select_option("choice")
    page.get_by_label("structured: its text").fill(HTML)
    generate(page, prompt=HTML, max_tokens=120)
    assert texts(page) == [HTML + HTML]
    tokens(page).first.click()
    page.locator(".stages").wait_for()
    assert page.locator("main img, main script, main b:not(.facts b)").count() == 0
    assert page.title() == "decoding: playground"


def test_the_server_s_message_stands_at_its_control(page):
    """A value that the server refuses is told beside the control that it names, in a group that opens for it."""
    page.get_by_label("Prompt", exact=True).fill("a")
    fill(page, top_p=7)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = false")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("top_p=7: must be a number from 0 to 1").wait_for()
    assert page.evaluate("document.activeElement.id") == "p-top_p"
    assert page.locator("#p-top_p").get_attribute("aria-invalid") == "true"
    fill(page, top_p="", logit_bias="nonsense")
    page.get_by_role("button", name="Generate").click()
    assert page.get_by_text("must have a token id and a number per line").is_visible()
    fill(page, logit_bias="")
    page.get_by_label("Prompt", exact=True).fill("a " * 20_000)
    page.get_by_role("button", name="Generate").click()
    page.locator("#prompt-error", has_text="prompt=").wait_for()


def test_a_server_that_goes_away(visit, serve_script):
    """A stream that breaks off is told as such, and what came stays."""
    server = serve_script("paced")
    page = visit(server)
    fill(page, max_tokens=2000)
    page.get_by_role("button", name="Generate").click()
    tokens(page).nth(3).wait_for()
    server.process.kill()
    page.get_by_text("The server cannot be reached").wait_for()
    assert tokens(page).count() > 3
    assert page.get_by_role("button", name="Generate").is_enabled()


def test_keys(visit, serve, tmp_path):
    """Without the key the page says so and waits in its box; the key lives no longer than the tab."""
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    page = visit(serve(f"--api-key-file={keys}"), is_ready=False)
    page.get_by_text("a valid API key is needed").wait_for()
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type("secret")
    page.keyboard.press("Enter")
    page.get_by_text("Ready.").wait_for()
    generate(page, max_tokens=2)
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_every_parameter_has_a_control(page):
    """The table of parameters, all but echo, whose text is in the prompt's own box; each named, with its help."""
    fill(page)
    for name, row in PARAMETERS.items():
        if name != "echo":
            control = page.locator(f"#p-{name}")
            assert control.count() == 1, name
            words = page.locator(f"#p-{name}-help").inner_text().split()
            assert set(row.sentence.split()[1:3]) <= set(words) or name == "repetition_penalty", name


def test_names_for_a_screen_reader(page):
    """In the browser's own accessibility tree everything that takes the focus has a role and a name."""
    generate(page, n=2)
    tokens(page).nth(2).click()
    page.locator(".stages").wait_for()
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    named = 0
    for node in tree:
        properties = {one["name"]: one["value"].get("value") for one in node.get("properties", [])}
        if properties.get("focusable") and not node["ignored"] and node["role"]["value"] != "RootWebArea":
            assert node["name"]["value"].strip(), node
            named += 1
    assert named > len(PARAMETERS)


def test_by_keyboard_alone(page):
    """From the address to a token's stages and back, with Tab, arrows, Enter and Escape."""
    press, focused = page.keyboard.press, "document.activeElement"

    def tab_to(condition):
        for _ in range(300):
            press("Tab")
            if page.evaluate(condition):
                return
        pytest.fail(condition)

    tab_to(f"{focused}.id === 'prompt'")
    press("Control+A")
    page.keyboard.type("def g(")
    press("Control+Enter")
    page.locator("#status.good").wait_for()
    tab_to(f"{focused}.role === 'option'")
    page.get_by_role("heading", name=re.compile("^Token 1 ")).wait_for()
    for key, number in (("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2), ("Home", 1), ("End", 48)):
        press(key)
        page.get_by_role("heading", name=re.compile(f"^Token {number} ")).wait_for()
    press("ArrowUp")
    assert page.evaluate(f"Number({focused}.dataset.index)") < 47
    page.locator(".stages").wait_for()
    tab_to(f"{focused}.type === 'radio'")
    last = page.locator(".inspector h3").first.inner_text()
    press("ArrowUp")
    assert page.locator(".inspector h3").first.inner_text() != last
    press("Escape")
    assert page.get_by_text("Point at a token").is_visible()
    assert page.evaluate(f"{focused}.role") == "option"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(visit, server, scheme):
    """Text on every colour of the scale has a contrast of at least 4.5 (WCAG 2.2, AA), in light and in dark."""
    page = visit(server, color_scheme=scheme)
    generate(page, n=3, temperature=1.5, max_tokens=40)
    script = """() => {
        const numbers = text => text.match(/[\\d.]+/g).map(Number);
        const light = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        const luminance = ([r, g, b]) => 0.2126 * light(r / 255) + 0.7152 * light(g / 255) + 0.0722 * light(b / 255);
        const texts = '.token, .status, .context, .help, .meta, .given, summary .title';
        return [...document.querySelectorAll(texts)].map(one => {
            let under = one;
            while (numbers(getComputedStyle(under).backgroundColor)[3] === 0) under = under.parentElement;
            const colours = [getComputedStyle(one).color, getComputedStyle(under).backgroundColor];
            const pair = colours.map(colour => luminance(numbers(colour)));
            return [one.className, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)];
        });
    }"""
    ratios = page.evaluate(script)
    assert {name.split()[-1] for name, _ in ratios} >= {"p1", "p2", "p3", "p4"}
    assert min(ratio for _, ratio in ratios) >= 4.5, min(ratios, key=lambda pair: pair[1])


def test_on_a_phone(visit, server):
    """360 pixels wide: nothing has to be scrolled sideways, and a token that is touched stays in sight."""
    page = visit(server, size={"width": 360, "height": 740}, color_scheme="dark", has_touch=True, is_mobile=True)
    generate(page, n=2, max_tokens=30)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    token = tokens(page).nth(5)
    token.tap()
    page.locator(".stages").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    panel = page.locator("#inspector").bounding_box()
    box = token.bounding_box()
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= panel["y"]
