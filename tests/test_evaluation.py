"""What a metric sees of a candidate is the removed network, however little of it was computed."""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import pickle
import pickletools
import zipfile
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import optuna
import pytest
import torch
from checks import candidates
from evaluations import Seen, assert_like_the_removed_network, assert_random_network_is_like_the_removed, evaluate, mlp
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import optuna_softprune
from optuna_softprune import PruningObjective, PruningSpace
from optuna_softprune.evaluation._sharing import Sharing
from optuna_softprune.testing import ZOO, randomise
from optuna_softprune.testing.strategies import random_networks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from optuna_softprune.testing import RandomNetwork

WARNING = "optuna_softprune"


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@pytest.mark.parametrize("network", [n for n in ZOO if n.groups], ids=lambda network: network.name)
def test_zoo(network: Any) -> None:
    model = randomise(network.build()).eval()
    args = network.inputs()
    twice = tuple(torch.cat([each, each.flip(0)]) for each in args)
    inputs = [args, twice] if network.name not in ("two_inputs", "norms", "shared_module") else [args]
    assert_like_the_removed_network(PruningSpace(model, args), inputs)


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(random_networks())
def test_random_network(model: RandomNetwork) -> None:
    assert_random_network_is_like_the_removed(model)


MODEL = mlp(6, 12, 10, 8, 6)
X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
SPACE = PruningSpace(MODEL, (X,))
HALF = SPACE.snap({name: found.high / 2 for name, found in SPACE.distributions.items()})


class Counted(nn.Module):
    """A linear layer that counts its forward passes."""

    passes = 0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        type(self).passes += 1
        return torch.tanh(self.linear(x))


def test_the_network_itself_does_not_run_again() -> None:
    model = randomise(nn.Sequential(Counted(), nn.Linear(6, 9), nn.Linear(9, 2))).eval()
    space = PruningSpace(model, (X,))
    objective = PruningObjective(space, Seen((X,)))
    evaluate(objective, {name: 0.0 for name in space.distributions})
    passes = Counted.passes
    for c in candidates(space, 5):
        evaluate(objective, c)
    assert Counted.passes == passes
    assert objective.peak_cache_bytes > 0


class Registered(nn.Module):
    """Knows its subclasses and moves in ways of its own, as the models of transformers and diffusers do."""

    known: ClassVar[list[str]] = []

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        Registered.known.append(cls.__name__)

    def train(self, mode: bool = True) -> Registered:
        return super().train(mode)

    def eval(self) -> Registered:
        return self.train(False)

    def to(self, *args: Any, **kwargs: Any) -> Registered:
        return super().to(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class Plain(Registered):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Counted(), nn.Linear(6, 9), nn.Linear(9, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class Counting(Plain):
    """Cannot be called still: each time leaves a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.moves = 0

    def to(self, *args: Any, **kwargs: Any) -> Registered:
        self.moves = self.moves + 1
        return super().to(*args, **kwargs)


@pytest.mark.parametrize(("kind", "passes"), [(Plain, 0), (Counting, 5)])
def test_classes_with_ways_of_their_own_share_what_they_can(kind: type[Plain], passes: int) -> None:
    model = randomise(kind()).eval()
    space = PruningSpace(model, (X,))
    known = list(Registered.known)
    seen: list[Tensor] = []

    def metric(network: nn.Module) -> float:
        assert isinstance(network, kind)
        network = network.eval().to(network.device)
        with torch.no_grad():
            seen.append(network(X))
        assert getattr(network, "moves", 1) == 1
        return 0.0

    objective = PruningObjective(space, metric)
    evaluate(objective, {name: 0.0 for name in space.distributions})
    before = Counted.passes
    for c in candidates(space, 5):
        evaluate(objective, c)
        now = Counted.passes
        with torch.no_grad():
            torch.testing.assert_close(seen[-1], space.prune(c).eval()(X))
        Counted.passes = now
    assert Counted.passes - before == passes
    assert Registered.known == known


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.read, self.remember = Counted(), kind(6, 8, 2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.remember(self.read(x))[0][:, -1])
        return out


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_shared(kind: type[nn.RNNBase]) -> None:
    x = X.reshape(4, 4, 6)
    space = PruningSpace(randomise(Recurrent(kind)).eval(), (x,))
    assert "remember" in [group.name.split(".")[0] for group in space.groups]
    assert_like_the_removed_network(space, [(x,)])
    objective = PruningObjective(space, Seen((x,)))
    evaluate(objective, {name: 0.0 for name in space.distributions})
    passes = Counted.passes
    for c in candidates(space, 5):
        evaluate(objective, c)
    assert Counted.passes == passes


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))
        self.decoder = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 6))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.decoder(self.encoder(x))
        return found

    def code(self, x: Tensor) -> Tensor:
        found: Tensor = self.encoder(x)
        return found


def weakened(model: nn.Module) -> Tensor:
    for parameter in model.parameters():
        parameter.data.mul_(0.5)
    return run(model)


def first_weakened(model: nn.Module) -> Tensor:
    model.eval()
    next(model.parameters()).data.mul_(0.5)
    return run(model)


def hooked(model: nn.Module) -> Tensor:
    assert isinstance(model, Encoder)
    seen = []
    handle = model.encoder.register_forward_hook(lambda module, args, out: seen.append(out))
    run(model)
    handle.remove()
    return seen[0]


def in_between(model: nn.Module) -> Tensor:
    before = run(model)
    assert isinstance(model, Encoder)
    return before + model.code(X).sum(1, keepdim=True)


def stored(model: nn.Module) -> Tensor:
    model.register_buffer("offset", torch.ones(6))
    return run(model) + model.get_buffer("offset")


def on_its_device(model: nn.Module) -> Tensor:
    assert not isinstance(model, nn.DataParallel)
    assert not model.training
    device = next(model.parameters()).device
    return run(model.to(device).train(False))


def second_network(model: nn.Module) -> Tensor:
    again = copy.deepcopy(model)
    assert type(again) is Encoder
    pickled: nn.Module = pickle.loads(pickle.dumps(model))
    assert type(pickled) is type(model) is Encoder
    return run(again) + run(pickled) + run(model)


def trained(model: nn.Module) -> Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (model(X) - X).square().mean().backward()
    optimizer.step()
    return run(model)


def counted(model: nn.Module) -> Tensor:
    return run(model) * sum(p.numel() for p in model.parameters()) + len(model.state_dict())


def switched(model: nn.Module) -> Tensor:
    model.train()
    assert model.training
    return run(model)


def spoilt(model: nn.Module) -> Tensor:
    run(model).zero_()
    return run(model)


def by_functional_call(model: nn.Module) -> Tensor:
    halves = {name: parameter * 0.5 for name, parameter in model.named_parameters()}
    out: Tensor = torch.func.functional_call(model, halves, (X,))
    return out.detach()


def run(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(X)
    return out


@pytest.mark.parametrize(
    "use",
    [
        weakened, first_weakened, hooked, in_between, stored, on_its_device, second_network, trained, counted, switched,
        spoilt, by_functional_call,
    ],
)  # fmt: skip
def test_a_metric_may_do_with_its_network_what_it_likes(use: Callable[[nn.Module], Tensor]) -> None:
    model = randomise(Encoder()).eval()
    before = copy.deepcopy(model.state_dict())
    space = PruningSpace(model, (X,))
    outputs: list[Tensor] = []

    def metric(network: nn.Module) -> float:
        with torch.no_grad():
            network(X + 1)
        outputs.append(use(network))
        return 0.0

    objective = PruningObjective(space, metric)
    for c in list(candidates(space, 3)) * 2:
        outputs.clear()
        evaluate(objective, c)
        torch.testing.assert_close(outputs[-1], use(space.prune(c).eval()))
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def quantised(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def tuned(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (model(X) - X).square().mean().backward()
    optimizer.step()
    return model


def saved_and_loaded(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    with zipfile.ZipFile(buffer) as parts:
        (pickled,) = (parts.read(name) for name in parts.namelist() if name.endswith("data.pkl"))
    classes = [str(argument) for code, argument, _ in pickletools.genops(pickled) if code.name == "GLOBAL"]
    assert classes
    assert not any("softprune" in name for name in classes)
    buffer.seek(0)
    loaded: nn.Module = torch.load(buffer, weights_only=False)
    return loaded


def of_its_state(model: nn.Module) -> nn.Module:
    state = model.state_dict()
    widths = [state[f"{i}.weight"].shape[0] for i in (0, 2, 4)]
    again = mlp(6, *widths, 6)
    again.load_state_dict(state)
    return again


def compiled(model: nn.Module) -> nn.Module:
    made: nn.Module = torch.compile(model, backend="eager")
    return made


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("cache_bytes", [2**28, 0])
@pytest.mark.parametrize(
    "make",
    [
        quantised, tuned, torch.optim.swa_utils.AveragedModel, saved_and_loaded, of_its_state, compiled,
        torch.jit.script, lambda model: torch.jit.trace(model, X),
        lambda model: torch.export.export(model, (X,)).module(),
        lambda model: pickle.loads(pickle.dumps(model)), lambda model: copy.copy(model),
    ],
    ids=["quantised", "tuned", "averaged", "saved", "state", "compiled", "scripted", "traced", "exported", "pickled",
         "shallow"],
)  # fmt: skip
def test_metric_may_run_what_it_made_of_its_network(
    make: Callable[[nn.Module], nn.Module], cache_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    def metric(model: nn.Module) -> float:
        with torch.no_grad():
            return float(make_with_gradients(model)(X).square().mean().item())

    def make_with_gradients(model: nn.Module) -> nn.Module:
        with torch.enable_grad():
            return make(model)

    objective = PruningObjective(SPACE, metric, cache_bytes=cache_bytes)
    optuna.logging.enable_propagation()
    for c in (HALF, dict.fromkeys(HALF, 0.0)):
        assert evaluate(objective, c) == pytest.approx(metric(SPACE.prune(c).eval()), rel=1e-5)
    optuna.logging.disable_propagation()
    if make is not compiled:  # which runs the hooks of an earlier network of the same form
        assert not [message for message in caplog.messages if "neither ran nor copied" in message]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("cache_bytes", [2**28, 0])
def test_metric_may_run_its_network_in_a_forked_process(cache_bytes: int, caplog: pytest.LogCaptureFixture) -> None:
    forking = multiprocessing.get_context("fork")

    def metric(model: nn.Module) -> float:
        values = forking.SimpleQueue()
        process = forking.Process(target=lambda: values.put(run(model).square().mean().item()))
        process.start()
        value = values.get()
        process.join()
        return float(value)

    objective = PruningObjective(SPACE, metric, cache_bytes=cache_bytes)
    optuna.logging.enable_propagation()
    assert evaluate(objective, HALF) == pytest.approx(metric(SPACE.prune(HALF).eval()), rel=1e-5)
    optuna.logging.disable_propagation()
    assert "neither ran nor copied" not in caplog.text


def test_metric_that_counts_operations_gets_the_whole_network(caplog: pytest.LogCaptureFixture) -> None:
    def counted_operations(model: nn.Module) -> float:
        with FlopCounterMode(display=False) as counter:
            run(model)
        return float(counter.get_total_flops())

    objective = PruningObjective(SPACE, counted_operations)
    optuna.logging.enable_propagation()
    for c in (HALF, dict.fromkeys(HALF, 0.0), HALF):
        assert evaluate(objective, c) == counted_operations(SPACE.prune(c).eval())
    optuna.logging.disable_propagation()
    assert "the metric looks at each operation" in caplog.text


@pytest.mark.parametrize("cache_bytes", [2**28, 0])
def test_metric_that_may_have_used_the_weights_is_warned_once(
    cache_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    objective = PruningObjective(
        SPACE, lambda model: float(sum(p.numel() for p in model.parameters())), cache_bytes=cache_bytes
    )
    optuna.logging.enable_propagation()
    values = [evaluate(objective, c) for c in (HALF, HALF)]
    optuna.logging.disable_propagation()
    assert values == [SPACE.parameters(HALF)] * 2
    assert sum("neither ran nor copied" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("cache_bytes", [2**28, 0])
@pytest.mark.parametrize("look", [lambda model: model.eval(), lambda model: list(model.modules())])
def test_metric_of_the_dense_network_is_an_error(look: Callable[[nn.Module], Any], cache_bytes: int) -> None:
    def metric(model: nn.Module) -> float:
        look(model)
        with torch.no_grad():
            return float(MODEL(X).sum().item())

    objective = PruningObjective(SPACE, metric, cache_bytes=cache_bytes)
    with pytest.raises(ValueError, match="but it never did"):
        evaluate(objective, HALF)


def expected_on(x: Tensor, c: Mapping[str, float]) -> Tensor:
    with torch.no_grad():
        out: Tensor = SPACE.prune(c)(x)
    return out


def test_inputs_are_compared_not_trusted() -> None:
    """The same tensor with other contents, written past torch, is another input."""
    x = X.clone()
    seen = Seen((x,))
    objective = PruningObjective(SPACE, seen)
    for c in list(candidates(SPACE, 2)) * 2:
        evaluate(objective, c)
        torch.testing.assert_close(seen.outputs[0], expected_on(x, c))
        x.numpy()[3] += 1.0


def test_shuffled_data_is_right_and_said(caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(0)
    seen = Seen()
    objective = PruningObjective(SPACE, seen)
    optuna.logging.enable_propagation()
    for _ in range(80):
        seen.inputs = ((X[random.permutation(16)],),)
        evaluate(objective, HALF)
        torch.testing.assert_close(seen.outputs[0], expected_on(seen.inputs[0][0], HALF))
    optuna.logging.disable_propagation()
    assert sum("shuffled data" in message for message in caplog.messages) == 1


def test_gradients_are_left_alone_and_the_remedy_is_said(caplog: pytest.LogCaptureFixture) -> None:
    def metric(model: nn.Module) -> float:
        out = model(X)
        assert out.requires_grad
        return float(out.sum().item())

    objective = PruningObjective(SPACE, metric)
    optuna.logging.enable_propagation()
    values = [evaluate(objective, HALF) for _ in range(3)]
    optuna.logging.disable_propagation()
    assert values == [expected_on(X, HALF).sum().item()] * 3
    assert sum("torch.no_grad()" in message for message in caplog.messages) == 1


def test_a_metric_that_measures_time_gets_the_whole_network(caplog: pytest.LogCaptureFixture) -> None:
    """It runs the network again and again on one input; passes that are looked up would say nothing of its speed."""
    model = randomise(nn.Sequential(Counted(), nn.Linear(6, 9), nn.Linear(9, 2))).eval()
    space = PruningSpace(model, (X,))
    objective = PruningObjective(space, Seen(*[(X,)] * 5))
    optuna.logging.enable_propagation()
    evaluate(objective, {name: 0.0 for name in space.distributions})
    passes = Counted.passes
    for c in candidates(space, 3):
        evaluate(objective, c)
    optuna.logging.disable_propagation()
    assert Counted.passes == passes + 3 * 5
    assert sum("on the same input" in message for message in caplog.messages) == 1


def test_hooks_of_the_network_see_every_pass(caplog: pytest.LogCaptureFixture) -> None:
    model = randomise(Encoder()).eval()
    codes: list[Tensor] = []
    space = PruningSpace(model, (X,))
    model.encoder.register_forward_hook(lambda module, args, out: codes.append(out))
    objective = PruningObjective(space, Seen((X,)))
    optuna.logging.enable_propagation()
    for c in list(candidates(space, 2)) * 2:
        evaluate(objective, c)
        got = codes[-1]
        small = space.prune(c)
        assert isinstance(small, Encoder)
        with torch.no_grad():
            torch.testing.assert_close(got, small.encoder(X))
    optuna.logging.disable_propagation()
    assert sum("has hooks" in message for message in caplog.messages) == 1


class Stateful(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.passes = 0
        self.widths: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes = self.passes + 1
        return super().forward(x)


class Growing(Stateful):
    def forward(self, x: Tensor) -> Tensor:
        self.widths.append(x.shape[1])
        return Encoder.forward(self, x)


@pytest.mark.parametrize("kind", [Stateful, Growing])
def test_what_a_pass_leaves_behind_is_there(kind: type[Stateful], caplog: pytest.LogCaptureFixture) -> None:
    model = randomise(kind()).eval()
    space = PruningSpace(model, (X,))
    model.passes, model.widths = 0, []
    found = []

    def metric(network: nn.Module) -> float:
        assert isinstance(network, Stateful)
        with torch.no_grad():
            network(X)
            network(X + 1)
        found.append(network.passes + len(network.widths))
        return 0.0

    optuna.logging.enable_propagation()
    objective = PruningObjective(space, metric)
    for c in candidates(space, 3):
        evaluate(objective, c)
    optuna.logging.disable_propagation()
    assert set(found) == {2}
    assert sum("leaves something behind" in message for message in caplog.messages) == 1


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out + 1e-9 * torch.rand_like(out)


def test_a_random_network_is_evaluated_whole_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    objective = PruningObjective(PruningSpace(randomise(Noisy()).eval(), (X,)), Seen((X,)))
    optuna.logging.enable_propagation()
    for _ in range(2):
        evaluate(objective, {"layers.0": 0.5})
    optuna.logging.disable_propagation()
    assert sum("is random" in message for message in caplog.messages) == 1
    assert objective.peak_cache_bytes == 0


@pytest.mark.parametrize("budget", [0, 1, 3000, 20_000])
def test_memory_stays_in_its_budget(budget: int) -> None:
    seen = Seen((X,), (X + 1,))
    objective = PruningObjective(SPACE, seen, cache_bytes=budget)
    for c in candidates(SPACE, 30):
        evaluate(objective, c)
        torch.testing.assert_close(seen.outputs[0], expected_on(X, c))
        torch.testing.assert_close(seen.outputs[1], expected_on(X + 1, c))
        assert objective.peak_cache_bytes <= budget


def test_many_threads_see_what_one_sees() -> None:
    def metric(model: nn.Module) -> float:
        with torch.no_grad():
            return float(sum((model(part) - part).square().mean().item() for part in X.split(5)))

    found = []
    for jobs in (1, 4):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), direction="minimize")
        objective = PruningObjective(SPACE, metric, directions=("minimize",), reuse=False)
        for level in np.linspace(0, 0.75, 40):
            study.enqueue_trial({name: level for name in SPACE.distributions})
        study.optimize(objective, n_trials=40, n_jobs=jobs)
        found.append({trial.params["0"]: trial.value for trial in study.trials})
    assert found[0] == found[1]


def test_mixed_precision_is_not_taken_for_full() -> None:
    seen = Seen((X,))
    objective = PruningObjective(SPACE, seen)
    evaluate(objective, HALF)
    with torch.autocast("cpu", torch.bfloat16):
        evaluate(objective, HALF)
        with torch.no_grad():
            expected = SPACE.prune(HALF)(X)
    assert seen.outputs[0].dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(seen.outputs[0], expected)


def test_many_batches_are_shared_as_one_is() -> None:
    """A candidate without anything in common has many passes; they are one candidate, not many in a row."""
    model = randomise(nn.Sequential(Counted(), nn.Linear(6, 9), nn.Linear(9, 2))).eval()
    space = PruningSpace(model, (X,))
    batches = [(X + i,) for i in range(40)]
    objective = PruningObjective(space, Seen(*batches))
    evaluate(objective, {name: 0.0 for name in space.distributions})
    peak = objective.peak_cache_bytes
    evaluate(objective, {name: found.high for name, found in space.distributions.items()})
    assert objective.peak_cache_bytes > peak


class OfAll(nn.Module):
    """An autoencoder of pictures in which an example may see the others."""

    def __init__(self, look: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.look = look
        self.encode, self.decode = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.look(self.decode(torch.relu(self.encode(x))))


def louder_if_one_is_loud(x: Tensor) -> Tensor:
    return torch.where(x.amax() > 1e6, 2 * x, x)


@pytest.mark.parametrize(
    ("look", "in_blocks"),
    [
        (torch.tanh, True),
        (lambda x: x - x.mean(0), False),
        (lambda x: x / x.norm(), False),
        (lambda x: x + x.flip(0), False),
        (louder_if_one_is_loud, False),
    ],
    ids=["each by itself", "mean", "norm", "flip", "one is loud"],
)
def test_many_examples_are_as_right_as_few(
    look: Callable[[Tensor], Tensor], in_blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """600 pictures are evaluated in blocks of 256, unless one of them sees another."""
    lengths: list[int] = []
    run = Sharing.run

    def noted(sharing: Sharing, candidate: Any, flat: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        lengths.append(len(flat[0]))
        return run(sharing, candidate, flat, *args, **kwargs)

    monkeypatch.setattr(Sharing, "run", noted)
    x = torch.rand(600, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    loud = x.clone()
    loud[0] = 1e9
    space = PruningSpace(randomise(OfAll(look)).eval(), (x[:2],))
    objective = assert_like_the_removed_network(space, [(x,), (loud,), (x[:3],)])
    lengths.clear()
    evaluate(objective, {name: 0.0 for name in space.distributions})
    assert lengths == ([256, 256, 88] * 2 if in_blocks else [600] * 2) + [3]


def test_a_search_that_jumps_about_remembers_nothing_until_it_comes_back() -> None:
    objective = PruningObjective(SPACE, seen := Seen((X,)))
    random = np.random.default_rng(0)
    widths = [12, 10, 8]
    assert [group.size for group in SPACE.groups] == widths
    for kept in random.permutation(11)[:10]:
        evaluate(objective, {"0": (kept + 1) / 12, "2": 0.0, "4": 0.0})
        torch.testing.assert_close(seen.outputs[0], expected_on(X, {"0": (kept + 1) / 12, "2": 0.0, "4": 0.0}))
    for c in list(candidates(SPACE, 40)) * 2:
        evaluate(objective, c)
        torch.testing.assert_close(seen.outputs[0], expected_on(X, c))


def test_memory_of_a_search_that_is_over_is_let_go_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna_softprune.evaluation._memory, "LEFT_BEHIND", -1)
    space = PruningSpace(mlp(6, 8, 6), (X[:2],))

    def search() -> PruningObjective:
        objective = PruningObjective(space, lambda model: float(model(X).square().mean()))
        with torch.no_grad():
            optuna.create_study(direction="maximize").optimize(objective, n_trials=2)
        return objective

    gc.collect()
    gc.disable()
    try:
        search()
        before = len(optuna_softprune.evaluation._memory._living)
        last = search()
        assert len(optuna_softprune.evaluation._memory._living) == before
        del last
    finally:
        gc.enable()
