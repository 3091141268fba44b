"""The page of `simpo watch` in a real browser, while runs go on."""

import os
import threading
from pathlib import Path

import pytest

import chromium
from simpo.loggers import CsvLogger, rewind
from simpo.watching.feed import Shelf
from simpo.watching.server import Server
from watched import Written

pytestmark = pytest.mark.skipif(
    not chromium.find(), reason=f"no browser: none of {', '.join(chromium.NAMES)}"
)

VIDEO = Path(__file__).parent / "golden" / "tiny.mp4"  # 4 frames of 32 x 32
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.Page(tmp_path_factory.mktemp("browser")) as page:
        yield page


def serving(folder, port=0):
    server = Server(Shelf([folder], pause=0.0), port, pause=0.05)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    return server, thread


def end(server, thread):
    server.ending.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def open_page(browser):
    """Open the page of some runs; nothing may be complained about in the end."""
    served = []

    def open_(folder):
        served.append(serving(folder))
        browser.events.clear()
        browser.go(served[0][0].url)
        browser.until("document.readyState == 'complete' && !!window.draw")
        return browser

    yield open_
    assert browser.complaints() == []
    browser.go("about:blank")
    for server, thread in served:
        end(server, thread)


def points(name):
    """How many points a curve of the main plot has, as JavaScript."""
    return (
        "(+[...document.querySelectorAll('#curve .curve')]"
        f".find(c => c.dataset.name.startsWith('{name}'))?.dataset.points)"
    )


def text(selector):
    return f"document.querySelector('{selector}')?.textContent"


def test_curves_grow_while_the_page_is_open(open_page, tmp_path):
    run = Written(tmp_path / "a").go(3).evaluate()
    page = open_page(tmp_path)
    page.until(f"{points('training')} == 3 && {points('single sample')} == 1")
    before = page.ask("document.querySelector('#curve .curve').getAttribute('d')")
    run.go().evaluate()
    run.go().evaluate()
    page.until(f"{points('training')} == 5 && {points('best of 10')} == 3")
    after = page.ask("document.querySelector('#curve .curve').getAttribute('d')")
    assert after.count("L") == 4 and before.count("L") == 2
    assert page.ask("document.querySelectorAll('#curve .band').length") == 2
    panels = "[...document.querySelectorAll('#panels [data-panel]')]"
    names = page.ask(f"{panels}.map(p => p.dataset.panel)")
    assert names == ["train/critic_loss", "train/q_mean"]
    # A metric can be chosen.
    page.ask("document.querySelector('[data-metric=\"rollout/ep_rew_mean\"]').click()")
    page.until(f"{panels}.length == 3")


def test_rows_tell_state_steps_and_time_left(open_page, tmp_path):
    run = Written(tmp_path / "a", seed=4).go(4).evaluate()
    held = run.hold()
    page = open_page(tmp_path)
    page.until(f"{text('#runs .state')} == 'running'")
    row = page.ask("[...document.querySelectorAll('#runs td')].map(c => c.textContent)")
    assert row[1:6] == [
        "SiMPO Linear(floor=-0.2)",
        "Hopper-v5",
        "4",
        "running",
        "2k / 10k",
    ]
    assert row[6] == "100" and row[7].startswith("1 min ")
    assert row[8] == "2,002 ± 2.05" and row[9] == "200"
    os.close(held)
    page.until(f"{text('#runs .state')} == 'died'")
    assert "simpo resume" in page.ask(text("#runs .why"))
    run.status("failed", reason=HOSTILE)
    page.until(f"{text('#runs .state')} == 'failed'")
    assert page.ask(text("#runs .why")) == HOSTILE


def test_names_are_text_and_never_markup(open_page, tmp_path):
    run = Written(tmp_path / "a", label=HOSTILE, env=HOSTILE).go(3).evaluate()
    Written(tmp_path / "b", label=HOSTILE, env=HOSTILE, seed=1).go(3).evaluate()
    run.logger.log(5000, {f"train/{HOSTILE}": 1.0})
    page = open_page(tmp_path)
    page.until(f"{text('#runs strong')} == {HOSTILE!r}".replace("\\'", "'"))
    assert page.ask("document.querySelectorAll('script').length") == 1
    assert page.ask("document.querySelectorAll('main img').length") == 0
    assert page.ask("document.title") == "simpo watch"
    assert HOSTILE in page.ask(text("#settings")) and HOSTILE in page.ask(
        text("#metrics")
    )


def test_seeds_are_laid_over_one_another_and_can_be_hidden(open_page, tmp_path):
    for seed in range(3):
        Written(tmp_path / f"s{seed}", seed=seed).go(4).evaluate().go().evaluate()
    page = open_page(tmp_path)
    names = "[...document.querySelectorAll('#curve .curve')].map(c => c.dataset.name)"
    page.until(f"{names}.length == 3")
    assert page.ask(names) == [f"SiMPO, seed {seed}" for seed in range(3)]
    curves = "[...document.querySelectorAll('#curve .curve')]"
    colours = page.ask(f"{curves}.map(c => getComputedStyle(c).stroke)")
    assert len(set(colours)) == 3
    page.ask("document.querySelectorAll('#runs input')[1].click()")
    page.until(f"{names}.length == 2")
    page.ask("document.getElementById('none').click()")
    page.until(f"{text('#curve .empty')} == 'no run is shown'")
    late = Written(tmp_path / "s9", seed=9).go(4)
    page.until("document.querySelectorAll('#runs tbody').length == 4")
    late.evaluate()
    page.until(f"{points('single sample')} == 1")


def test_a_run_taken_back_is_drawn_anew(open_page, tmp_path):
    run = Written(tmp_path / "a").go(2)
    positions = run.logger.positions()
    run.go(4)
    page = open_page(tmp_path)
    page.until(f"{points('training')} == 6")
    rewind(run.directory, positions)
    page.until(f"{points('training')} == 2")
    run.logger, run.step = CsvLogger(run.directory), 1000
    run.go()
    page.until(f"{points('training')} == 3")


def test_weights_are_drawn_when_they_come(open_page, tmp_path):
    run = Written(tmp_path / "a").go(2)
    page = open_page(tmp_path)
    page.until(f"{text('#weights .empty')}?.startsWith('comes with')")
    run.weigh()
    page.until("document.querySelectorAll('#weights circle').length == 32")
    down = page.ask("document.querySelectorAll('#weights circle.down').length")
    weights = [
        float(line.split(",")[3])
        for line in (run.directory / "candidates.csv").read_text().splitlines()[1:]
    ]
    assert down == sum(w < 0 for w in weights) > 0
    share = round(100 * down / 32)
    assert page.ask(text("#weights text.down")) == f"repels: {share}% of candidates"


def test_a_video_is_fetched_and_an_empty_folder_waits(open_page, tmp_path):
    page = open_page(tmp_path)
    page.until(f"{text('#count')} == 'waiting for a run'")
    run = Written(tmp_path / "a")
    page.until("document.querySelectorAll('#runs tbody').length == 1")
    assert "simpo eval" in page.ask(text("#screen"))
    run.film("b & c.mp4", VIDEO.read_bytes())
    page.until("!!document.querySelector('#screen video')")
    page.until("document.querySelector('#screen video').readyState >= 1")
    assert page.ask("document.querySelector('#screen video').videoWidth") == 32


def test_day_and_night(open_page, tmp_path):
    page = open_page(tmp_path)
    paper = "getComputedStyle(document.body).backgroundColor"
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    page.call("Emulation.setEmulatedMedia", features=[scheme])
    night = page.until(f"{paper} != 'rgb(246, 247, 249)' && {paper}")
    page.ask("document.getElementById('theme').click()")
    assert page.ask(paper) == "rgb(246, 247, 249)" != night


def test_a_server_that_has_ended_is_told_and_found_again(browser, tmp_path):
    run = Written(tmp_path / "a").go(3)
    server, thread = serving(tmp_path)
    port = server.server_address[1]
    browser.go(server.url)
    browser.until(f"{text('#live')} == 'live' && {points('training')} == 3")
    end(server, thread)
    browser.until(f"{text('#live')}.startsWith('no connection')")
    run.go()
    server, thread = serving(tmp_path, port)
    browser.until(f"{text('#live')} == 'live' && {points('training')} == 4")
    assert browser.ask("document.querySelectorAll('#runs tbody').length") == 1
    browser.go("about:blank")
    end(server, thread)
