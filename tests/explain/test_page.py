# SPDX-License-Identifier: GPL-2.0-or-later
"""The page that `--html` writes: what is in it, and what a real browser makes of it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pvlock.explain import page, zoomable
from pvlock.explain.findings import Findings, find
from pvlock.trace.events import Events
from tracing import ACQUIRED, CONTENDED, IN, PREEMPTED, RELEASED, Line, table

MS: Final = 1_000_000
LOCK: Final = 0x40001000
HOSTILE: Final = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>"


def story(pvlock: bool = False, repeat: int = 1, name: str = "big lock") -> Events:
    """VCPU 0 is preempted with the lock, and VCPU 1 waits for it; again and again."""
    lines: list[Line] = [(0, 0, IN), (0, 1, IN)]
    for at in range(0, repeat * 20, 20):
        lines += [
            (at + 1, 0, ACQUIRED, LOCK), (at + 2, 1, CONTENDED, LOCK), (at + 4, 0, PREEMPTED),
            (at + 15, 0, IN), (at + 16, 0, RELEASED, LOCK), (at + 16, 1, ACQUIRED, LOCK),
            (at + 18, 1, RELEASED, LOCK),
        ]  # fmt: skip
    events = table([(at * MS, *rest) for at, *rest in lines], end=(repeat * 20 + 1) * MS)
    events.names = {LOCK: name}
    events.settings = {"guest": "tale", "engine": "emulator", "pvlock": pvlock}
    return events


def written(path: Path, *traces: Events) -> str:
    page.write(path, "pvlock explain <trace>", [find(events, None, page.TOP) for events in traces])
    return path.read_text(encoding="utf-8")


def test_it_says_what_the_screen_says(tmp_path: Path) -> None:
    text = written(tmp_path / "a.html", story(), story(True))
    assert "pvlock explain &lt;trace&gt;" in text
    assert "the worst preemption, VCPU 0 (owner of big lock) at 4 ms for 11 ms" in text
    for title in ("Waiting", "VCPUs that kept others waiting", "Who waited for whom", "Settings"):
        assert f"<h3>{title}</h3>" in text
    assert "<td >the owner was preempted</td>" in text.replace("<td >  ", "<td >")
    assert text.count('class="timeline"') == 2


def test_the_same_traces_make_the_same_page(tmp_path: Path) -> None:
    command = (
        "from pathlib import Path; import sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_page import story, written; written(Path(sys.argv[1]), story())"
    )
    here = str(Path(__file__).parent)
    helpers = str(Path(__file__).parent.parent)
    for name in ("a.html", "b.html"):
        subprocess.run(
            [sys.executable, "-c", command, tmp_path / name, here],
            env={"PYTHONPATH": helpers}, check=True, timeout=120,
        )  # fmt: skip
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_lock_may_be_called_anything(tmp_path: Path) -> None:
    text = written(tmp_path / "a.html", story(name=HOSTILE))
    assert HOSTILE not in text
    assert "<img" not in text.partition("<script>")[0]


def test_of_a_long_run_it_shows_what_is_around_the_worst_preemption(tmp_path: Path) -> None:
    events = story(repeat=3000)
    item, missing = zoomable.figure(find(events))
    assert missing.startswith("It shows ") and "around the worst preemption, of 6e+04 ms" in missing
    assert len(written(tmp_path / "a.html", events, events)) < 2 << 20
    short, missing = zoomable.figure(find(story()))
    assert not missing
    assert len(json.dumps(short)) < len(json.dumps(item))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1000,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


def show(browser: Any, path: Path) -> None:
    """Open a page and wait until its timelines are drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())
    drawn = (
        "return window.Bokeh !== undefined && Bokeh.documents.every(drawn => drawn.is_idle) &&"
        " Bokeh.documents.length === document.querySelectorAll('.timeline').length"
    )
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(drawn))


def of_range(browser: Any) -> list[float]:
    """Return which time the first timeline shows, in ms."""
    found: list[float] = browser.execute_script(
        "const range = Bokeh.documents[0].roots()[0].x_range; return [range.start, range.end];"
    )
    return found


def test_it_works_in_a_browser(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    written(tmp_path / "a.html", story(name=HOSTILE), story(True))
    show(browser, tmp_path / "a.html")
    assert browser.title == "tale: who waited for whom"

    # It can be zoomed into,
    assert of_range(browser) == [0, 21]
    button = browser.execute_script(
        "const find = root => { for (const e of root.querySelectorAll('*')) {"
        " if (e.title === 'Zoom In (x-axis)') return e;"
        " const inner = e.shadowRoot && find(e.shadowRoot); if (inner) return inner; } };"
        "return find(document.querySelector('.timeline'));"
    )
    button.click()
    WebDriverWait(browser, 60).until(lambda b: of_range(b) != [0, 21])
    start, end = of_range(browser)
    assert 0 < start < end < 21

    # the pointer is told what a bar is,
    area = browser.find_element(By.CLASS_NAME, "timeline")
    said = (
        "const texts = root => [...root.querySelectorAll('*')].map(e => e.shadowRoot ?"
        " texts(e.shadowRoot) : e.children.length ? '' : e.textContent).join(' ');"
        "return texts(document.querySelector('.timeline'));"
    )
    width = area.size["width"]
    for x in range(-width // 4, width // 4, 20):
        ActionChains(browser).move_to_element_with_offset(area, x, 0).perform()
        if "waits for a VCPU off its CPU" in browser.execute_script(said):
            break
    else:
        pytest.fail("no bar said what it is")

    # and a table can be sorted.
    rows = (
        "const body = document.querySelector('table.sort').tBodies[0];"
        "return [...body.rows].map(row => row.cells[3].textContent);"
    )
    head = browser.find_elements(By.CSS_SELECTOR, "table.sort th button")[3]
    head.click()
    down = browser.execute_script(rows)
    head.click()
    assert browser.execute_script(rows) == down[::-1] and len(down) == 2

    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    asked = [
        event["params"]["request"]["url"]
        for event in (
            json.loads(line["message"])["message"] for line in browser.get_log("performance")
        )
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone(browser: Any, tmp_path: Path, scheme: str) -> None:
    written(tmp_path / "a.html", story())
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    try:
        show(browser, tmp_path / "a.html")
        wide = browser.execute_script("return document.documentElement.scrollWidth;")
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor;")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert wide <= 390
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[scheme]


def test_it_can_be_printed(browser: Any, tmp_path: Path) -> None:
    import base64

    written(tmp_path / "a.html", story())
    show(browser, tmp_path / "a.html")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")


def test_findings_of_no_waits(tmp_path: Path) -> None:
    events = table([(0, 0, IN), (1, 0, ACQUIRED, LOCK), (2, 0, RELEASED, LOCK)], end=3)
    found: Findings = find(events, None, page.TOP)
    page.write(tmp_path / "a.html", "pvlock explain", [found])
    assert "Nobody waited for a lock." in (tmp_path / "a.html").read_text(encoding="utf-8")
