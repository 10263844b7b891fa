"""The pictures of docs/app.md: the page in a headless Chromium, by Playwright, as a visitor sees it.

    jaxdiff app --run runs/digits
    python benchmarks/app.py

The run is that of configs/digits.py. Needs `pip install playwright`, and chromium.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:7860", help="of the app")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1180, "height": 760})
        page.goto(args.url)
        pictures(page, args.out / "app.png")
        inpainting(page, args.out / "app_inpaint.png")
        browser.close()


def pictures(page: Page, out: Path) -> None:
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_label("number input for Pictures").fill("16")
    panel.get_by_label("number input for Steps").fill("100")
    panel.get_by_role("button", name="Make pictures").click()
    panel.locator(".watched p", has_text="after 6").first.wait_for()
    page.screenshot(path=out)
    panel.locator(".watched p", has_text="after 100").first.wait_for()


def inpainting(page: Page, out: Path) -> None:
    page.get_by_role("tab", name="Inpaint").click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_label("Label").click()
    page.get_by_role("option", name="3", exact=True).click()
    panel.get_by_role("button", name="Take one of the network's").click()
    canvas = panel.locator("canvas").first
    canvas.wait_for()
    page.wait_for_timeout(2000)
    box = canvas.bounding_box()
    assert box is not None
    x, y, side = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, min(box["width"], box["height"])
    for row in (-0.05, 0.02, 0.09):
        page.mouse.move(x - side / 6, y + row * side)
        page.mouse.down()
        page.mouse.move(x + side / 6, y + row * side, steps=20)
        page.mouse.up()
    page.wait_for_timeout(1000)
    panel.get_by_role("button", name="Inpaint", exact=True).click()
    panel.locator(".made .image-frame img").wait_for(timeout=180_000)
    page.wait_for_timeout(1000)
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=out)


if __name__ == "__main__":
    main()
