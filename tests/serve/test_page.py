"""The page in a headless Chromium over a real server: pictures come step by step, what goes wrong is said kindly."""

import base64
import contextlib
import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

from fewstep.serve import Limits
from fewstep.serve.settings import Settings
from support.browser import PATIENCE_MS, Seen, browser
from support.serving import PATIENCE, Knobs, Remote, digits_family, running_server, tiny_family

pytestmark = pytest.mark.long

PIXELS = """async element => {
  await element.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [element.naturalWidth, element.naturalHeight];
  canvas.getContext("2d").drawImage(element, 0, 0);
  return canvas.toDataURL("image/png");
}"""
KEY = "a key of this test"


class Gate:
    """Lets a network's calls pass one by one, as many as it is told."""

    def __init__(self, knobs: Knobs) -> None:
        self._passes = threading.Semaphore(0)
        knobs.error = self._wait

    def let(self, calls: int) -> None:
        self._passes.release(calls)

    def _wait(self, lanes: int) -> None:
        assert self._passes.acquire(timeout=PATIENCE), "nobody let the call pass"


@pytest.fixture(scope="module")
def knobs() -> Knobs:
    return Knobs()


@pytest.fixture(scope="module")
def server(knobs: Knobs) -> Iterator[Remote]:
    families = {"digits": digits_family(), "tiny": tiny_family("tiny", knobs)}
    with running_server(families, Settings(limits=Limits(queue=6))) as remote:
        yield remote


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with browser(tmp_path_factory.mktemp("profile"), touch=True) as context:
        yield context


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def page(context: BrowserContext, server: Remote, seen: Seen, knobs: Knobs) -> Iterator[Page]:
    knobs.reset()
    page = context.new_page()
    seen.watch(page)
    page.goto(server.url)
    expect(page.locator("#labels .chip")).to_have_count(10, timeout=PATIENCE_MS)
    yield page
    page.close()
    knobs.reset()
    assert {url.split("/")[2] if url.startswith("http") else "blob" for url in seen.requests} <= {
        server.url.removeprefix("http://"),
        "blob",
    }


def pixels(page: Page, selector: str) -> Any:
    """Of an <img> on show."""
    data = page.locator(selector).first.evaluate(PIXELS)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB")).copy()


def draw(page: Page, *, labels: tuple[int, ...] = (3,), images: int = 1, seed: int = 5) -> None:
    """Choose, and press Generate."""
    for label in labels:
        page.locator(f"#labels label:has(input[value='{label}'])").click()
    page.locator("#n").fill(str(images))
    page.locator("#seed").fill(str(seed))
    page.locator("#generate").click()


def done(page: Page, images: int) -> None:
    """Wait for the newest run."""
    expect(page.locator(".run:first-child .tile.is-done")).to_have_count(images, timeout=PATIENCE_MS)


def fits(page: Page) -> bool:
    """Whether nothing has to be scrolled sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_previews_arrive_before_the_image(page: Page, seen: Seen, knobs: Knobs) -> None:
    gate = Gate(knobs)
    page.locator("#model").select_option("tiny")
    draw(page)
    tile = page.locator(".run:first-child .tile")
    shown = []
    for step in (1, 2, 3):
        gate.let(1)
        expect(tile).to_have_attribute("data-frames", str(step), timeout=PATIENCE_MS)
        expect(tile.locator(".ticks .is-done")).to_have_count(step)
        expect(tile).not_to_have_class(re.compile("is-done"))
        shown.append(pixels(page, ".run:first-child .face img"))
    gate.let(100)
    done(page, 1)
    shown.append(pixels(page, ".run:first-child .face img"))
    assert all(np.abs(shown[i].astype(int) - shown[i + 1]).max() > 0 for i in range(3))
    expect(page.locator("#progress")).to_have_text("Done")
    assert not seen.errors


def test_a_digit_is_the_one_that_the_endpoint_draws(page: Page, server: Remote, seen: Seen) -> None:
    page.locator("#model").select_option("digits")
    draw(page, labels=(7, 3), images=2, seed=11)
    done(page, 2)
    data = server.generate(model="digits", labels=[3, 7], num_inference_steps=4, seed=11).json["data"]
    for place, each in enumerate(data):
        wanted = np.asarray(Image.open(io.BytesIO(base64.b64decode(each["b64_json"]))).convert("RGB"))
        shown = pixels(page, f".run:first-child .tile:nth-child({place + 1}) img")
        assert np.abs(shown.astype(int) - wanted).max() <= 1
    expect(page.locator(".run:first-child h3")).to_have_text("digits/4-step · 4 steps · ddim · seed 11")
    expect(page.locator(".run:first-child .caption").first).to_contain_text("label 3 · seed 11")
    expect(page.locator("#live-latency")).to_contain_text("s", timeout=PATIENCE_MS)
    assert not seen.errors


def test_steps_that_nobody_was_trained_for_are_named_and_a_deadline_says_which_it_chose(page: Page, seen: Seen) -> None:
    page.locator("#steps").fill("3")
    expect(page.locator("#steps-hint")).to_have_text("Not trained for 3 steps. Drawn by digits/4-step.")
    draw(page)
    done(page, 1)
    expect(page.locator(".run:first-child .note")).to_contain_text("train")
    page.locator("#mode label", has_text="Deadline").click()
    page.locator("#deadline").fill("60000")
    page.locator("#generate").click()
    expect(page.locator(".run:first-child h3")).to_contain_text("within 60000 ms")
    done(page, 1)
    expect(page.locator(".run:first-child .caption")).to_contain_text("step")
    assert not seen.errors


def test_a_run_is_cancelled(page: Page, server: Remote, knobs: Knobs, seen: Seen) -> None:
    gate = Gate(knobs)
    page.locator("#model").select_option("tiny")
    draw(page, images=2)
    gate.let(1)
    expect(page.locator(".run:first-child .tile.is-running")).to_have_count(2, timeout=PATIENCE_MS)
    page.keyboard.press("Escape")
    expect(page.locator(".run")).to_have_count(0)
    gate.let(100)
    expect(page.locator("#status")).to_have_text("idle", timeout=PATIENCE_MS)
    assert server.batcher is not None
    assert server.batcher.stats()["finished"] >= 0
    assert not seen.errors


def test_what_is_wrong_is_said_beside_its_field(page: Page) -> None:
    page.locator("#steps").fill("9999")
    draw(page)
    expect(page.locator("[data-param=num_inference_steps] .wrong")).to_contain_text("from 1 to 128")
    expect(page.locator("#steps")).to_be_focused()
    page.locator("#steps").fill("4")
    expect(page.locator(".wrong")).to_have_count(0)
    page.locator("#more summary").click()
    page.locator("#guidance").fill("-1")
    page.locator("#generate").click()
    wrong = page.locator("[data-param=guidance_scale] .wrong")
    expect(wrong).to_contain_text("Got -1", timeout=PATIENCE_MS)
    assert page.locator("#guidance").get_attribute("aria-describedby") == wrong.get_attribute("id")
    expect(page.locator("#guidance")).to_be_focused()
    expect(page.locator(".run")).to_have_count(0)


def test_a_full_server_says_when_to_come_again(page: Page) -> None:
    draw(page, images=10)
    notice = page.locator("#notice")
    expect(notice.locator("button")).to_have_text("Try again", timeout=PATIENCE_MS)
    expect(notice.locator("button")).to_be_enabled()
    page.locator("#n").fill("2")
    notice.locator("button").click()
    done(page, 2)
    expect(notice).to_be_hidden()


def test_a_server_that_is_gone_is_named_until_it_is_back(page: Page, context: BrowserContext) -> None:
    context.set_offline(True)
    try:
        expect(page.locator("#notice")).to_contain_text("does not answer", timeout=PATIENCE_MS)
    finally:
        context.set_offline(False)
    expect(page.locator("#notice")).to_be_hidden(timeout=PATIENCE_MS)
    draw(page)
    done(page, 1)


def test_a_mask_is_painted_and_what_is_under_it_drawn_anew(page: Page, seen: Seen, server: Remote) -> None:
    draw(page, labels=(3,), seed=2)
    done(page, 1)
    before = pixels(page, ".run:first-child img")
    page.locator(".run:first-child .face").click()
    page.get_by_role("button", name="Use as start").click()
    stage = page.locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box is not None
    across = [(box["x"] + box["width"] * part, box["y"] + box["height"] * 0.25) for part in (0.3, 0.7)]
    page.mouse.move(*across[0])
    page.mouse.down()
    page.mouse.move(*across[1], steps=6)
    page.mouse.up()
    undo, clear = page.get_by_role("button", name="Undo"), page.get_by_role("button", name="Clear")
    expect(clear).to_be_enabled()
    undo.click()
    expect(clear).to_be_disabled()
    page.touchscreen.tap(*across[0])
    expect(clear).to_be_enabled()
    clear.click()
    expect(clear).to_be_disabled()
    stage.focus()
    for _ in range(3):
        for key in ("Space", "ArrowUp", "ArrowUp"):
            page.keyboard.press(key)
    expect(clear).to_be_enabled()
    page.locator("#seed").fill("9")
    page.locator("#generate").click()
    expect(page.locator(".run:first-child h3")).to_contain_text("inpainting")
    done(page, 1)
    after = pixels(page, ".run:first-child img")
    changed = np.abs(after.astype(int) - before).max(axis=2)
    assert changed[20:].max() <= 2  # below the brush nothing has changed
    assert changed[8:18, 13:19].max() > 0
    assert any(url.endswith("/v1/images/edits") for url in seen.requests)
    assert not seen.errors


@pytest.mark.parametrize("edit", [False, True], ids=["generation", "edit"])
@pytest.mark.parametrize("language", ["curl", "Python"])
def test_the_code_of_a_request_draws_the_same(page: Page, tmp_path: Path, language: str, edit: bool) -> None:
    draw(page, labels=(4,), seed=21)
    done(page, 1)
    if edit:
        page.locator(".run:first-child .face").click()
        page.get_by_role("button", name="Use as start").click()
        page.locator(".stage").press("Space")
        page.locator("#generate").click()
        expect(page.locator(".run:first-child h3")).to_contain_text("inpainting")
        done(page, 1)
    shown = pixels(page, ".run:first-child img")
    page.locator(".run:first-child header button", has_text="Code").click()
    page.get_by_role("button", name=language, exact=True).click()
    for link in page.locator("#code a[download]").all():
        with page.expect_download() as download:
            link.click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
    code = page.locator("#code pre").text_content() or ""
    command = ["bash", "-c", code] if language == "curl" else [sys.executable, "-c", code]
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stderr
    if language == "curl":
        last = ran.stdout.rsplit("data: ", 1)[1]
        found = re.search(r'"b64_json":"([^"]+)"', last)
        assert found is not None
        picture = base64.b64decode(found[1])
    else:
        picture = (tmp_path / "image-0.png").read_bytes()
    drawn = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    assert np.abs(drawn.astype(int) - shown).max() <= 1
    page.keyboard.press("Escape")
    expect(page.locator("#code")).to_be_hidden()


def test_on_a_phone(page: Page, seen: Seen) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    assert fits(page)
    draw(page, labels=(1, 2, 3), images=3)
    done(page, 3)
    assert fits(page)
    page.locator(".run:first-child .face").first.click()
    expect(page.locator("#viewer img.large")).to_be_visible()
    assert fits(page)
    page.get_by_role("button", name="Use as start").click()
    page.locator("#more summary").click()
    expect(page.locator(".stage")).to_be_visible()
    assert fits(page)
    for control in page.locator("#form button:visible, #form .chip span:visible").all():
        box = control.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 36  # a finger finds it
    assert not seen.errors


def test_by_keyboard_alone(page: Page, seen: Seen) -> None:
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        here = page.evaluate("(({id, name, value, type}) => [id || name, value, type])(document.activeElement)")
        reached.append(here[0])
        style = page.evaluate(
            "(e => getComputedStyle(e.matches('.chip input, .switch input') ? e.nextElementSibling : e).outlineStyle)"
            "(document.activeElement)"
        )
        assert style != "none", here  # whoever has no mouse sees where he is
        if here[:2] == ["label", "6"]:
            page.keyboard.press("Space")
        if here[0] == "generate":
            break
    assert {"model", "label", "count", "steps", "n", "seed", "dice"} <= set(reached)
    page.keyboard.press("Control+Enter")
    done(page, 4)
    expect(page.locator(".run:first-child .caption").first).to_contain_text("label 6")
    page.locator(".run:first-child .face").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer dd").nth(1)).not_to_have_text("")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    assert not seen.errors


def test_every_control_has_a_name_and_colors_can_be_chosen(page: Page) -> None:
    page.locator("#more summary").click()
    for control in page.locator("button:visible, input:visible, select:visible, textarea:visible").all():
        name = control.evaluate("e => e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent")
        assert (name or "").strip()
    background = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) != light
    page.locator("#theme").click()
    assert page.evaluate(background) == light
    page.reload()
    assert page.evaluate(background) == light
    page.locator("#theme").click()
    page.locator("#theme").click()
    expect(page.locator("#theme")).to_have_text(re.compile("Auto"))


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(context: BrowserContext, seen: Seen) -> None:
    with running_server(settings=Settings(api_key=KEY)) as remote, contextlib.closing(context.new_page()) as page:
        page.goto(remote.url)
        field = page.locator("#key-input")
        field.fill("not it")
        field.press("Enter")
        expect(page.locator("#key .wrong")).to_be_visible(timeout=PATIENCE_MS)
        field.fill(KEY)
        field.press("Enter")
        expect(page.locator("#labels .chip")).to_have_count(10, timeout=PATIENCE_MS)
        draw(page)
        done(page, 1)
        assert page.evaluate("sessionStorage.length") == 1
        assert KEY not in str(page.evaluate("JSON.stringify({...localStorage})"))
        page.locator(".run header button", has_text="Code").click()
        assert KEY not in (page.locator("#code pre").text_content() or "")
