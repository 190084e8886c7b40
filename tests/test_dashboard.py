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
from checks import counted_macs, counted_parameters
from optuna.artifacts import FileSystemArtifactStore, download_artifact, get_all_artifact_meta
from test_visualization import CONSTRAINT, MODEL, SPACE, X, error, searched
from torch import nn

from optuna_softprune import PruningObjective, Requirement, SparsityConstraint, load_pruned, open_storage
from optuna_softprune.dashboard import DashboardCallback, note, publish
from optuna_softprune.dashboard._publish import FIGURES
from optuna_softprune.samplers import ProjectedSampler
from optuna_softprune.shipping import read_plan
from optuna_softprune.visualization import plot_sparsity, sparsity

if TYPE_CHECKING:
    from collections.abc import Iterator

OBJECTIVE = PruningObjective(SPACE, error, CONSTRAINT, directions=("minimize",))
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
    callback = DashboardCallback(OBJECTIVE, share=0.05)
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
    callback = DashboardCallback(OBJECTIVE, draw=drawn, artifact_store=FileSystemArtifactStore(tmp_path / "file"))
    optuna.logging.enable_propagation()
    callback.update(study)
    callback.update(study)
    optuna.logging.disable_propagation()
    assert sum("could not be updated" in message for message in caplog.messages) == 1


def test_a_study_that_nothing_was_searched_in_is_said(caplog: pytest.LogCaptureFixture) -> None:
    study = optuna.create_study(study_name="new", direction="minimize")
    for show in (note, publish):
        with pytest.raises(ValueError, match=r"Expected a study of a `PruningObjective`, but 'new' holds no search"):
            show(study, SPACE)
    optuna.logging.enable_propagation()
    DashboardCallback(OBJECTIVE).update(study)
    optuna.logging.disable_propagation()
    assert "'new' holds no search of this package" in caplog.text


@pytest.mark.parametrize(("settings", "words"), [({"share": 0}, "share"), ({"draw": drawn}, "together")])
def test_wrong_settings_are_said(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DashboardCallback(OBJECTIVE, **settings)
    with pytest.raises(TypeError, match="Expected `objective` to be a `PruningObjective`, but got PruningSpace"):
        DashboardCallback(SPACE)  # type: ignore[arg-type]


def test_file_of_the_best_network_is_kept_once_and_loaded_elsewhere(tmp_path: Path) -> None:
    storage, store = open_storage(tmp_path / "search.journal"), FileSystemArtifactStore(tmp_path)
    values = iter([0.5, 3.0, 5.0, 1.0])  # of the dense network and of three trials

    def finish(model: nn.Module) -> None:
        nn.init.constant_(next(model.parameters()), 0.5)

    def metric(model: nn.Module) -> float:
        error(model)
        return next(values)

    objective = PruningObjective(SPACE, metric, CONSTRAINT, directions=("minimize",), finish=finish)
    sampler = ProjectedSampler(optuna.samplers.RandomSampler(seed=0), CONSTRAINT)
    study = optuna.create_study(storage=storage, study_name="kept", sampler=sampler)
    study.optimize(objective, n_trials=2, callbacks=[DashboardCallback(objective, share=1, artifact_store=store)])
    assert not get_all_artifact_meta(study)  # networks are large: their files are kept when that is asked for
    for _ in range(2):  # another process finds what the first has kept
        DashboardCallback(objective, draw=drawn, artifact_store=store).update(study)
    study.optimize(objective, n_trials=1)
    DashboardCallback(objective, artifact_store=store).update(study)
    kept = {artifact.filename: artifact.artifact_id for artifact in get_all_artifact_meta(study)}
    assert list(kept) == ["trial-0.png", "trial-0.safetensors", "trial-2.safetensors"]
    file = tmp_path / "small.safetensors"
    download_artifact(artifact_store=store, artifact_id=kept["trial-2.safetensors"], file_path=str(file))
    small, best = load_pruned(file, MODEL), objective.best_model(study)
    assert torch.equal(small(X), best(X))
    assert next(small.parameters()).unique().tolist() == [0.5]
    assert read_plan(file).study["metrics"] == {"metric": 1.0}


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
    text = note(study, SPACE)
    assert "No " not in text
    assert f"**Pareto front** of peak (maximize), parameters (minimize): {len(study.best_trials)} feasible" in text
    best = max(study.best_trials, key=lambda trial: trial.values[0])
    macs = best.user_attrs["softprune:macs"]
    first = text.split("| trial |")[1].splitlines()[2]
    assert first == f"| {best.number} | {best.values[0]:,.6g} | {best.values[1]:,.0f} | {macs:,} |"
    assert "kept by the best" not in text


def test_what_is_drawn_of_feasible_networks_waits_for_one() -> None:
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=1))
    floor = Requirement("metric", at_most=1e-9)
    unmet = PruningObjective(SPACE, error, directions=("minimize",), requirements=(floor,))
    study.optimize(unmet, n_trials=2)
    assert "No network is feasible yet" in note(study, SPACE)
    publish(study, SPACE)
    drawn = " ".join(written(study))
    for name, plot in FIGURES.items():
        if name in ("sparsity", "convergence"):
            assert name in drawn
        else:
            assert name not in drawn
            with pytest.raises(ValueError, match=r"Expected a feasible trial, but none of the 2 complete ones is"):
                plot(study)


def test_titles_of_figures_are_all_different() -> None:
    study = searched()
    titles = [plot(study).layout.title.text for plot in FIGURES.values()]
    assert len(set(titles)) == len(titles)


def test_a_target_of_macs_is_shown_as_macs() -> None:
    constraint = SparsityConstraint(SPACE, 0.4, tolerance=0.03, of="macs")
    floor = Requirement("metric", at_least=-1.5)
    objective = PruningObjective(SPACE, lambda model: -error(model), constraint, requirements=(floor,))
    sampler = ProjectedSampler(optuna.samplers.RandomSampler(seed=0), constraint)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=3)
    dense, kept = counted_macs(MODEL, (X,)), counted_macs(objective.best_model(study), (X,))
    assert study.best_trial.user_attrs["softprune:sparsity"] == pytest.approx(1 - kept / dense)
    assert sparsity(study).of == "macs"
    assert "MACs removed" in plot_sparsity(study).layout.xaxis.title.text
    text = note(study, SPACE)
    assert "Target: sparsity 0.4 +- 0.03 of the MACs" in text
    assert f"sparsity {1 - kept / dense:.4f} of the MACs" in text
    assert "Requirements: metric at least -1.5." in text
    total = next(line for line in text.splitlines() if "**total**" in line)
    assert total.endswith(f"| {dense:,.0f} | {kept:,.0f} | {1 - kept / dense:.3f} |")
    assert total.startswith(f"| **total** | {counted_parameters(MODEL):,} | ")


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
    DashboardCallback(OBJECTIVE, draw=drawn, artifact_store=store).update(study)
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
        "the best error leave out",
        "error against parameters removed",
        "Best error so far",
        "by how much of each group is removed",
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
