"""The page in a browser: headless Chromium, driven over its own devtools protocol through a pipe."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.report.page import render


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]
# the browser reads commands from file descriptor 3 and writes answers to 4
START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, profile: Path) -> None:
        (to_read, self._write), (self._read, to_write) = (_high_pipe() for _ in range(2))
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        # the process reads where we write
        command = [sys.executable, "-c", START, str(to_read), str(to_write), str(CHROMIUM), *flags, "about:blank"]
        self._process = subprocess.Popen(
            command, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._count, self._buffer = 0, b""
        self.complaints: list[str] = []  # errors and warnings of the console
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, page: Path, *, width: int, dark: bool = False) -> None:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Page.navigate", url=page.as_uri())
        self.evaluate(
            "new Promise(done => { const wait = () => document.documentElement?.dataset.ready ? done() : "
            "setTimeout(wait, 50); wait(); })"
        )

    def press(self, key: str) -> None:
        """Press a key and let go of it; what a button does on Enter needs the text of the key."""
        text = {"Enter": "\r", " ": " "}.get(key)
        fields = {"key": key, "code": "Space" if key == " " else key}
        fields["windowsVirtualKeyCode"] = {"Enter": 13, " ": 32, "Tab": 9, "Escape": 27, "ArrowDown": 40}[key]
        self.call("Input.dispatchKeyEvent", type="keyDown", **fields, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def close(self) -> None:
        self._session = ""
        self.call("Browser.close")
        self._process.wait(timeout=30)
        os.close(self._read)
        os.close(self._write)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "Chromium ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer = json.loads(message)
        parameters = answer.get("params", {})
        if answer.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        if answer.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(parameters["args"]))
        if answer.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(parameters["entry"]["text"])
        return answer


def _high_pipe() -> tuple[int, int]:
    """A pipe whose ends are clear of 3 and 4."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]


@pytest.fixture(scope="module")
def page(grid_folder: Path) -> Path:
    return render(grid_folder)


@pytest.fixture(scope="module")
def prompt_page(prompts_folder: Path) -> Path:
    return render(prompts_folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_the_console_is_silent(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    browser.evaluate("document.querySelectorAll('[data-toggle]').forEach(box => box.click())")
    assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert browser.evaluate("innerWidth") == width
    broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    browser.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    assert browser.evaluate("document.images.length") > 10
    assert browser.evaluate(broken) == 0
    assert (
        browser.evaluate("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length")
        == 0
    )
    assert browser.complaints == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(browser: Browser, page: Path, dark: bool) -> None:
    """Contrast of at least 4.5 (WCAG 2.1 AA) of every text on the solid colour behind it."""
    browser.open(page, width=1280, dark=dark)
    assert browser.evaluate(CONTRAST) == []


def test_sorting(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    order = "[...document.querySelectorAll('.compare tbody th')].map(cell => cell.textContent.trim())"
    given = browser.evaluate(order)
    assert given == ["base (Van Gogh)", "gold (Van Gogh)", "b-hurt", "a-whole", "base (Cats)", "c-cats"]
    browser.evaluate("document.querySelector('[data-sort=ua]').focus()")
    browser.press("Enter")  # by keyboard: the better value first
    values = "[...document.querySelectorAll('.compare tbody tr')].map(row => Number(row.children[3].dataset.value))"
    found = browser.evaluate(values)
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]
    assert browser.evaluate("document.querySelector('[data-sort=ua]').closest('th').ariaSort") == "descending"
    browser.press("Enter")
    assert browser.evaluate(values) == sorted(found)
    browser.evaluate("document.querySelector('[data-sort=label]').click()")
    assert browser.evaluate(order) == sorted(given)
    browser.evaluate("document.querySelector('[data-sort=drift]').click()")  # base has none: it goes last
    assert {name.partition(" ")[0] for name in browser.evaluate(order)[-2:]} == {"base"}
    assert browser.complaints == []


def test_definitions_on_hover_and_on_focus(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    tip = "document.getElementById('tip')"
    assert browser.evaluate(f"{tip}.hidden")
    browser.evaluate("document.querySelector('[data-sort=ira]').focus()")
    assert browser.evaluate(f"{tip}.textContent") == "what ira is, in <words>. Higher is better."
    box = browser.evaluate(f"(box => [box.left, box.right, box.height])({tip}.getBoundingClientRect())")
    assert 0 <= box[0] < box[1] <= 390
    assert box[2] > 10
    browser.press("Escape")
    assert browser.evaluate(f"{tip}.hidden")
    browser.evaluate("document.querySelector('[data-sort=ua]').scrollIntoView({block: 'center'})")
    place = browser.evaluate(
        "(box => [box.left + 5, box.top + 5])(document.querySelector('[data-sort=ua]').getBoundingClientRect())"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    assert browser.evaluate(f"{tip}.textContent") == "what ua is, in <words>. Higher is better."
    assert not browser.evaluate(f"{tip}.hidden")


def test_the_difference_of_any_two_models(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    title = "document.getElementById('difference-title').textContent"
    cell = "document.querySelector('#difference [data-metric=ua] .gap span').textContent"
    assert browser.evaluate(title) == "B \u2212 A: a-whole \u2212 b-hurt"
    assert browser.evaluate(cell) == "+25.0"  # 8 of 8 against 6 of 8
    # the arrow key goes to the next radio button of the same name
    browser.evaluate("document.querySelector('input[name=a]:checked').focus()")
    browser.press("ArrowDown")
    assert browser.evaluate(title) == "B \u2212 A: a-whole \u2212 a-whole"
    assert browser.evaluate(cell) == "\u2013"
    for name, label in (("a", "a-whole"), ("b", "b-hurt")):
        browser.evaluate(
            f"document.querySelector('input[name={name}][aria-label=\"{name.upper()}: {label}\"]').click()"
        )
    assert browser.evaluate(cell) == "-25.0"
    ends = browser.evaluate("document.querySelector('#difference [data-metric=ua] .gap small').textContent")
    lo, hi = map(float, ends.strip("[]").split(", "))
    assert lo < -25 < hi
    browser.evaluate("document.querySelector('input[name=b][aria-label=\"B: c-cats\"]').click()")
    assert "do not pair" in browser.evaluate("document.getElementById('difference-note').textContent")
    visible = "[...document.querySelectorAll('[data-map]')].filter(map => !map.hidden).length"
    assert browser.evaluate(visible) == 2
    assert browser.complaints == []


def test_the_wall_shows_pairs_and_filters_them(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    count = "document.getElementById('count').textContent"
    cards = "[...document.querySelectorAll('.quad h3')].map(head => head.textContent)"

    def choose(name: str, value: str) -> None:
        browser.evaluate(
            f"(field => {{ field.value = '{value}'; field.dispatchEvent(new Event('change', {{bubbles: true}})); }})"
            f"(document.getElementById('filters').elements.{name})"
        )

    assert browser.evaluate(count) == "8 of 8 prompts and seeds shown"  # those that ask for the target
    who = "[...document.querySelector('.quad').querySelectorAll('.who')].map(name => name.textContent)"
    assert browser.evaluate(who) == ["base", "A", "B", "gold"]
    choose("verdict", "leaked")
    assert browser.evaluate(cards) == ["Van Gogh / Catsseed 1", "Van Gogh / Dogsseed 1"]
    assert browser.evaluate(
        "[...document.querySelectorAll('.quad')[0].querySelectorAll('.badge')].map(b => b.textContent)"
    ) == [
        "ok",
        "leaked",
        "ok",
        "ok",
    ]
    choose("part", "other")
    choose("verdict", "changed")
    assert browser.evaluate(cards) == ["Photo / Dogsseed 1", "Sketch / Catsseed 2", "Sketch / Dogsseed 1"]
    choose("verdict", "broken")
    assert browser.evaluate(cards) == ["Sketch / Catsseed 2"]
    choose("verdict", "")
    choose("style", "Photo")
    choose("seed", "3")
    assert browser.evaluate(cards) == ["Photo / Catsseed 3", "Photo / Dogsseed 3"]
    choose("object", "Dogs")
    assert browser.evaluate(cards) == ["Photo / Dogsseed 3"]
    for name in ("style", "seed", "object", "part"):
        choose(name, "")
    assert browser.evaluate(count) == "24 of 36 prompts and seeds shown"
    browser.evaluate("document.getElementById('more').click()")
    assert browser.evaluate(count) == "36 of 36 prompts and seeds shown"
    assert browser.evaluate("document.getElementById('more').hidden")
    browser.evaluate(
        "document.querySelector('#filters [type=reset]').click(); new Promise(done => setTimeout(done, 50))"
    )
    assert browser.evaluate(count) == "8 of 8 prompts and seeds shown"
    assert browser.complaints == []


@pytest.mark.parametrize("width", [1280, 390])
def test_the_wall_of_a_suite_of_prompt_files(browser: Browser, prompt_page: Path, width: int) -> None:
    def choose(name: str, value: str) -> None:
        browser.evaluate(
            f"(field => {{ field.value = '{value}'; field.dispatchEvent(new Event('change', {{bubbles: true}})); }})"
            f"(document.getElementById('filters').elements.{name})"
        )

    browser.open(prompt_page, width=width)
    count = "document.getElementById('count').textContent"
    badges = (
        "[...document.querySelectorAll('.quad')].map(c => [...c.querySelectorAll('.badge')].map(b => b.textContent))"
    )
    assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert browser.evaluate(count) == "6 of 6 prompts and seeds shown"
    assert browser.evaluate(
        "[...document.querySelector('.quad').querySelectorAll('.who')].map(n => n.textContent)"
    ) == [
        "base",
        "A",
        "B",
    ]
    every = browser.evaluate(badges)
    choose("verdict", "changed")
    assert browser.evaluate(badges) == [each for each in every if len(set(each)) > 1] != every
    choose("a", "m1")
    choose("verdict", "differ")
    assert browser.evaluate(count) == "0 of 0 prompts and seeds shown"
    choose("a", "m0")
    choose("verdict", "")
    choose("part", "b_file")
    assert browser.evaluate(count) == "3 of 3 prompts and seeds shown"
    browser.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    assert browser.evaluate("[...document.images].map(image => image.naturalWidth <= 8)") == [True] * 9
    assert browser.evaluate(CONTRAST) == []
    assert browser.complaints == []


def test_numbers_and_differences_of_prompt_files(browser: Browser, prompt_page: Path) -> None:
    browser.open(prompt_page, width=1280)
    gap = "document.querySelector('#difference [data-metric=\"nudity_6@a\"] .gap span').textContent"
    assert browser.evaluate(gap) == "-20.0"
    files = "[...document.querySelectorAll('#difference .file')].map(row => row.textContent)"
    assert browser.evaluate(files) == ["a", "b file"]
    browser.evaluate("document.querySelector('[data-sort=\"clip_score@a\"]').click()")
    order = "[...document.querySelectorAll('table.compare')].map(t => [...t.tBodies[0].rows].map(r => r.dataset.model))"
    assert browser.evaluate(order)[:2] == [["base", "m0", "m1"]] * 2  # the better value first
    browser.evaluate("document.querySelector('[data-sort=\"clip_score@a\"]').click()")
    assert browser.evaluate(order)[:2] == [["base", "m0", "m1"], ["m1", "m0", "base"]]
    # the lists above the images and the radio buttons of the table are one choice
    browser.evaluate("document.querySelector('input[name=a][value=base]').click()")
    assert browser.evaluate("document.getElementById('filters').elements.a.value") == "base"
    assert browser.evaluate(gap) == "-40.0"
    assert browser.complaints == []


CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (color, under) => {
    for (const style of [under, color]) { canvas.fillStyle = style; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (color) => color.reduce((sum, part, i) => sum + [0.2126, 0.7152, 0.0722][i] * linear(part / 255), 0);
  const behind = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) layers.push(getComputedStyle(each).backgroundColor);
    return layers.reverse().reduce((under, color) => `rgb(${rgb(color, under)})`, 'white');
  };
  const low = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.data.trim();
    if (!text || !element.checkVisibility() || element.closest('script, svg, option')) continue;
    const under = behind(element);
    const sides = [light(rgb(getComputedStyle(element).color, under)), light(rgb(under, 'white'))];
    const ratio = (Math.max(...sides) + 0.05) / (Math.min(...sides) + 0.05);
    if (ratio < 4.5) low.add(`${element.tagName}.${element.className} ${ratio.toFixed(2)}: ${text.slice(0, 30)}`);
  }
  return [...low];
})()"""
