"""The pictures of docs/app.md: the page in a headless Chromium, by Playwright, as a visitor sees it.

    jaxdiff app --run runs/fashion_v --sampler dpm_solver++ --steps 20
    python benchmarks/app.py --image IMAGE.png

The run is that of configs/fashion_mnist_small.py; IMAGE any picture of 28x28 pixels. Needs `pip install playwright`,
and chromium.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:7860", help="of the app")
    parser.add_argument("--image", required=True, type=Path, help="to paint on")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1180, "height": 760})
        page.goto(args.url)
        pictures(page, args.out / "app.png")
        inpainting(page, args.image, args.out / "app_inpaint.png")
        browser.close()


def pictures(page: Page, out: Path) -> None:
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_label("number input for Pictures").fill("16")
    panel.get_by_label("number input for Steps").fill("100")
    panel.get_by_role("button", name="Make pictures").click()
    panel.locator(".watched p", has_text="after 6").first.wait_for()
    page.screenshot(path=out)
    panel.locator(".watched p", has_text="after 100").first.wait_for()


def inpainting(page: Page, image: Path, out: Path) -> None:
    page.get_by_role("tab", name="Inpaint").click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.locator("input[type=file]").first.set_input_files(image)
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
    panel.locator(".image-frame img").first.wait_for(timeout=180_000)
    page.wait_for_timeout(1000)
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=out)


if __name__ == "__main__":
    main()
