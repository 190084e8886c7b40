"""Files of smaller networks: what they give back, and what they refuse."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_prune import half, zoo
from torch import nn
from torch.utils import _pytree as pytree

from optuna_softprune import (
    NothingToPruneError,
    PrunedFileError,
    PruningObjective,
    PruningSpace,
    SettingsWarning,
    SoftPruneWarning,
    SparsityConstraint,
    load_pruned,
    save_pruned,
)
from optuna_softprune.plan import ATTRIBUTE
from optuna_softprune.shipping import read_plan
from optuna_softprune.testing import ZOO, randomise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOADING = """
import sys, torch
from pathlib import Path
from torch.utils import _pytree as pytree
from optuna_softprune import load_pruned
from networks import build
folder = Path(sys.argv[1])
for file in sorted(folder.glob("*.safetensors")):
    held = torch.load(folder / f"{file.stem}.outputs")
    small = load_pruned(file, build(file.stem))
    with torch.no_grad():
        found = pytree.tree_leaves(small(*held["inputs"]))
    assert list(small.state_dict()) == held["keys"], file
    for one, other in zip(found, held["outputs"], strict=True):
        same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert same, (file, one, other)
    print(file.stem)
assert "pickle" not in load_pruned.__code__.co_names
"""
BUILD_ZOO = """
from optuna_softprune.testing import ZOO
def build(name):
    return next(network for network in ZOO if network.name == name).build()
"""
BUILD_FAMILY = """
import warnings
warnings.simplefilter("ignore")
import torchvision
def build(name):
    settings = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **settings)
"""
FAMILIES = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5")
MORE_FAMILIES = (
    *("densenet121", "efficientnet_b0", "vgg11_bn", "regnet_y_400mf", "googlenet", "convnext_tiny"),
    *("mnasnet0_5", "squeezenet1_1", "vit_b_16"),
)


def keep(folder: Path, name: str, small: nn.Module, keys: list[str], inputs: tuple[Any, ...]) -> None:
    """Write a smaller network, what it returns, and the names of the dense one."""
    save_pruned(small, folder / f"{name}.safetensors")
    with torch.no_grad():
        outputs = pytree.tree_leaves(small.eval()(*inputs))
    torch.save({"inputs": inputs, "outputs": outputs, "keys": keys}, folder / f"{name}.outputs")


def load_elsewhere(folder: Path, build: str) -> list[str]:
    """Load and compare everything in a folder in another process; return the names."""
    (folder / "networks.py").write_text(build)
    paths = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
def test_whole_zoo_is_given_back_in_another_process_to_the_last_bit(tmp_path: Path) -> None:
    names = []
    for network in ZOO:
        model = randomise(network.build())
        try:
            space = PruningSpace(model, network.inputs())
        except NothingToPruneError:
            continue
        keep(tmp_path, network.name, space.prune(half(space)), list(model.state_dict()), network.inputs())
        names.append(network.name)
    assert len(names) > 35
    assert sorted(load_elsewhere(tmp_path, BUILD_ZOO)) == sorted(names)


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@pytest.mark.parametrize("families", [FAMILIES, pytest.param(MORE_FAMILIES, marks=pytest.mark.slow)], ids=["", "more"])
def test_families_are_given_back_in_another_process_to_the_last_bit(families: tuple[str, ...], tmp_path: Path) -> None:
    build: dict[str, Any] = {}
    exec(BUILD_FAMILY, build)  # the same text builds them here and there
    for name in families:
        model = randomise(build["build"](name))
        x = torch.randn(2, 3, 224 if name.startswith("vit") else 64, 224 if name.startswith("vit") else 64)
        space = PruningSpace(model, (x,))
        keep(tmp_path, name, space.prune(half(space)), list(model.state_dict()), (x,))
    assert sorted(load_elsewhere(tmp_path, BUILD_FAMILY)) == sorted(families)


@pytest.fixture(scope="module")
def norms() -> PruningSpace:
    network = zoo("norms")
    return PruningSpace(randomise(network.build()), network.inputs())


@pytest.fixture
def small(norms: PruningSpace) -> nn.Module:
    return norms.prune(half(norms))


def test_loaded_weights_lie_where_torch_puts_weights(small: nn.Module, tmp_path: Path) -> None:
    """Kernels choose, and round, by how memory is aligned."""
    save_pruned(small, tmp_path / "small")
    again = load_pruned(tmp_path / "small", zoo("norms").build())
    for network in (small, again):
        assert {tensor.data_ptr() % 64 for tensor in network.state_dict().values()} == {0}


def test_other_tools_read_the_weights(small: nn.Module, tmp_path: Path) -> None:
    save_pruned(small, tmp_path / "small.safetensors")
    small_state, read = small.state_dict(), load_file(tmp_path / "small.safetensors")
    assert sorted(read) == sorted(small_state)
    assert all(torch.equal(read[name], small_state[name]) for name in read)
    small.load_state_dict(read)


@pytest.mark.parametrize(
    "change",
    [
        copy.deepcopy,
        lambda small: pickle.loads(pickle.dumps(small)),
        lambda small: small.to(torch.float64),
        lambda small: small.to(torch.bfloat16),
        nn.DataParallel,
        torch.compile,
        lambda small: nn.parallel.DataParallel(torch.compile(small)),
    ],
    ids=["copied", "pickled", "float64", "bfloat16", "wrapped", "compiled", "both"],
)
def test_what_is_done_to_a_smaller_network_does_not_keep_it_from_being_saved(
    small: nn.Module, change: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    changed = change(small)
    save_pruned(changed, tmp_path / "small.safetensors")
    again = load_pruned(tmp_path / "small.safetensors", zoo("norms").build())
    plain = small if isinstance(changed, nn.DataParallel) or changed is small else changed
    expected = {name.removeprefix("_orig_mod."): tensor for name, tensor in plain.state_dict().items()}
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name


def test_trained_weights_and_statistics_are_what_is_saved(norms: PruningSpace, tmp_path: Path) -> None:
    small, (x,) = norms.prune(half(norms)), zoo("norms").inputs()
    small.train()
    optimizer = torch.optim.SGD(small.parameters(), 0.1)
    small(x).square().mean().backward()
    optimizer.step()
    save_pruned(small, tmp_path / "trained.safetensors")
    again = load_pruned(tmp_path / "trained.safetensors", zoo("norms").build())
    assert not again.training
    assert torch.equal(again(x), small.eval()(x))


def test_dense_network_is_only_read_and_shares_nothing(small: nn.Module, tmp_path: Path) -> None:
    save_pruned(small, tmp_path / "small.safetensors")
    model = zoo("norms").build()
    before = copy.deepcopy(model.state_dict())
    again = load_pruned(tmp_path / "small.safetensors", model)
    with torch.no_grad():
        for tensor in [*again.parameters(), *again.buffers()]:
            tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert not hasattr(model, "softprune_plan")


def test_loaded_network_has_memory_of_its_own(small: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_pruned(small, path)
    loaded = load_pruned(path, zoo("norms").build())
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    held = [tensor.untyped_storage() for tensor in loaded.state_dict().values()]
    assert [each.nbytes() for each in held] == [each.nbytes for each in loaded.state_dict().values()]
    assert len({each.data_ptr() for each in held}) == len(held)
    path.write_bytes(bytes(path.stat().st_size))  # the file is written over in its place
    torch.testing.assert_close(loaded.state_dict(), before, rtol=0, atol=0)


def test_frozen_and_tied_are_as_the_dense_network_is_built(tmp_path: Path) -> None:
    for name in ("frozen_stem", "tied_weight"):
        space = PruningSpace(randomise(zoo(name).build()), zoo(name).inputs())
        save_pruned(space.prune(half(space)), tmp_path / name)
    frozen: Any = load_pruned(tmp_path / "frozen_stem", zoo("frozen_stem").build())
    assert [p.requires_grad for p in frozen.parameters()] == [False, False, True, True, True, True]
    tied: Any = load_pruned(tmp_path / "tied_weight", zoo("tied_weight").build())
    assert tied.logits.weight is tied.embed.weight


def test_buffers_that_no_state_dict_holds_are_given_back(tmp_path: Path) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
            self.register_buffer("shift", torch.rand(6), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(self.fc(x) + self.shift)
            return y

    x = torch.randn(4, 3)
    space = PruningSpace(Shifted().eval(), (x,))
    small = space.prune(half(space))
    save_pruned(small, tmp_path / "small")
    assert torch.equal(load_pruned(tmp_path / "small", Shifted())(x), small(x))


def test_network_pruned_twice_is_loaded_into_the_one_that_was_dense(tmp_path: Path) -> None:
    for name in ("transposed", "norms", "grouped", "bottleneck"):
        network = zoo(name)
        model = randomise(network.build())
        for i in range(2):
            space = PruningSpace(model, network.inputs())
            model = space.prune({g.name: min(0.3, space.distributions[g.name].high) for g in space.groups}).eval()
            save_pruned(model, tmp_path / f"{name}{i}")
            if i == 0:
                model = load_pruned(tmp_path / f"{name}0", network.build())
        again = load_pruned(tmp_path / f"{name}1", network.build())
        assert torch.equal(again(*network.inputs()), model(*network.inputs()))
        plan = read_plan(tmp_path / f"{name}1")
        dense = dict(network.build().named_parameters())
        assert all(cut.shape == tuple(dense[n].shape) for n, cut in plan.tensors.items() if n in dense)


def test_network_that_was_built_on_since_it_was_pruned_is_the_dense_one_of_its_next_pruning(tmp_path: Path) -> None:
    def built() -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))

    first = PruningSpace(built().eval(), (torch.randn(2, 3),))
    model: Any = first.prune({"0": 0.5})
    model[2] = nn.Linear(4, 5)
    space = PruningSpace(model, (torch.randn(2, 3),))
    small = space.prune({"0": 0.5})
    save_pruned(small, tmp_path / "small")
    assert read_plan(tmp_path / "small").tensors["0.weight"].shape == (4, 3)
    assert torch.equal(load_pruned(tmp_path / "small", model)(torch.ones(2, 3)), small(torch.ones(2, 3)))


def test_plan_says_where_a_network_comes_from(norms: PruningSpace, tmp_path: Path) -> None:
    (x,) = zoo("norms").inputs()
    constraint = SparsityConstraint(norms, 0.4, tolerance=0.1)
    objective = PruningObjective(norms, lambda model: model(x).detach().abs().mean().item(), constraint)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(norms.named(constraint.project(constraint.highest * 0.4)))
    study.optimize(objective, n_trials=3)
    save_pruned(objective.best_model(study), tmp_path / "best.safetensors")
    plan, best = read_plan(tmp_path / "best.safetensors"), study.best_trial
    assert plan.coefficients == pytest.approx(norms.coefficients(best.params))
    assert plan.study["trial"] == best.number
    assert plan.study["metrics"] == {"metric": best.value}
    assert plan.study["constraint"] == constraint.describe()
    assert plan.study["weights"] == norms.fingerprint["weights"]
    assert json.loads(json.dumps(plan.to_dict())) == plan.to_dict()


def test_plan_is_printed_as_a_table(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    save_pruned(PruningSpace(model, (torch.randn(2, 3),)).prune({"0": 0.25}), tmp_path / "small")
    *lines, made = str(read_plan(tmp_path / "small")).splitlines()
    assert lines == [
        "Sequential: 38 of 50 numbers kept, in 4 parameters and buffers",
        "  group  units kept  removed",
        "  0          6 of 8    0.250",
    ]
    assert made.startswith("made with optuna_softprune ")


def test_metric_may_save_the_network_that_it_is_given(norms: PruningSpace, tmp_path: Path) -> None:
    (x,) = zoo("norms").inputs()

    def metric(model: nn.Module) -> float:
        value: float = model(x).detach().abs().mean().item()
        save_pruned(model, tmp_path / "seen.safetensors")
        return value

    PruningObjective(norms, metric)(optuna.trial.FixedTrial(half(norms)))
    again = load_pruned(tmp_path / "seen.safetensors", zoo("norms").build())
    assert torch.equal(again(x), norms.prune(half(norms))(x))


def test_what_cannot_be_saved_is_said(small: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    with pytest.raises(ValueError, match=r"Expected `small` to be what `space.prune`"):
        save_pruned(zoo("norms").build(), file)
    with pytest.raises(TypeError, match=r"Expected `small` to be a `torch.nn.Module`, but got dict"):
        save_pruned({}, file)  # type: ignore[arg-type]
    rebuilt: Any = copy.deepcopy(small)
    rebuilt.a = nn.Conv2d(3, 5, 1)
    with pytest.raises(ValueError, match=r"`a.weight` has shape \(5, 3, 1, 1\) instead of \(4, 3, 3, 3\)"):
        save_pruned(rebuilt, file)
    rebuilt = copy.deepcopy(small)
    rebuilt.more = nn.ReLU()
    with pytest.raises(ValueError, match="the module `more` was not in it"):
        save_pruned(rebuilt, file)

    class Counted(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"calls": 1}

        def set_extra_state(self, state: Any) -> None:
            pass

    space = PruningSpace(nn.Sequential(Counted(3, 6), nn.Linear(6, 2)).eval(), (torch.randn(2, 3),))
    with pytest.raises(ValueError, match=r"but `0._extra_state` is none"):
        save_pruned(space.prune(half(space)), file)
    with pytest.raises(FileNotFoundError):
        save_pruned(small, tmp_path / "no folder" / "small.safetensors")
    assert not list(tmp_path.rglob("*"))


def test_file_that_is_there_stays_until_the_new_one_is_whole(
    small: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pruned(small, tmp_path / "small")
    before = (tmp_path / "small").read_bytes()

    def full(tensors: Any, path: Any, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("optuna_softprune.shipping._file.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        save_pruned(small, tmp_path / "small")
    assert (tmp_path / "small").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def chain(*more: nn.Module, width: int = 6, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width, bias=bias), *(more or (nn.LeakyReLU(0.1),)), nn.Linear(width, 2))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (chain(width=7), r"`0.weight` has shape \(7, 4\) instead of \(6, 4\)"),
        (chain(nn.ReLU()), "`1` is a ReLU instead of a LeakyReLU"),
        (chain(nn.LeakyReLU(0.2)), "`1.negative_slope` is 0.2 instead of 0.1"),
        (chain(nn.LeakyReLU(0.1), nn.ReLU()), "`2` is a ReLU instead of a Linear"),
        (nn.Sequential(*chain(), nn.ReLU()), "the module `3` was not in it"),
        (nn.Sequential(chain()[0], chain()[1]), "it has no module `2`"),
        (chain(bias=False), "it has no `0.bias` of its own"),
        (chain(nn.Sequential(nn.LeakyReLU(0.1))), "`1` is a module with children instead of a LeakyReLU"),
    ],
)
def test_another_network_is_refused_with_the_first_difference(model: nn.Module, words: str, tmp_path: Path) -> None:
    space = PruningSpace(chain().eval(), (torch.randn(2, 4),))
    save_pruned(space.prune({"0": 0.5}), tmp_path / "small")
    with pytest.raises(PrunedFileError, match=words):
        load_pruned(tmp_path / "small", model)


def test_other_settings_of_a_class_of_ones_own_are_a_warning(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.net, self.scale = chain(), scale

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.net(x) * self.scale
            return y

    space = PruningSpace(Scaled(2.0).eval(), (torch.randn(2, 4),))
    save_pruned(space.prune(half(space)), tmp_path / "small")
    load_pruned(tmp_path / "small", Scaled(2.0))
    with pytest.warns(SettingsWarning, match=r"`scale` is 3.0 instead of 2.0"):
        load_pruned(tmp_path / "small", Scaled(3.0))


class Broken:
    """A small file, and thousands of ways to break it."""

    def __init__(self, folder: Path) -> None:
        self.inputs = zoo("bottleneck").inputs()
        space = PruningSpace(randomise(zoo("bottleneck").build()), self.inputs)
        self.small = space.prune(half(space))
        self.expected = self.small(*self.inputs)
        self.file = folder / "whole.safetensors"
        save_pruned(self.small, self.file)
        self.content = self.file.read_bytes()
        length = struct.unpack("<Q", self.content[:8])[0]
        self.header: dict[str, Any] = json.loads(self.content[8 : 8 + length])
        self.data = self.content[8 + length :]
        self.plan: dict[str, Any] = json.loads(self.header["__metadata__"]["softprune"])

    def refused(self, content: bytes) -> None:
        """Assert that a file is refused."""
        file = self.file.with_name("broken.safetensors")
        file.write_bytes(content)
        with pytest.raises(PrunedFileError):
            load_pruned(file, zoo("bottleneck").build())
        with pytest.raises(PrunedFileError):
            read_plan(file)

    def refused_or_right(self, content: bytes) -> bool:
        """Assert that a file is refused, or gives the right network; return whether it is refused."""
        file = self.file.with_name("broken.safetensors")
        file.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SoftPruneWarning)
                small = load_pruned(file, zoo("bottleneck").build())
        except PrunedFileError:
            return True
        assert all(line.isprintable() for line in str(read_plan(file)).splitlines())
        for name, tensor in small.state_dict().items():
            assert torch.equal(tensor, self.small.state_dict()[name])
        for path, module in small.named_modules():
            expected = self.small.get_submodule(path)
            for key, value in vars(module).items():
                if isinstance(value, (int, tuple)):  # sizes may be forged, to what is smaller than they were
                    assert type(value) is type(vars(expected)[key])
                elif not isinstance(value, dict) and key != ATTRIBUTE:
                    assert value == vars(expected)[key]
        return False

    def with_header(self, header: dict[str, Any]) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + self.data

    def forged(self, plan: Any) -> bytes:
        """Return a file with another plan, and the digest that fits it."""
        tensors, text = load_file(self.file), json.dumps(plan)
        digest = hashlib.sha256(text.encode())
        for name in sorted(tensors):
            digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)};".encode())
            digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
        save_file(
            tensors, self.file.with_name("forged"), {"format": "pt", "softprune": text, "sha256": digest.hexdigest()}
        )
        return self.file.with_name("forged").read_bytes()


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Broken:
    return Broken(tmp_path_factory.mktemp("broken"))


def test_files_cut_anywhere_are_refused(broken: Broken) -> None:
    for part in range(200):
        broken.refused(broken.content[: len(broken.content) * part // 200])
    broken.refused(broken.content + b"more")


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_is_refused(broken: Broken, count: int) -> None:
    places = random.Random(0)
    for _ in range(count):
        content = bytearray(broken.content)
        content[places.randrange(len(content))] ^= 1 << places.randrange(8)
        broken.refused(bytes(content))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


def renamed(value: Any, path: tuple[Any, ...], name: str) -> Any:
    if len(path) == 1:
        return {name if key == path[0] else key: item for key, item in value.items()}
    return {**value, path[0]: renamed(value[path[0]], path[1:], name)}


JUNK: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        1,
        2,
        -1,
        1.5,
        2**31,
        2**62,
        10**400,
        float("nan"),
        "",
        "..",
        "../../etc/passwd",
        "__class__",
        "\x1b[2J",
    ),
    *("forward", [], [0], [2**62], [-1], {}, {"": 0}, {"__class__": [1, 2]}, [[[]]]),
)


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_forged_plan_is_refused_or_the_network_is_right(broken: Broken, every: int) -> None:
    """Whoever edits the plan and makes the digest fit gets no other weights, and reaches nothing but stated sizes."""
    edits = [replaced(broken.plan, path, junk) for path in leaves(broken.plan) for junk in JUNK]
    keys = [path for path in leaves(broken.plan) if path and isinstance(path[-1], str)]
    edits += [renamed(broken.plan, path, name) for path in keys for name in ("", "..", "__class__", "\x1b[2J")]
    some = edits[::every]
    assert len(some) > 500
    refused = sum(broken.refused_or_right(broken.forged(plan)) for plan in some)
    assert refused > len(some) / 2  # the others change what is only said: versions, groups, the study


def test_an_edited_header_is_refused(broken: Broken) -> None:
    tensors = [name for name in broken.header if name != "__metadata__"]
    lengths = (0, -1, 1, 2**40, 2**63, 10**30)
    edits = [{**broken.header, name: {**broken.header[name], "shape": [n, *broken.header[name]["shape"][1:]]}}
             for name, n in itertools.product(tensors, lengths)]  # fmt: skip
    edits += [{**broken.header, name: {**broken.header[name], "data_offsets": [0, n]}}
              for name, n in itertools.product(tensors, lengths)]  # fmt: skip
    edits += [renamed(broken.header, (name,), other) for name in tensors
              for other in ("", "..", "../../x", "__class__.__init__", "encoder.0.forward")]  # fmt: skip
    edits += [{**broken.header, "__metadata__": {**broken.header["__metadata__"], key: ""}}
              for key in ("format", "softprune", "sha256", "more")]  # fmt: skip
    edits += [{key: value for key, value in broken.header.items() if key != name} for name in broken.header]
    for header in (edit for edit in edits if edit != broken.header):
        broken.refused(broken.with_header(header))


@pytest.mark.parametrize("name", ["no_plan", "pickle", "empty", "text"])
def test_files_of_others_are_refused(broken: Broken, name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if name == "no_plan":
        save_file(broken.small.state_dict(), file)
    elif name == "pickle":
        torch.save(broken.small, file)
    else:
        file.write_text("" if name == "empty" else "hello " * 100)
    with pytest.raises(PrunedFileError, match="Expected"):
        load_pruned(file, zoo("bottleneck").build())


def test_files_of_other_networks_are_refused(broken: Broken, tmp_path: Path) -> None:
    for network in ZOO:
        if network.name != "bottleneck":
            with pytest.raises(PrunedFileError, match="Expected `model` to be the dense"):
                load_pruned(broken.file, network.build())
    with pytest.raises(FileNotFoundError):
        load_pruned(tmp_path / "nothing", zoo("bottleneck").build())


def test_newer_schemas_and_broken_traced_parts_are_refused(broken: Broken) -> None:
    file = broken.file.with_name("newer")
    file.write_bytes(broken.forged({**broken.plan, "schema": 2}))
    with pytest.raises(PrunedFileError, match=r"schema 1, but got schema 2.*install a newer one"):
        read_plan(file)
    file.write_bytes(broken.forged({**broken.plan, "traced": {"encoder": {}}}))
    with pytest.raises(
        PrunedFileError, match=r"Expected a traced part with the keys.*`traced\['encoder'\]` of the plan"
    ):
        read_plan(file)


def test_memory_is_bounded_by_the_size_of_the_file(broken: Broken) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = 2**21
    texts = (json.dumps([[]] * (size // 4)), json.dumps(list(range(size // 8))), "[" * size, '{"a":' * (size // 5))
    for text in (*texts, f'"{"9" * size}"', "9" * size):
        metadata = {"format": "pt", "softprune": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        broken.refused(broken.with_header({**broken.header, "__metadata__": metadata}))
        save_file({}, broken.file.with_name("large"), metadata)
        with pytest.raises(PrunedFileError):
            read_plan(broken.file.with_name("large"))
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < 40 * size


def test_network_of_a_metric_is_copied_and_pickled_with_its_plan(norms: PruningSpace) -> None:
    seen: list[nn.Module] = []

    def metric(model: nn.Module) -> float:
        with torch.no_grad():
            seen.extend([model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))])
        return float(model(*zoo("norms").inputs()).detach().mean())

    PruningObjective(norms, metric, cache_bytes=0)(optuna.trial.FixedTrial(half(norms)))
    plan = norms.prune(half(norms)).softprune_plan
    assert [str(model.softprune_plan) for model in seen[-3:]] == [plan] * 3
    assert all(isinstance(model.softprune_plan, str) for model in seen[-2:])
