"""Every network that `copy.deepcopy` can copy is pruned; one whose copies are not it is refused and left as it is."""

from __future__ import annotations

import copy
import functools
import types
import weakref
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import torch
import torch.nn.functional as F
from checks import assert_removed_equals_masked
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from optuna_softprune import PruningObjective, PruningSpace, SoftPruneError
from optuna_softprune.testing import ZOO, randomise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
PICTURES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def chain(first: int = 16, second: int = 12) -> nn.Sequential:
    layers = (nn.Linear(8, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 4))
    return nn.Sequential(*layers)


def flat() -> nn.Module:
    model = chain()
    vector_to_parameters(parameters_to_vector(model.parameters()).detach().clone(), model.parameters())
    return model


def interleaved() -> nn.Module:
    """Rows of two weights alternate in one buffer."""
    model = chain()
    both = torch.randn(16, 2, 8)
    model[0].weight = nn.Parameter(both[:, 0])
    model.add_module("other", nn.Linear(8, 16))
    model[5].weight = nn.Parameter(both[:, 1])
    return model[:5]


class Compiled(nn.Module):
    """A block that is compiled: its copy runs code of its own as it is made."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        block = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        if in_place:
            block.compile(backend="eager")
        self.block: Any = block if in_place else torch.compile(block, backend="eager")
        self.head = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(x))
        return out


class Held(nn.Module):
    """Holds tensors that are no leaves, in lists, dicts, tuples and objects."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
        self.scale = nn.Parameter(torch.ones(8))
        self.held: list[Any] = [self.scale * 2, {"x": (self.scale * 3,)}]
        self.box = types.SimpleNamespace(scaled=self.scale * 4, own=[self.scale])

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale * self.held[0].detach() + self.held[1]["x"][0].detach() * self.box.scaled.detach()
        out: Tensor = self.head(torch.relu(self.read(x * self.box.own[0])))
        return out


class CopiedByItsOwnWay(nn.Module):
    """Looks into the block that it is made of."""

    def __init__(self, block: nn.Sequential) -> None:
        super().__init__()
        self.block, self.layers = block, len(block)

    def __deepcopy__(self, memo: dict[int, Any]) -> CopiedByItsOwnWay:
        return CopiedByItsOwnWay(copy.deepcopy(self.block, memo))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class WithoutMemo(nn.Module):
    """Copies its parts with no knowledge of the copy that it is a part of."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = chain()

    def __deepcopy__(self, memo: dict[int, Any]) -> WithoutMemo:
        duplicate = WithoutMemo.__new__(WithoutMemo)
        vars(duplicate).update(vars(self))
        duplicate._modules = {name: copy.deepcopy(each) for name, each in self._modules.items()}
        return duplicate

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class MadeAgain(WithoutMemo):
    """Copies itself by building itself again, as wide as it is, and loading its state."""

    def __deepcopy__(self, memo: dict[int, Any]) -> MadeAgain:
        duplicate = MadeAgain()
        duplicate.layers = chain(self.layers[0].out_features, self.layers[2].out_features)
        duplicate.load_state_dict(self.state_dict())
        return duplicate


class LateMode(WithoutMemo):
    """Comes out of its own copy in train mode, and minds the mode."""

    def __deepcopy__(self, memo: dict[int, Any]) -> LateMode:
        duplicate = LateMode()
        duplicate.layers = copy.deepcopy(self.layers, memo).train()
        return duplicate

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return -out if self.layers.training else out


class Remembers(nn.Module):
    """Takes the norms of its rows once."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

    @functools.cached_property
    def norms(self) -> Tensor:
        return self.read.weight.norm(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.read(x) * self.norms))
        return out


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return chain()


COPIED: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "views of one flat tensor": (flat, [16, 12]),
    "interleaved views": (interleaved, [16, 12]),
    "compiled block": (lambda: Compiled(False), [16, 8, 6]),
    "block compiled in place": (lambda: Compiled(True), [16, 8, 6]),
    "tensors in containers": (Held, [16]),
    "a copy of its own without memo": (WithoutMemo, [16, 12]),
    "a copy of its own that is built again": (MadeAgain, [16, 12]),
    "a copy of its own in another mode": (LateMode, [16, 12]),
    "made in inference mode": (made_in_inference_mode, [16, 12]),
    "a copy of its own": (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), CopiedByItsOwnWay(chain()[2:])), [16, 12]),
}


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")  # about hooks that the counter of operations has
@pytest.mark.parametrize(("build", "sizes"), COPIED.values(), ids=COPIED)
def test_what_can_be_copied_can_be_pruned(build: Callable[[], nn.Module], sizes: list[int]) -> None:
    model = build().eval()
    with torch.no_grad():
        expected = model(X)
    space = PruningSpace(model, (X,))
    assert [group.size for group in space.groups] == sizes
    c = {group.name: 0.5 for group in space.groups}
    assert all(not module.training for module in space.prune(c).modules())
    assert_removed_equals_masked(space, model, (X,))
    torch.testing.assert_close(space.prune({group.name: 0.0 for group in space.groups})(X), expected)


def test_memory_that_two_weights_share_is_protected() -> None:
    model = chain()
    stack = torch.randn(20, 16)
    model[2].weight = nn.Parameter(stack[:12])
    model.add_module("other", nn.Linear(16, 12))
    model[5].weight = nn.Parameter(stack[8:])
    model.add_module("head", nn.Identity())
    space = PruningSpace(nn.Sequential(*model[:5]).eval(), (X,))
    assert [group.size for group in space.groups] == [16, 12]

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.layers[1](self.layers[0](x))
            out: Tensor = self.layers[4](torch.relu(self.layers[2](hidden)) + torch.relu(self.layers[5](hidden)))
            return out

    with pytest.raises(ValueError, match=r"shares its memory with `layers\.[25].weight`"):
        PruningSpace(Both().eval(), (X,))


class Skip(nn.Module):
    """Features of an encoder go to a decoder by a hook."""

    def __init__(self, hook: Callable[[Skip], Any]) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.decode, self.out = nn.Conv2d(20, 6, 3, padding=1), nn.Conv2d(6, 1, 1)
        self.kept: dict[str, Tensor] = {}
        self.encode[1].register_forward_hook(hook(self))

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.kept["skip"] = output

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.encode(x), scale_factor=2.0)
        out: Tensor = self.out(F.relu(self.decode(torch.cat([y, self.kept["skip"]], 1))))
        return out


def by_closure_over_a_dict(model: Skip) -> Any:
    kept = model.kept

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        kept["skip"] = output

    return keep


def by_closure_over_the_model(model: Skip) -> Any:
    return lambda module, args, output: model.keep(module, args, output)


def by_default(model: Skip) -> Any:
    def keep(module: nn.Module, args: Any, output: Tensor, kept: dict[str, Tensor] = model.kept) -> None:
        kept["skip"] = output

    return keep


def by_weak_reference(model: Skip) -> Any:
    owner = weakref.ref(model)

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        found = owner()
        assert found is not None
        found.kept["skip"] = output

    return keep


HOOKS = [by_closure_over_a_dict, by_closure_over_the_model, by_default, by_weak_reference]


@pytest.mark.parametrize("ran_before", [False, True])
@pytest.mark.parametrize("hook", HOOKS)
def test_hook_that_keeps_features_in_the_original_is_refused_by_name(
    hook: Callable[[Skip], Any], ran_before: bool
) -> None:
    model = Skip(hook).eval()
    if ran_before:
        with torch.no_grad():
            model(PICTURES)
    before = hashes(model)
    message = r"a copy of `model` to compute what `model` computes, but the copy .*in a forward hook of `encode.1` \("
    if hook is by_default:
        message = message.replace("in a", "default of a")
    with pytest.raises(TypeError, match=message):
        PruningSpace(model, (PICTURES,))
    assert hashes(model) == before


@pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning")  # by `torch.export`
@pytest.mark.parametrize("hook", [lambda model: model.keep, lambda model: functools.partial(Skip.keep, model)])
def test_hook_that_copies_follow_is_pruned(hook: Callable[[Skip], Any]) -> None:
    model = Skip(hook).eval()
    with torch.no_grad():
        model(PICTURES)
    before = hashes(model)
    space = PruningSpace(model, (PICTURES,))
    assert hashes(model) == before
    other = PICTURES.flip(0)
    with torch.no_grad():
        small = space.prune({group.name: 0.0 for group in space.groups})
        torch.testing.assert_close(small(other), model(other))
    assert space.verify({group.name: 0.5 for group in space.groups}) < 1e-9


def test_function_that_holds_a_layer_of_the_original_is_refused() -> None:
    model: Any = chain().eval()
    inner = model[0].forward
    model[0].forward = lambda x: inner(x) * 2
    with pytest.raises(TypeError, match=r"the copy reads `0.weight` of `model` itself.*`inner` in `0.forward` \(f"):
        PruningSpace(model, (X,))


def test_copy_of_ones_own_that_is_another_network_is_refused() -> None:
    class Forgetful(CopiedByItsOwnWay):
        def __deepcopy__(self, memo: dict[int, Any]) -> Forgetful:
            block = chain()
            block[1] = nn.Tanh()
            return Forgetful(block)

    with pytest.raises(TypeError, match="but their outputs differ"):
        PruningSpace(Forgetful(chain()).eval(), (X,))


SEEN: dict[str, Any] = {}


def test_monitor_of_the_users_own_is_no_reason_to_refuse_and_does_not_see_copies() -> None:
    model = chain().eval()
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output))
    model[2].register_forward_hook(lambda module, args, output: SEEN.update(last=output))
    with torch.no_grad():
        model(X)
    last = SEEN["last"]
    space = PruningSpace(model, (X,))
    assert [group.size for group in space.groups] == [16, 12]
    space.verify(dict.fromkeys(space.distributions, 0.5))
    assert len(seen) == 1
    assert SEEN["last"] is last


def test_registry_that_a_hook_finds_outside_is_named() -> None:
    class Found(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = chain()
            SEEN["first"] = self.layers[0]
            self.layers[0].register_forward_hook(lambda module, args, output: SEEN["first"].weight.mean() * output)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layers(x)
            return out

    with pytest.raises(TypeError, match=r"reads `layers.0.weight` of `model` itself.*`SEEN` in a forward hook of"):
        PruningSpace(Found().eval(), (X,))


def test_what_the_first_pass_keeps_is_kept_anew_by_each_network() -> None:
    model = Remembers().eval()
    space = PruningSpace(model, (X,))
    assert space.verify({"read": 0.5}) < 1e-9
    assert "norms" not in vars(model)
    with torch.no_grad():
        small = space.prune({"read": 0.5})
        assert small(X).shape == (4, 4)
    model(X)
    with pytest.raises(ValueError, match=r"coupled to `norms`, which is no parameter or buffer of the network: regis"):
        PruningSpace(model, (X,))


def test_layers_in_a_plain_list_are_named_with_the_remedy() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = nn.Linear(8, 16), [nn.Linear(16, 12), nn.Linear(12, 4)]

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            for layer in self.rest:
                x = torch.relu(layer(x))
            return x

    with pytest.raises(ValueError, match=r"coupled to `rest\[0\].weight`, which is no parameter .* an `nn.ModuleList`"):
        PruningSpace(Listed().eval(), (X,))


def reachable(value: Any, seen: dict[int, Any]) -> Iterator[Tensor]:
    """Yield every tensor that can be reached, by whatever way."""
    if id(value) in seen or isinstance(value, (type, types.ModuleType, str, int, float)):
        return
    seen[id(value)] = value
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            yield from reachable(cell.cell_contents, seen)
        yield from reachable(value.__defaults__, seen)
    elif isinstance(value, types.MethodType):
        yield from reachable(value.__self__, seen)
    elif isinstance(value, functools.partial):
        yield from reachable([value.func, value.args], seen)
    elif isinstance(value, dict):
        for each in value.values():
            yield from reachable(each, seen)
    elif isinstance(value, (list, tuple, set)):
        for each in value:
            yield from reachable(each, seen)
    elif hasattr(value, "__dict__"):
        yield from reachable(vars(value), seen)


def hashes(model: nn.Module) -> list[Any]:
    """Return what identifies all tensors that a network leads to, and the mode of its modules."""
    found = [
        (id(each), each.data_ptr(), each.dtype, each.requires_grad, each.detach().flatten().tolist())
        for each in reachable(model, {})
    ]
    return [*found, [module.training for module in model.modules()]]


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@pytest.mark.parametrize("network", ZOO, ids=lambda network: network.name)
@pytest.mark.parametrize("mode", [False, True])
def test_no_tensor_that_the_model_leads_to_is_touched(network: Any, mode: bool) -> None:
    model = randomise(network.build()).train(mode)
    args = network.inputs()
    before = hashes(model)
    try:
        space = PruningSpace(model, args)
    except (SoftPruneError, ValueError):
        assert hashes(model) == before
        return
    assert hashes(model) == before

    def metric(small: nn.Module) -> float:
        with torch.no_grad():
            small(*args)
        return 0.0

    objective = PruningObjective(space, metric)
    objective(optuna.trial.FixedTrial({name: found.high / 2 for name, found in space.distributions.items()}))
    assert hashes(model) == before
