"""Everything that people hand over: inputs of all kinds, wrapped, compiled and unfit models."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import random
from typing import Any

import pytest
import torch
from checks import assert_removed_equals_masked
from torch import nn

from optuna_softprune import ExportError, ModeWarning, PruningSpace
from optuna_softprune.testing import ZOO, randomise


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).eval()


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def test_several_positional_and_keyword_inputs() -> None:
    network = next(n for n in ZOO if n.name == "two_inputs")
    model = randomise(network.build())
    kwargs = {"scale": 0.5, "shift": torch.ones(2)}
    space = PruningSpace(model, network.inputs(), example_kwargs=kwargs)
    assert_removed_equals_masked(space, model, network.inputs(), kwargs)


def test_nested_inputs_and_outputs() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, batch: dict[str, Any], pair: tuple[torch.Tensor, list[torch.Tensor]]) -> dict[str, Any]:
            x = self.stem(batch["x"]) + pair[1][0]
            return {"all": [self.head(x * batch["ids"].sum()), {"count": 3}]}

    model = Nested().eval()
    batch: Any = collections.defaultdict(list, {"x": X, "ids": torch.arange(4)})
    for args in (({"x": X, "ids": torch.arange(4)}, (X, [torch.ones(4, 1)])), (batch, (X, [torch.ones(4, 1)]))):
        assert_removed_equals_masked(PruningSpace(model, args), model, args)


def test_integer_inputs_and_buffers_stay_integers() -> None:
    network = next(n for n in ZOO if n.name == "tied_weight")
    model = randomise(network.build())
    assert_removed_equals_masked(PruningSpace(model, network.inputs()), model, network.inputs())


@pytest.mark.parametrize("example", [torch.zeros(4, 3), torch.full((4, 3), 1e-3)])
def test_example_without_variation_is_enough(example: torch.Tensor) -> None:
    model = chain()
    assert PruningSpace(model, (example,)).verify({"0": 0.5}) < 1e-9


def test_network_with_a_domain_is_verified_inside_of_it() -> None:
    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = chain()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layers(x.log())
            return y

    space = PruningSpace(Logarithm().eval(), (X.abs() + 0.01,))
    assert space.verify({"layers.0": 0.5}) < 1e-9


def test_data_parallel_is_unwrapped_and_said() -> None:
    model = chain()
    with pytest.warns(ModeWarning, match="wrapped in DataParallel: the Sequential inside it is pruned"):
        space = PruningSpace(nn.DataParallel(model), (X,))
    assert type(space.prune({"0": 0.5})) is nn.Sequential


def test_compiled_module_is_unwrapped_and_said() -> None:
    model = chain()
    with pytest.warns(ModeWarning, match="wrapped in OptimizedModule"):
        space = PruningSpace(torch.compile(model), (X,))
    assert type(space.prune({"0": 0.5})) is nn.Sequential


def test_distributed_data_parallel_is_unwrapped() -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(chain())
        with pytest.warns(ModeWarning, match="wrapped in DistributedDataParallel"):
            space = PruningSpace(wrapped, (X,))
    finally:
        torch.distributed.destroy_process_group()
    assert type(space.prune({"0": 0.5})) is nn.Sequential


def test_module_compiled_in_place_is_pruned() -> None:
    model = chain()
    model.compile()
    assert PruningSpace(model, (X,)).prune({"0": 0.5})(X).shape == (4, 2)


def test_unfit_modules_are_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"Expected `model` to be a `torch.nn.Module`, but got function"):
        PruningSpace(chain, (X,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"lazy parameters .*: call the model once"):
        PruningSpace(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)).eval(), (X,))
    with torch.device("meta"):
        meta = chain()
    with pytest.raises(ValueError, match=r"meta device: 0.weight, .* load the trained weights"):
        PruningSpace(meta, (X,))
    model = chain()
    model.generator = (i for i in range(3))  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"deep-copyable.*Keep what cannot be copied"):
        PruningSpace(model, (X,))


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_scripted_and_quantised_modules_are_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match="TorchScript module: prune the Python module"):
        PruningSpace(torch.jit.script(chain()), (X,))
    quantised = torch.ao.quantization.quantize_dynamic(chain(), {nn.Linear})
    with pytest.raises(TypeError, match=r"quantised .*: prune first, quantise the smaller network"):
        PruningSpace(quantised, (X,))


def test_inputs_that_do_not_fit_are_told_from_a_network_that_cannot_be_exported() -> None:
    with pytest.raises(ExportError, match=r"Expected `example_inputs` .* to fit the network, but .* cannot be multi"):
        PruningSpace(chain(), (torch.randn(4, 7),))
    with pytest.raises(TypeError, match=r"Expected `example_inputs` to be a tuple .* write `\(x,\)`"):
        PruningSpace(chain(), X)  # type: ignore[arg-type]


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = chain()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            x = -x
        y: torch.Tensor = self.layers(x)
        return y


def test_branch_on_data_is_refused_with_its_line() -> None:
    with pytest.raises(ExportError, match=r"failed at .*test_inputs.py:\d+: `if x.sum\(\) > 0:`.*torch.where"):
        PruningSpace(Branch().eval(), (X,))


def test_refusal_that_comes_from_no_module_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("found no graph")

    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(ExportError, match="found no graph"):
        PruningSpace(chain(), (X,))


def test_python_randomness_that_export_freezes_is_refused() -> None:
    apart = itertools.count(0, 2)  # no two draws are alike by chance

    class Drawn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = chain()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layers(x) * (random.random() + next(apart))
            return y

    with pytest.raises(ExportError, match="Expected the exported graph to compute what the network computes"):
        PruningSpace(Drawn().eval(), (X,))


def test_randomness_in_eval_mode_is_protected_not_hidden() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.head = nn.Linear(3, 6), nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.mean(x)
            y: torch.Tensor = self.head(x + torch.randn_like(x))
            return y

    state = torch.get_rng_state()
    space = PruningSpace(Noisy().eval(), (X,))
    assert [group.name for group in space.groups] == ["head.0"]
    assert any("randn_like" in p.reason for p in space.protected)
    torch.set_rng_state(state)


def test_float32_named_in_forward_is_verified_in_float32() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = chain()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layers(x @ torch.eye(3, dtype=torch.float32))
            return y

    space = PruningSpace(Named().eval(), (X,))
    assert space.verify({"layers.0": 0.5}) < 1e-5


def test_layer_used_under_no_grad_is_seen() -> None:
    network = next(n for n in ZOO if n.name == "frozen_stem")
    with torch.enable_grad():
        space = PruningSpace(network.build().eval(), network.inputs())
    assert [group.name for group in space.groups] == ["stem", "hidden"]


def test_verification_runs_three_removed_networks_on_two_inputs_each_when_nothing_fails() -> None:
    calls = []

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = chain()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append((self.layers[0].out_features, x.is_meta))
            y: torch.Tensor = self.layers(x)
            return y

    PruningSpace(Counted().eval(), (X,))
    original, its_copy, exported, read, *others = calls
    assert original == its_copy == exported == (6, False)
    assert read == (6, True)
    without_data = [width for width, is_meta in others if is_meta]
    assert len(without_data) == 3
    removed = [width for width, is_meta in others if not is_meta]
    assert len(removed) == 6
    assert all(width < 6 for width in removed)
    assert min(removed) == 1


class Cache:
    def __init__(self, kept: torch.Tensor) -> None:
        self.kept = kept


class Generator(nn.Module):
    """Returns an object beside its output, as networks of language do by default."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = chain()

    def forward(self, x: torch.Tensor, use_cache: bool = True) -> Any:
        y = self.layers(x)
        return (y, Cache(x)) if use_cache else y


def test_output_that_is_an_object_is_refused_with_the_remedy_that_fits() -> None:
    with pytest.raises(ExportError, match=r"An output of class `Cache` .*\{\"use_cache\": False\}"):
        PruningSpace(Generator().eval(), (X,))
    assert PruningSpace(Generator().eval(), (X,), example_kwargs={"use_cache": False}).verify({"layers.0": 0.5}) < 1e-9


class Answer(dict[str, torch.Tensor]):
    """A dict of one's own class, as networks of transformers return."""


class Question(collections.UserDict[str, torch.Tensor]):
    """What tokenisers return."""


class Asked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = chain()

    def forward(self, x: Any, plain: bool = False) -> Any:
        y = self.layers(x if isinstance(x, torch.Tensor) else x["x"])
        return {"y": y} if plain else Answer(y=y)


def test_dict_of_ones_own_class_is_told_from_a_branch() -> None:
    with pytest.raises(ExportError, match=r"An output of class `Answer` .* such as `dict\(...\)` of a `Answer`"):
        PruningSpace(Asked().eval(), (X,))
    with pytest.raises(ExportError, match=r"An input of class `Question` .* such as `dict\(...\)` of a `Question`"):
        PruningSpace(Asked().eval(), (Question(x=X),), example_kwargs={"plain": True})
    assert PruningSpace(Asked().eval(), ({"x": X}, True)).verify({"layers.0": 0.5}) < 1e-9


@dataclasses.dataclass
class Pair:
    x: torch.Tensor
    scale: torch.Tensor


torch.export.register_dataclass(Pair)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = chain()

    def forward(self, pair: Pair) -> Pair:
        return Pair(self.layers(pair.x) * pair.scale, pair.scale)


def test_class_that_torch_knows_is_looked_into(recwarn: pytest.WarningsRecorder) -> None:
    model, args = Scaled().eval(), (Pair(X, torch.ones(4, 1)),)
    space = PruningSpace(model, args)
    assert not recwarn.list
    assert space.verify({"layers.0": 0.5}) < 1e-12
    assert_removed_equals_masked(space, model, args)


def test_numbers_that_are_returned_are_compared_but_for_rounding(recwarn: pytest.WarningsRecorder) -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = chain()

        def forward(self, x: torch.Tensor) -> float:
            return self.layers(x).square().mean().item()

    space = PruningSpace(Loss().eval(), (X,))
    assert not recwarn.list
    assert [group.name for group in space.groups] == ["layers.0", "layers.2"]
    assert space.verify(dict.fromkeys(space.distributions, 0.5)) < 1e-9


@pytest.mark.parametrize("outputs", [{"1": "hidden", "4": "out"}, ["4"]])
def test_feature_extractor_is_pruned(outputs: Any) -> None:
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    layers = (nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1))
    model = extraction.create_feature_extractor(randomise(nn.Sequential(*layers)).eval(), outputs)
    pictures = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    space = PruningSpace(model, (pictures,))
    assert [group.name for group in space.groups] == (["2"] if len(outputs) == 2 else ["0", "2"])
    c = dict.fromkeys(space.distributions, 0.5)
    assert space.verify(c) < 1e-9
    assert type(space.prune(c)(pictures)) is dict


@pytest.mark.parametrize("seed", [4, 6, 16, 41])
def test_numbers_of_lower_precision_do_not_pass_for_sharp_by_luck(seed: int) -> None:
    class Ramp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = chain()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layers(x) * torch.linspace(0, 1, 16).sum()
            return y

    torch.manual_seed(seed)
    assert [group.name for group in PruningSpace(Ramp().eval(), (torch.randn(4, 3),)).groups] == ["layers.0"]


class Detector(nn.Module):
    """Boxes that pass a threshold: as many as the data say."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.scores = chain(), nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.backbone(x)
        found = y[(self.scores(y) > 0).flatten()]
        if found.shape[0] > 2:
            found = found[:2]
        return found


def test_network_that_depends_on_data_is_exported_once_and_its_part_named(capsys: pytest.CaptureFixture[str]) -> None:
    exported = []

    class Counted(Detector):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            exported.append(torch.compiler.is_exporting())
            return super().forward(x)

    model = Counted().eval()
    with pytest.raises(ExportError, match=r"test_inputs.py:\d+: `if found.*: `model.backbone` runs before that line"):
        PruningSpace(model, (X,))
    assert exported.count(True) == 1
    assert not any(capsys.readouterr())
    assert PruningSpace(model.backbone, (X,)).verify({"0": 0.5}) < 1e-9


def test_line_of_a_library_whose_name_begins_with_torch_is_named() -> None:
    detection = pytest.importorskip("torchvision").models.detection
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None).eval()
    with pytest.raises(ExportError, match=r"torchvision/ops/boxes.py:\d+: `.*: `model.backbone` runs before that line"):
        PruningSpace(model, ([torch.rand(3, 64, 64)],))


class Island(nn.Module):
    """Layers in bfloat16 between layers in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.island = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)).to(torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.island(self.stem(x).to(torch.bfloat16)).float())
        return y


def test_island_of_another_dtype_is_analysed_in_the_dtypes_of_the_network() -> None:
    model = Island().eval()
    space = PruningSpace(model, (X,))
    assert [group.name for group in space.groups] == ["stem", "island.0", "island.2"]
    c = dict.fromkeys(space.distributions, 0.5)
    small = space.prune(c)
    assert small.get_parameter("island.0.weight").dtype == torch.bfloat16
    assert small(X).shape == (4, 2)
    assert space.verify(c) < 0.1


def test_slope_shared_by_all_channels_is_used(recwarn: pytest.WarningsRecorder) -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.PReLU(), nn.Linear(6, 2)).eval()
    space = PruningSpace(model, (X,))
    assert not recwarn.list
    assert [p.reason for p in space.protected if p.tensor == "1.weight"] == ["its only index"]
