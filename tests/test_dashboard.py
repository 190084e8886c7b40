"""What users see of a search in optuna-dashboard, in a real browser where there is one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import torch
from optuna.artifacts import FileSystemArtifactStore
from test_visualization import SPACE, X, searched
from torch import nn

from optuna_softprune import PruningObjective, open_storage
from optuna_softprune.dashboard import DashboardCallback, note, publish

if TYPE_CHECKING:
    from collections.abc import Iterator

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def drawn(network: nn.Module, file: Path) -> None:
    from matplotlib import pyplot

    with torch.no_grad():
        pyplot.imsave(file, network(X).numpy())


def written(study: optuna.Study) -> list[str]:
    """Return the keys under which the dashboard finds notes and figures."""
    held = study._storage.get_study_system_attrs(study._study_id)
    return [key for key in held if key.startswith("dashboard:")]


def test_note_says_what_is_searched_and_what_was_found() -> None:
    study = searched()
    text = note(study, SPACE)
    best = study.best_trial
    assert f"trial {best.number}" in text
    assert "sparsity 0.4 +- 0.03 of the parameters" in text
    kept = best.user_attrs["softprune:candidate"]["kept"]
    for group, units in zip(SPACE.groups, kept, strict=True):
        assert f"| {group.name} | {' + '.join(group.components)} | {group.size} | {units} |" in text
    small = SPACE.prune(SPACE.coefficients(best.params))
    assert isinstance(small, nn.Sequential)
    for i in (0, 2, 4):
        assert f"| {i} | " in text
        assert f" {sum(p.numel() for p in small[i].parameters()):,} |" in text


def test_callback_keeps_to_its_share_of_the_time() -> None:
    study = searched()
    begin = time.monotonic()
    callback = DashboardCallback(SPACE, share=0.05)
    spent, trial = 0.0, study.trials[-1]
    while time.monotonic() - begin < 3:
        before = time.monotonic()
        callback(study, trial)
        spent += time.monotonic() - before
        time.sleep(0.01)
    assert not written(study)  # the first would take more than the share of three seconds
    assert spent < 0.3
    callback.update(study)
    assert len(written(study)) > 4  # a note and four figures


def test_what_goes_wrong_is_said_once_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    study = searched()
    callback = DashboardCallback(SPACE, draw=drawn, artifact_store=FileSystemArtifactStore(tmp_path / "file"))
    optuna.logging.enable_propagation()
    callback.update(study)
    callback.update(study)
    optuna.logging.disable_propagation()
    assert sum("could not be updated" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(("settings", "words"), [({"share": 0}, "share"), ({"draw": drawn}, "together")])
def test_wrong_settings_are_said(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DashboardCallback(SPACE, **settings)


def test_several_objectives_have_figures_each() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    objective = PruningObjective(
        SPACE,
        lambda model: {"peak": model(X).detach().abs().max().item()},
        objectives=("peak", "parameters"),
        directions=("maximize", "minimize"),
    )
    study.optimize(objective, n_trials=4)
    publish(study, SPACE)
    assert study.metric_names == ["peak", "parameters"]
    assert "several objectives" in note(study, SPACE)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """Open the dashboard of a published study in a browser."""
    if BROWSER is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver

    storage = tmp_path / "search.journal"
    before = searched()
    study = optuna.create_study(storage=open_storage(storage), study_name="seen", direction="minimize")
    for key, value in before.user_attrs.items():
        study.set_user_attr(key, value)
    study.add_trials(before.trials)
    (tmp_path / "artifacts").mkdir()
    store = FileSystemArtifactStore(tmp_path / "artifacts")
    DashboardCallback(SPACE, draw=drawn, artifact_store=store).update(study)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "optuna-dashboard"), str(storage), "--port", str(port)]
    command += ["--artifact-dir", str(tmp_path / "artifacts")]
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1500,2400"):
        options.add_argument(argument)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        _wait(f"http://127.0.0.1:{port}/")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        yield lambda path: _text(browser, f"http://127.0.0.1:{port}/dashboard/studies/{study._study_id}{path}")
        browser.quit()
        server.terminate()


def _wait(url: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(url)
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{url} does not answer")


def _text(browser: Any, url: str) -> str:
    """Return what can be read on a page, once it is drawn; a picture of it goes to `SOFTPRUNE_TEST_PICTURES`."""
    from selenium.webdriver.common.by import By

    browser.get(url)
    text = ""
    for _ in range(60):
        time.sleep(0.5)
        now: str = browser.find_element(By.TAG_NAME, "body").text
        if now == text and len(now) > 300:
            break
        text = now
    if folder := os.environ.get("SOFTPRUNE_TEST_PICTURES"):
        browser.save_screenshot(f"{folder}/{url.rpartition('/')[2]}.png")
    return text


def test_pages_show_the_search_as_it_was(page: Any) -> None:
    overview = page("")
    for title in (
        "Coefficients of the",
        "metric against sparsity",
        "Best feasible metric so far",
        "coefficient in a range",
    ):
        assert title in overview
    assert "Infeasible" in overview
    assert "trial-6.png" in overview
    text = page("/note")
    assert "Best feasible candidate: trial 6" in text
    assert "kept by the best" in text
    trials = page("/trials")
    for column in ("sparsity", "parameters", "macs", "feasible", "role"):
        assert f"softprune:{column}" in trials
