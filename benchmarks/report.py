"""How large is a report, and how soon is it open?

``python benchmarks/report.py`` writes pages with 100, 1,000 and 5,000 clusters of 18 atoms and opens each several times
in headless Chromium with software rendering. It needs selenium, and chromium and chromedriver on the PATH.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from megen_gym.errors import InputError, user_errors
from megen_gym.report import Histogram, Report, write_report

COUNTS = (100, 1000, 5000)
TIMES = 5
OPTIONS = (
    "--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--window-size=1280,900", "--disable-background-networking",
)  # fmt: skip

MARKS = """
const drawn = performance.getEntriesByName('drawn')[0];
const page = performance.getEntriesByType('navigation')[0];
return drawn && page.loadEventEnd ? [page.loadEventEnd, drawn.startTime] : null;
"""
"""Milliseconds from the start of loading to the end of the load event, and to the first structure in the viewer."""


def example(count: int) -> Report:
    """A report with `count` clusters of two policies."""
    rng = np.random.default_rng(0)
    energy = rng.normal(-40, 1.5, count)
    structures = []
    for index in range(count):
        info = {"energy": float(energy[index]), "policy": ("greedy", "random")[index % 2], "valid": True, "seed": index}
        structures.append(Atoms("Ga18", rng.normal(0, 2.5, (18, 3)), info=info))
    histogram = Histogram("Energies", "energy (eV)", {"greedy": energy[::2], "random": energy[1::2]})
    return Report(f"{count} clusters", {"atoms": "18"}, histograms=[histogram], structures=structures)


def driver() -> Any:
    """A browser.

    Raises:
        InputError: if there is none.
    """
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        raise InputError("no chromium with chromedriver was found on the PATH; install both")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in OPTIONS:
        options.add_argument(option)
    return webdriver.Chrome(options=options, service=Service(chromedriver))


def opening(browser: Any, path: Path) -> tuple[float, float]:
    """Seconds to the load event and to the first structure in the viewer."""
    browser.get("about:blank")
    browser.get(path.as_uri())
    while (found := browser.execute_script(MARKS)) is None:
        time.sleep(0.02)
    return found[0] / 1000, found[1] / 1000


@user_errors
def main() -> None:
    """Print a table."""
    names = ("structures", "file (MB)", "write (s)", "load (s)", "drawn (s)", "first (s)")
    print(" ".join(f"{name:>10s}" for name in names))
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            begin = time.perf_counter()
            path = write_report(example(count), Path(folder) / f"{count}.html")
            wrote = time.perf_counter() - begin
            browser = driver()
            try:
                first, *later = [opening(browser, path) for _ in range(TIMES + 1)]
            finally:
                browser.quit()
            load, drawn = (statistics.median(column) for column in zip(*later, strict=True))
            size = path.stat().st_size / 1e6
            print(f"{count:10d} {size:10.2f} {wrote:10.2f} {load:10.2f} {drawn:10.2f} {first[1]:10.2f}")
    print(f"load, drawn: median of {TIMES} in a browser that is running; first: the first page of a new browser")


if __name__ == "__main__":
    main()
