"""The page about shards in headless Chromium: everything is drawn, nothing is fetched, it fits."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
from trees import write_tree

from ssl4eo_stream.commands.shard import main
from ssl4eo_stream.shard.build import build

pytestmark = pytest.mark.slow
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
DESKTOP = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
WIDER_THAN_THE_SCREEN = """
return [...document.querySelectorAll("main *")].filter(
  e => !e.closest("svg *") && e.getBoundingClientRect().right > arguments[0] + 0.5
).map(e => e.outerHTML.slice(0, 80));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium with a fresh profile, driven through its own driver: nothing is downloaded."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("no Chromium with its driver (Debian: apt-get install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        patch.setenv("NO_PROXY", ",".join(["localhost,127.0.0.1", os.environ.get("NO_PROXY", "")]))
        service = webdriver.ChromeService(executable_path=driver)
        with webdriver.Chrome(options=options, service=service) as browser:
            yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory, shards):
    """One product of four dates, and all three, of which one lacks a location: name -> file."""
    folder = tmp_path_factory.mktemp("pages")
    urls = []
    for product, ids, dates in (("s2c", range(3), 4), ("s2a", range(3), 2), ("s1", range(2), 4)):
        write_tree(folder / "tree", product, ids, dates=dates)
        build(folder / "tree" / product, folder / product, product=product, workers=0)
        urls.append(str(folder / product))
    found = {"one": folder / "one.html", "three": folder / "three.html"}
    assert main(["show", str(shards), "--output", str(found["one"])]) == 0
    assert main(["show", *urls, "--ids", "0", "2", "--output", str(found["three"])]) == 0
    return found


def open_page(browser, path, *, screen=DESKTOP, scheme="light"):
    """Load a page anew; returns the addresses that were asked for, and what the console says."""
    browser.get("about:blank")
    for log in ("performance", "browser"):
        browser.get_log(log)  # what was before is forgotten
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(path.as_uri())
    messages = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    return asked, browser.get_log("browser")


def colours_of(element):
    """How many colours an element's screenshot has: an empty one has one."""
    data = np.frombuffer(element.screenshot_as_png, np.uint8)
    return len(np.unique(cv2.imdecode(data, cv2.IMREAD_COLOR).reshape(-1, 3), axis=0))


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize(("name", "charts", "images"), [("one", 13, 24), ("three", 27, 16)])
def test_everything_is_drawn_and_nothing_fetched(browser, pages, name, charts, images, screen):
    asked, console = open_page(browser, pages[name], screen=screen)
    assert console == []
    assert pages[name].as_uri() in asked
    assert {url for url in asked if not url.startswith("data:")} == {pages[name].as_uri()}
    entries = browser.execute_script("return performance.getEntriesByType('resource').length")
    assert entries == sum(url.startswith("data:image/webp") for url in asked) or entries == 0
    sizes = browser.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])"
    )
    assert len(sizes) == images
    assert all(done and natural == 264 and shown > 60 for done, natural, shown in sizes)
    for selector, count in (("#places svg", 1), ("#dates svg", 3), ("#bands svg", charts)):
        drawn = browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(s => [s.clientWidth, "
            "s.clientHeight, ...[...s.querySelectorAll('path')].map(p => p.getBBox().width)])",
            selector,
        )
        assert len(drawn) == count
        for width, height, *paths in drawn:
            assert width > 120
            assert height > 60
            assert max(paths) > 20
        for element in browser.find_elements("css selector", selector)[:3]:
            assert colours_of(element) > 10
    dots = browser.execute_script("return document.querySelectorAll('#places use').length")
    assert dots == {"one": 16, "three": 3}[name]
    assert colours_of(browser.find_element("css selector", "#locations img")) > 100


@pytest.mark.parametrize("name", ["one", "three"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser, pages, name, width):
    open_page(browser, pages[name], screen=PHONE | {"width": width})
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(WIDER_THAN_THE_SCREEN, width) == []


def test_dark_screens(browser, pages):
    def brightness(selector, what):
        rgb = browser.execute_script(
            "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]",
            selector, what,
        )  # fmt: skip
        return sum(map(float, rgb.removeprefix("rgb(").removesuffix(")").split(","))) / 3

    seen = {}
    for scheme in ("light", "dark"):
        open_page(browser, pages["one"], scheme=scheme)
        seen[scheme] = [
            brightness("body", "backgroundColor"), brightness(".card", "backgroundColor"),
            brightness("body", "color"), brightness("#dates svg text", "fill"),
        ]  # fmt: skip
    assert min(seen["light"][:2]) > 220 > 60 > max(seen["light"][2:])
    assert max(seen["dark"][:2]) < 60 < 200 < min(seen["dark"][2:])
