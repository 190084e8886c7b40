"""Every example and study runs as its reader would run it."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import load_file
from torch import nn

import optuna_softprune
from optuna_softprune import open_storage, samplers, visualization

ROOT = Path(__file__).parents[1]


def run(*arguments: str, folder: Path) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= 80


def test_quickstart_beats_the_baselines_and_resumes(tmp_path: Path) -> None:
    first = run(str(ROOT / "examples/quickstart.py"), folder=tmp_path)
    assert re.findall(r"^\d\. .*(?:left|up)", first, re.MULTILINE) == [
        "1. Train an autoencoder of digits: 60 of 60 epochs left",
        "2. Find what can be removed, and what makes up",
        "3. Remove 50%: 200 of 200 trials left",
        "4. Remove 70%: 200 of 200 trials left",
    ]
    rows = [line.rsplit(maxsplit=3) for line in first.splitlines() if line[:3] in ("50%", "70%")]
    sizes = {name: int(parameters.replace(",", "")) for name, _, parameters, _ in rows}
    for target in ("50%", "70%"):
        table = {name: (float(sparsity), float(psnr)) for name, sparsity, _, psnr in rows if name.startswith(target)}
        found = table.pop(f"{target} found")
        assert len(table) == 5
        assert found[0] == pytest.approx(float(target[:2]) / 100, abs=0.005 + 0.0005)  # printed with three digits
        assert found[1] > max(psnr for _, psnr in table.values()) - 0.1  # on images that chose nothing
        study = optuna.load_study(study_name=target, storage=open_storage(tmp_path / "quickstart.journal"))
        heuristics, others = study.trials[:5], study.trials[5:]
        assert all("fixed_params" in trial.system_attrs for trial in heuristics)
        names = [trial.user_attrs["softprune:role"] for trial in heuristics]
        assert names == ["uniform", "local norm", "global norm", "nearest", "random"]
        assert study.user_attrs["softprune:metric"] == "psnr"
        assert max(trial.value for trial in others) > max(trial.value for trial in heuristics)
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000
    small = load_file(tmp_path / "digits-0.7.safetensors")
    assert sum(weight.numel() for weight in small.values()) == sizes["70% found"]
    again = run(str(ROOT / "examples/quickstart.py"), folder=tmp_path)
    assert "0 of 60 epochs left" in again
    assert again.count("0 of 200 trials left, nothing to do") == 2
    assert again.partition("network ")[2] == first.partition("network ")[2]


@pytest.mark.parametrize("name", ["by_hand.py", "workers.py"])
def test_example_ends_with_its_claim(name: str, tmp_path: Path) -> None:
    assert "dB" in run(str(ROOT / "examples" / name), folder=tmp_path).splitlines()[-1]


def test_small_controller_keeps_95_percent_of_the_reward(tmp_path: Path) -> None:
    printed = run(str(ROOT / "examples/controller.py"), folder=tmp_path)
    dense = int(re.findall(r"dense: (\d+) parameters", printed)[0])
    size, kept = re.findall(r"(\d+) parameters keep ([\d.]+)%", printed.splitlines()[-1])[0]
    assert int(size) < 0.6 * dense
    assert float(kept) >= 95


def test_recipes_run_as_they_are_written() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "examples/README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    images = torch.randn(100, 1, 5, 5)
    names = {**vars(optuna_softprune), "optuna": optuna, "torch": torch, "model": model, "images": images}
    names |= {"unlabelled": images, "labels": model.eval()(images).argmax(1), **vars(samplers)}
    exec(blocks[0], names)
    space, names["metric"] = names["space"], names["accuracy"]
    exec(blocks[1], names)
    assert names["study"].best_value == space.parameters(space.coefficients(names["study"].best_params))
    assert names["study"].best_value == sum(each.numel() for each in names["small"].parameters())
    assert names["study"].best_value == min(
        trial.user_attrs["softprune:parameters"]
        for trial in names["study"].trials
        if trial.value is not None and trial.user_attrs["softprune:candidate"]["metrics"]["metric"] >= 0.95
    )
    names["constraint"] = optuna_softprune.SparsityConstraint(space, 0.5, tolerance=0.1)
    names["train"] = lambda network, steps: nn.init.constant_(network[4].bias, steps)
    exec(blocks[2], names)
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(names["constraint"].project(dict.fromkeys(space.distributions, 0.5)))
    study.optimize(names["objective"], n_trials=1)
    small = names["objective"].best_model(study)
    assert small[4].bias.tolist() == [50.0] * 4
    assert names["accuracy"](small) == study.best_value
    front = next(
        each
        for each in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "front" in each
    )
    names |= {"storage": None, "psnr_on_validation": names["accuracy"], "plot_front": visualization.plot_front}
    front = front.replace("60", "3").replace("space, target", "space, target, tolerance=0.1")  # of a tiny network
    exec(re.sub(r"in \(.*\)", "in (0.2, 0.5)", front), names)
    found = visualization.front(names["studies"]).values["sparsity"]
    assert (abs(found - (0.2, 0.5)) <= 0.1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "claim", "file"),
    [
        (
            "train_on.py",
            r"dense (?P<dense>[\d.]+), 80 % removed (?P<before>[\d.]+), trained on (?P<after>[\d.]+)",
            "trained-on",
        ),
        (
            "teach.py",
            r"dense (?P<dense>[\d.]+) dB, 70 % removed (?P<before>[\d.]+) dB, taught (?P<after>[\d.]+)",
            "taught",
        ),
    ],
)
def test_examples_of_training_end_better_than_they_began(name: str, claim: str, file: str, tmp_path: Path) -> None:
    found = re.search(claim, run(str(ROOT / "examples" / name), folder=tmp_path).splitlines()[-1])
    assert found is not None
    before, after, dense = (float(found[key]) for key in ("before", "after", "dense"))
    assert before < after
    assert dense - after < 0.05 * dense
    assert (tmp_path / f"{file}.safetensors").exists()


@pytest.mark.slow
def test_example_of_latency_ends_with_a_faster_network(tmp_path: Path) -> None:
    last = run(str(ROOT / "examples/latency.py"), folder=tmp_path).splitlines()[-1]
    assert re.fullmatch(r"the fastest network of the front is [\d.]+ times as fast as the dense one", last)


@pytest.mark.slow
def test_example_of_a_detector_ends_with_one_that_finds_nearly_as_well(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    last = run(str(ROOT / "examples/detector.py"), folder=tmp_path).splitlines()[-1]
    found = re.fullmatch(r"overlap with new squares: dense ([\d.]+), 70% removed ([\d.]+)", last)
    assert found is not None
    dense, small = map(float, found.groups())
    assert dense > 0.6
    assert small > dense - 0.1


@pytest.mark.slow
def test_example_of_onnx_ends_with_the_same_outputs(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    last = run(str(ROOT / "examples/to_onnx.py"), folder=tmp_path).splitlines()[-1]
    assert float(last.split("outputs differ by ")[1].split()[0]) < 1e-5
    assert (tmp_path / "small.onnx").exists()


@pytest.mark.parametrize("script", sorted((ROOT / "studies").glob("*/run.py")), ids=lambda path: path.parent.name)
def test_study_runs_quickly(script: Path) -> None:
    assert run("-m", f"studies.{script.parent.name}.run", "--quick", folder=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["quickstart.journal", "sqlite:///quickstart.db"])
def test_quickstart_killed_ten_times_loses_nothing(tmp_path: Path, storage: str) -> None:
    script = tmp_path / "quickstart.py"
    text = (ROOT / "examples/quickstart.py").read_text()
    assert '"quickstart.journal"' in text
    script.write_text(text.replace("quickstart.journal", storage))
    moments = random.Random(0)

    def completed() -> dict[tuple[str, int], float | None]:
        if not (tmp_path / storage.removeprefix("sqlite:///")).exists():
            return {}
        opened = open_storage(storage if "://" not in storage else f"sqlite:///{tmp_path}/quickstart.db")
        studies = [optuna.load_study(study_name=name, storage=opened) for name in optuna.get_all_study_names(opened)]
        return {
            (study.study_name, trial.number): trial.value
            for study in studies
            for trial in study.get_trials(states=(TrialState.COMPLETE,))
        }

    os.chdir(tmp_path)
    known: dict[tuple[str, int], float | None] = {}
    for kill in range(10):
        process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if kill % 3 == 0:  # anywhere: while it is imported, trained, analysed
            time.sleep(moments.uniform(1, 10))
        else:  # in the search
            deadline = time.monotonic() + 120
            while len(completed()) <= len(known) and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(moments.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = completed()
        assert {key: now[key] for key in known} == known
        known = now
        print(f"killed with {len(known)} trials complete")
    run(str(script), folder=tmp_path)
    now = completed()
    assert {key: now[key] for key in known} == known
    names = [name for name, _ in now]
    assert {name: names.count(name) for name in names} == {"50%": 200, "70%": 200}
