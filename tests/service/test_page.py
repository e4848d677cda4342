"""The service's page as a person with a keyboard meets it, in headless Chromium."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from metasd.data.load import load_graph
from service_model import served, small_model

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="no chromium and chromedriver here"
    ),
]
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=900,900"
)
MODEL = small_model()
HEAD, OTHER = MODEL.entity_labels.human(3), MODEL.entity_labels.human(8)
RELATION, NEXT = MODEL.relation_labels[1], MODEL.relation_labels[2]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page") / "model"
    MODEL.save_pretrained(folder)
    with served("-m", "metasd", "serve", folder, "--port", "0") as (address, _):
        yield address


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*OPTIONS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        driver.get(f"http://{address}/")

    def __getitem__(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        return str(self.driver.switch_to.active_element.get_attribute("id"))

    def until(self, condition: Callable[[], Any]) -> None:
        WebDriverWait(self.driver, 10, 0.02).until(lambda _: condition())

    def ask(self) -> None:
        """By keyboard alone: a head and a relation, typed and picked."""
        self.press(HEAD[:6].lower())
        self.until(lambda: any(HEAD in option.text for option in self.all("#entities li")))
        place = [HEAD in option.text for option in self.all("#entities li")].index(True)
        self.press(*[Keys.DOWN] * (place + 1), Keys.ENTER)
        self.until(lambda: self.focused() == "relation")
        self.press(RELATION, Keys.ENTER)
        self.until(lambda: len(self.all("#answers li")) == 10)


@pytest.fixture
def page(chromium: Any, address: str) -> Page:
    return Page(chromium, address)


def test_from_typing_to_ranked_answers_by_keyboard(page: Page) -> None:
    assert page.focused() == "entity"
    page.ask()
    assert page["#question"].text == f"{HEAD}, {RELATION}, ?"
    wanted = MODEL.predict(head=MODEL.entity_labels[3], relation=RELATION, k=10)
    shown = [button.text.split("\n") for button in page.all("#answers button")]
    assert all(
        parts[0].startswith(label) and float(parts[-1]) == pytest.approx(score, abs=0.006)
        for parts, (label, score) in zip(shown, wanted, strict=True)
    )
    assert all(parts[-2].endswith("%") for parts in shown)
    assert "10 answers" in page["#status"].text


def test_known_answers_are_counted_or_marked_and_types_limit(page: Page) -> None:
    h, r, t = load_graph("families:120").train[0].tolist()
    head, relation = MODEL.entity_labels[h], MODEL.relation_labels[r]
    known = MODEL.answers([(head, relation, None)])[0].num_hidden
    assert known
    page.driver.get(f"{page.driver.current_url}?head={quote(head)}&relation={relation}&k=100")
    page.until(lambda: f" {known} known answer" in page["#status"].text)
    page["#known"].click()
    marked = "#answers span small:last-child"
    page.until(lambda: [x.text.strip() for x in page.all(marked)].count("known") == known)
    page["#typed"].click()
    typed = MODEL.answers([(head, relation, None)], 100, typed=True, keep_known=True)[0]
    page.until(lambda: len(page.all("#answers li")) == len(typed))
    assert MODEL.entity_labels.human(t) in page["#answers"].text


def test_the_documentation_lists_every_request(page: Page) -> None:
    pytest.importorskip("fastapi_offline")
    page["header a"].click()
    page.until(lambda: len(page.all(".opblock-summary-path")) >= 7)
    paths = [path.text for path in page.all(".opblock-summary-path")]
    assert {"/predict", "/score", "/neighbors"} <= {path.replace("\u200b", "") for path in paths}
    assert not page.driver.get_log("browser")  # nothing was refused by the security policy


def test_an_answer_becomes_the_next_head(page: Page) -> None:
    page.ask()
    second = page.all("#answers button")[1]
    name = second.text.split("\n")[0]
    page.driver.execute_script("arguments[0].focus()", page.all("#answers button")[0])
    page.press(Keys.DOWN)
    page.press(Keys.ENTER)
    page.until(lambda: page["#question"].text.split(",")[0] in name)
    assert page["#entity"].get_attribute("value") in name
    assert page.focused() == "relation"
    page.press(NEXT, Keys.ENTER)
    page.until(lambda: NEXT in page["#question"].text)
    page.driver.back()
    page.driver.back()
    page.until(lambda: page["#question"].text == f"{HEAD}, {RELATION}, ?")


def test_heads_are_asked_for_too(page: Page) -> None:
    page.ask()
    page["[name=given][value=tail]"].click()
    page.until(lambda: page["#question"].text == f"?, {RELATION}, {HEAD}")
    assert page["#entity-label"].text == "Tail"
    page.driver.refresh()
    page.until(lambda: page["#question"].text == f"?, {RELATION}, {HEAD}")


def test_the_comboboxes_say_what_they_do(page: Page) -> None:
    entity = page["#entity"]
    assert (entity.aria_role, entity.accessible_name) == ("combobox", "Head")
    assert entity.get_attribute("aria-expanded") == "false"
    page.press(Keys.DOWN)
    page.until(lambda: entity.get_attribute("aria-activedescendant") == "entities-0")
    assert entity.get_attribute("aria-expanded") == "true"
    assert page["#entities-0"].get_attribute("aria-selected") == "true"
    page.press(Keys.UP)
    last = len(page.all("#entities li")) - 1
    assert entity.get_attribute("aria-activedescendant") == f"entities-{last}"
    page.press(Keys.ESCAPE)
    assert entity.get_attribute("aria-expanded") == "false"
    assert page.all("#entities li") == []


def test_mistakes_are_shown(page: Page) -> None:
    page["button.ask"].click()
    assert page["#error"].text == "Type a head first."
    assert page.focused() == "entity"
    page.press("Qxzw nobody", Keys.TAB)
    page.press(RELATION, Keys.ENTER)
    page.until(lambda: 'no entity "Qxzw nobody"' in page["#error"].text)
    assert page["#error"].get_attribute("role") == "alert"
    assert page.all("#answers li") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page: Page, scheme: str, tmp_path: Path) -> None:
    page.ask()
    command = page.driver.execute_cdp_cmd
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    command("Emulation.setEmulatedMedia", {"features": media})
    size = {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    command("Emulation.setDeviceMetricsOverride", size)
    try:
        wide = page.driver.execute_script("return document.documentElement.scrollWidth")
        dark = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    finally:
        command("Emulation.clearDeviceMetricsOverride", {})
        command("Emulation.setEmulatedMedia", {"features": []})
    assert wide <= 360
    assert (max(map(int, dark[4:-1].split(","))) < 60) == (scheme == "dark")


def test_it_loads_nothing_from_elsewhere_and_logs_no_error(page: Page, address: str) -> None:
    page.ask()
    names = page.driver.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert names
    assert all(name.startswith(f"http://{address}/") for name in names)
    messages = [entry for entry in page.driver.get_log("browser") if "422" not in entry["message"]]
    assert messages == []
