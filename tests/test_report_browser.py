"""Reports in headless Chromium: what is drawn, downloads, the keyboard, themes, narrow windows; nothing is loaded."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.io import read

from megen_gym.io import energy_of, read_structures
from megen_gym.report import Chart, Histogram, Report, Series, Table, write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="the package selenium is not installed")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("no Chromium with chromedriver was found on the PATH", allow_module_level=True)

SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
DRAWN = "return document.getElementById('structures')?.dataset.drawn"


@contextmanager
def browser(*options: str) -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    chrome = webdriver.ChromeOptions()
    chrome.binary_location = CHROMIUM
    for option in (
        "--headless=new",
        "--no-sandbox",
        "--disable-background-networking",
        "--window-size=1200,900",
        *options,
    ):
        chrome.add_argument(option)
    chrome.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=chrome, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser(*SOFTWARE_GL) as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    x = np.arange(5.0)
    chart = Chart("Return", "steps", "return (eV)", [Series("</script><script>x()", x, x, x - 1, x + 1)])
    wide = Table("Wide", [f"column {index}" for index in range(20)], [[f"value {index}" for index in range(20)]])
    made = clusters()
    energies = Histogram("Energies", "energy (eV)", {"greedy": np.array([energy_of(atoms) for atoms in made])})
    reports = {
        "clusters": Report("Clusters", {"seed": "0"}, [wide], [chart], [energies], made),
        "crystals": Report("Crystals", structures=crystals()),
    }
    return {name: write_report(one, folder / f"{name}.html") for name, one in reports.items()}


def clusters() -> list[Atoms]:
    rng = np.random.default_rng(1)
    names = ("greedy", "<script>document.title='run'</script>")
    found = []
    for index in range(40):
        info = {"energy": -30.5 + index, "policy": names[index % 2], "valid": index != 2, "note": 'a "b" c'}
        found.append(Atoms("Ga3O2", rng.normal(0, 2, (5, 3)), info=info))
    return found


def crystals() -> list[Atoms]:
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    salt.rattle(0.1, seed=2)
    left = bulk("ZnS", "wurtzite", a=3.82, c=6.26)
    left.set_cell(left.cell.array[[1, 0, 2]], scale_atoms=False)
    slab = fcc111("Cu", (1, 1, 3), vacuum=4.0)
    add_adsorbate(slab, "H", 1.0)
    for index, atoms in enumerate((salt, left, slab)):
        atoms.info = {"energy": -20.123456789 + index}
    return [salt, left, slab]


def opened(driver: Any, path: Path) -> Any:
    driver.get_log("performance")
    driver.get_log("browser")
    driver.get(path.as_uri())
    until(lambda: driver.execute_script(DRAWN))
    return driver


def until(condition: Any, seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the browser took too long"
        time.sleep(0.05)
    return found


def part(driver: Any, name: str) -> Any:
    return driver.find_element("css selector", f'[data-part="{name}"]')


def press(driver: Any, *keys: str) -> None:
    for key in keys:
        driver.switch_to.active_element.send_keys(key)


def downloaded(driver: Any, folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    before = set(folder.iterdir())
    part(driver, name).click()

    def done() -> list[Path]:
        return [path for path in set(folder.iterdir()) - before if path.suffix != ".crdownload" and path.stat().st_size]

    found: list[Path] = until(done)
    return found[0]


def colours(driver: Any, selector: str) -> int:
    """Number of different colours that a canvas shows."""
    code = """
      const from = document.querySelector(arguments[0]), to = document.createElement('canvas');
      to.width = from.width; to.height = from.height;
      const pen = to.getContext('2d');
      pen.drawImage(from, 0, 0);
      return new Set(new Uint32Array(pen.getImageData(0, 0, to.width, to.height).data.buffer)).size;
    """
    return int(driver.execute_script(code, selector))


def distances(atoms: Atoms) -> np.ndarray:
    return np.sort(atoms.get_all_distances(mic=bool(atoms.pbc.any())), axis=None)


def test_the_page_opens_without_errors_and_without_a_network(chromium: Any, pages: dict[str, Path]) -> None:
    for path in pages.values():
        driver = opened(chromium, path)
        assert driver.execute_script(DRAWN) == "solid"
        assert [entry["message"] for entry in driver.get_log("browser") if entry["level"] != "DEBUG"] == []
        events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
    assert driver.title == "Crystals"


def test_structures_are_drawn(chromium: Any, pages: dict[str, Path]) -> None:
    driver = opened(chromium, pages["crystals"])
    assert colours(driver, ".viewer canvas") > 50
    until(lambda: colours(driver, ".card canvas") > 50)
    assert len(driver.find_elements("css selector", "canvas")) == 4
    before = driver.execute_script("return document.querySelector('.viewer canvas').toDataURL()")
    part(driver, "repeat").click()
    assert driver.execute_script("return document.querySelector('.viewer canvas').toDataURL()") != before


def test_downloads_of_a_cluster(chromium: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    driver = opened(chromium, pages["clusters"])
    wanted = clusters()[0]
    assert not part(driver, "cif").is_displayed()
    (atoms,) = read_structures(downloaded(driver, tmp_path / "xyz", "xyz"))
    np.testing.assert_allclose(atoms.positions, wanted.positions, atol=1e-5)
    assert atoms.get_chemical_symbols() == wanted.get_chemical_symbols()
    assert energy_of(atoms) == wanted.info["energy"]
    assert {name: atoms.info[name] for name in ("policy", "valid", "note")} == {
        "policy": "greedy", "valid": True, "note": 'a "b" c',
    }  # fmt: skip
    (boxed,) = read_structures(downloaded(driver, tmp_path / "poscar", "poscar"))
    np.testing.assert_allclose(np.sort(boxed.get_all_distances(), axis=None), distances(wanted), atol=1e-3)
    assert boxed.pbc.all()
    assert np.ptp(boxed.positions, axis=0) + 19.999 == pytest.approx(boxed.cell.lengths(), abs=2e-3)
    everything = read_structures(downloaded(driver, tmp_path / "all", "everything"), check=False)
    assert len(everything) == 40
    assert everything[1].info["policy"] == "<script>document.title='run'</script>"


@pytest.mark.slow
def test_downloads_of_crystals(chromium: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    driver = opened(chromium, pages["crystals"])
    for index, wanted in enumerate(crystals()):
        driver.find_elements("css selector", ".card")[index].click()
        path = downloaded(driver, tmp_path / f"xyz{index}", "xyz")
        assert path.suffix == ".extxyz"
        (atoms,) = read_structures(path)
        assert energy_of(atoms) == wanted.info["energy"]
        np.testing.assert_array_equal(atoms.pbc, wanted.pbc)
        np.testing.assert_allclose(atoms.cell.array, wanted.cell.array, atol=1e-5)
        np.testing.assert_allclose(atoms.positions, wanted.positions, atol=1e-5)
        compared = wanted.copy()
        if not wanted.pbc.all():
            compared.center(vacuum=10.0, axis=2)
            compared.pbc = True
        for name in ("cif", "poscar"):
            atoms = read(downloaded(driver, tmp_path / f"{name}{index}", name))
            assert sorted(atoms.numbers) == sorted(wanted.numbers)
            assert atoms.cell.volume == pytest.approx(compared.cell.volume, rel=1e-5)
            np.testing.assert_allclose(distances(atoms), distances(compared), atol=1e-3)
            assert atoms.cell.handedness == 1


def test_the_keyboard_is_enough(chromium: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    driver = opened(chromium, pages["clusters"])
    seen = []
    for _ in range(40):
        press(driver, Keys.TAB)
        active = driver.switch_to.active_element
        seen.append(active.get_attribute("data-part") or active.get_attribute("class") or active.tag_name)
        if seen[-1] == "card":
            break
    assert [name for name in seen if name not in ("skip", "a")] == [
        "scroll", "viewer", "spin", "reset", "xyz", "poscar", "group", "valid", "sort", "everything", "card",
    ]  # fmt: skip
    outline = driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    press(driver, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ENTER)
    chosen = driver.find_element("css selector", '[aria-selected="true"]')
    assert chosen.get_attribute("aria-label").startswith("2: Ga3O2, energy −29.500 eV, <script>")
    assert "−29.5000 eV" in part(driver, "about").text
    assert part(driver, "said").get_attribute("textContent").startswith("Selected: 2: Ga3O2")
    press(driver, Keys.ARROW_DOWN, " ")
    assert not part(driver, "about").text.startswith("energy\n−29.5000")
    press(driver, Keys.END)
    assert part(driver, "range").text == "25–40 of 40"
    press(driver, Keys.HOME)
    assert part(driver, "range").text == "1–24 of 40"
    before = driver.execute_script("return document.querySelector('.viewer canvas').toDataURL()")
    driver.execute_script("arguments[0].focus()", part(driver, "viewer"))
    press(driver, Keys.ARROW_RIGHT, "+")
    assert driver.execute_script("return document.querySelector('.viewer canvas').toDataURL()") != before


def test_filter_and_sort(chromium: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.support.select import Select

    driver = opened(chromium, pages["clusters"])
    Select(part(driver, "group")).select_by_value("1")
    assert part(driver, "range").text == "1–20 of 20"
    Select(part(driver, "group")).select_by_value("0")
    Select(part(driver, "valid")).select_by_value("false")
    assert part(driver, "range").text == "1–1 of 1"
    Select(part(driver, "valid")).select_by_value("true")
    Select(part(driver, "sort")).select_by_value("-energy")
    first = driver.find_element("css selector", ".card .value").text
    assert first == "7.500 eV"


def test_everything_has_a_name(chromium: Any, pages: dict[str, Path]) -> None:
    driver = opened(chromium, pages["clusters"])
    tree = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    wanted = {"button", "combobox", "image", "option", "listbox", "application", "table", "region", "link"}
    nodes = [node for node in tree if not node.get("ignored") and node["role"]["value"] in wanted]
    assert {node["role"]["value"] for node in nodes} >= {"button", "combobox", "image", "option", "table"}
    assert [node["role"]["value"] for node in nodes if not node.get("name", {}).get("value")] == []


def test_a_narrow_window_does_not_scroll_sideways(chromium: Any, pages: dict[str, Path]) -> None:
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for path in reversed(pages.values()):
            driver = opened(chromium, path)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= 400
        assert driver.execute_script(
            "const b = document.querySelector('.scroll'); return b.scrollWidth > b.clientWidth"
        )
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_and_light_differ_and_are_readable(chromium: Any, pages: dict[str, Path]) -> None:
    code = """
      const shown = (name) => getComputedStyle(document.body)[name].match(/[0-9]+/g).map(Number);
      return [shown('backgroundColor'), shown('color')];
    """
    found = {}
    driver = opened(chromium, pages["clusters"])
    try:
        for scheme in ("light", "dark"):
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            found[scheme] = driver.execute_script(code)
            back, ink = (np.mean(colour) for colour in found[scheme])
            assert abs(back - ink) > 150
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert np.mean(found["light"][0]) > 200 > 60 > np.mean(found["dark"][0])


@pytest.mark.slow
def test_a_thousand_structures(chromium: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    many = [Atoms("Ga18", rng.normal(0, 3, (18, 3)), info={"energy": float(rng.normal())}) for _ in range(1000)]
    path = write_report(Report("Many", structures=many), tmp_path / "many.html")
    assert path.stat().st_size < 5_000_000
    driver = opened(chromium, path)
    assert part(driver, "range").text == "1–24 of 1,000"
    assert len(driver.find_elements("css selector", ".card")) == 24


@pytest.mark.slow
def test_without_webgl_the_page_says_so_and_goes_on(pages: dict[str, Path], tmp_path: Path) -> None:
    with browser("--disable-gpu", "--disable-software-rasterizer") as driver:
        opened(driver, pages["crystals"])
        assert driver.execute_script(DRAWN) == "flat"
        assert "no WebGL" in part(driver, "flat").text
        assert colours(driver, ".viewer canvas") > 50
        before = driver.execute_script("return document.querySelector('.viewer canvas').toDataURL()")
        part(driver, "viewer").send_keys("\ue014")
        assert driver.execute_script("return document.querySelector('.viewer canvas').toDataURL()") != before
        driver.find_elements("css selector", ".card")[1].click()
        (atoms,) = read_structures(downloaded(driver, tmp_path, "xyz"))
        assert len(atoms) == 4
