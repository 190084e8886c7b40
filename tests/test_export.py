"""Smaller networks leave PyTorch as dense ones do: exported, as ONNX, compiled, scripted."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from test_prune import half
from test_shipping import BUILD_FAMILY, FAMILIES, MORE_FAMILIES
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from optuna_softprune import NothingToPruneError, PruningSpace
from optuna_softprune.testing import ZOO, randomise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of torch's exporter and of other tools' versions
]

Inputs = tuple[Any, ...]


class Residual(nn.Module):
    """A classifier with batch norm and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.back = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.back(torch.relu(self.inner(x)))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def autoencoder() -> nn.Module:
    down = [nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10), nn.ReLU()]
    return nn.Sequential(*down, nn.Linear(10, 96), nn.Unflatten(1, (6, 4, 4)), nn.ConvTranspose2d(6, 1, 2, 2))


TRIO: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "autoencoder": (autoencoder, (torch.randn(2, 1, 8, 8),)),
    "classifier": (Residual, (torch.randn(2, 3, 8, 8),)),
    "transformer": (lambda: nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), (torch.randn(2, 5, 16),)),
}


def settled(model: nn.Module, images: Tensor) -> nn.Module:
    """Return `model` in eval mode, its batch norms with the statistics of what they read, as training leaves them.

    With statistics of something else, or of a few positions, activations grow from layer to layer, until one rounding
    of the input moves the outputs of a deep network more than any tool's arithmetic does.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.train().momentum = None
    with torch.no_grad():
        model(images)
    return model.eval()


def pruned(model: nn.Module, inputs: Inputs) -> nn.Module:
    space = PruningSpace(randomise(model).eval(), inputs)
    return space.prune(half(space)).eval()


def longer(inputs: Inputs) -> Inputs:
    """Return inputs of more examples."""
    more: Inputs = pytree.tree_map_only(Tensor, lambda each: torch.cat([each, each.flip(0), each]), inputs)
    return more


def assert_equal(found: list[Any], expected: Any, tolerance: float = 1e-5) -> None:
    """Assert that outputs are equal, relative to the largest of each."""
    for one, other in zip(found, pytree.tree_leaves(expected), strict=True):
        if isinstance(other, Tensor):
            scale = other.abs().max().item()
            torch.testing.assert_close(torch.as_tensor(one).to(other), other, rtol=0, atol=tolerance * scale)


def distance(found: Any, exact: Tensor) -> float:
    """Return how far outputs are from others, relative to the largest of these."""
    return ((torch.as_tensor(found).to(exact) - exact).abs().max() / exact.abs().max()).item()


def onnx_outputs(file: Path, inputs: Inputs) -> list[Any]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    flat = [each.numpy() for each in pytree.tree_leaves(inputs) if isinstance(each, Tensor)]
    found: list[Any] = session.run(None, dict(zip((each.name for each in session.get_inputs()), flat, strict=True)))
    return found


def to_onnx(model: nn.Module, inputs: Inputs, file: Path, *, dynamic: bool) -> None:
    batch = torch.export.Dim("batch")
    shapes = pytree.tree_map(lambda each: {0: batch} if isinstance(each, Tensor) else None, inputs)
    torch.onnx.export(
        model, inputs, file, dynamo=True, verbose=False, dynamic_shapes=shapes if dynamic else None, external_data=False
    )


@pytest.mark.parametrize("name", ["autoencoder", pytest.param("classifier", marks=pytest.mark.slow), "transformer"])
def test_onnx_of_a_smaller_network_returns_the_same_for_any_batch(name: str, tmp_path: Path) -> None:
    build, inputs = TRIO[name]
    small = pruned(build(), inputs)
    to_onnx(small, inputs, tmp_path / "small.onnx", dynamic=True)
    for each in (inputs, longer(inputs)):
        with torch.no_grad():
            assert_equal(onnx_outputs(tmp_path / "small.onnx", each), small(*each))


@pytest.mark.parametrize("name", TRIO)
def test_smaller_network_is_exported_compiled_and_scripted(name: str) -> None:
    build, inputs = TRIO[name]
    model = build()
    small = pruned(model, inputs)
    with torch.no_grad():
        expected = small(*inputs)
        batch = torch.export.Dim("batch")
        exported = torch.export.export(small, inputs, dynamic_shapes=({0: batch},)).module()
        assert_equal(pytree.tree_leaves(exported(*inputs)), expected)
        assert_equal(pytree.tree_leaves(exported(*longer(inputs))), small(*longer(inputs)))
        assert_equal(pytree.tree_leaves(torch.compile(small, backend="aot_eager")(*inputs)), expected)
        assert_equal(pytree.tree_leaves(torch.jit.script(small)(*inputs)), expected)


def expect_all_that_the_dense_network_can(
    model: nn.Module,
    small: nn.Module,
    inputs: Inputs,
    folder: Path,
    judge: Callable[..., Any] | None = None,
    tolerance: float = 1e-5,
) -> dict[str, bool]:
    """Assert that what a dense network can be made into its smaller one can too; return what that is.

    `judge` returns what is right, the smaller network's own outputs if there is none.
    """
    judge = small if judge is None else judge

    def onnx(network: nn.Module) -> list[Any]:
        to_onnx(network, inputs, folder / "network.onnx", dynamic=False)
        return onnx_outputs(folder / "network.onnx", inputs)

    def dynamic_onnx(network: nn.Module) -> list[Any]:
        to_onnx(network, inputs, folder / "network.onnx", dynamic=True)
        return onnx_outputs(folder / "network.onnx", inputs) + onnx_outputs(folder / "network.onnx", longer(inputs))

    def compiled(network: nn.Module) -> list[Any]:
        torch.compiler.reset()
        return pytree.tree_leaves(torch.compile(network)(*inputs))

    ways: dict[str, Callable[[nn.Module], list[Any]]] = {
        "export": lambda network: pytree.tree_leaves(torch.export.export(network, inputs).module()(*inputs)),
        "onnx": onnx,
        "onnx, dynamic batch": dynamic_onnx,
        "compile": compiled,
        "script": lambda network: pytree.tree_leaves(torch.jit.script(network)(*inputs)),
    }
    done = {}
    for name, way in ways.items():
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                way(model)
                done[name] = True
            except Exception:  # what the dense network cannot nobody asks of the smaller one
                done[name] = False
                continue
            expected = [judge(*each) for each in ((inputs, longer(inputs)) if way is dynamic_onnx else (inputs,))]
            assert_equal(way(small), expected, tolerance)
    return done


@pytest.mark.slow
@pytest.mark.parametrize("network", ZOO, ids=lambda network: network.name)
def test_what_dense_networks_of_the_zoo_can_be_made_into_smaller_ones_can(network: Any, tmp_path: Path) -> None:
    model, inputs = randomise(network.build()).eval(), network.inputs()
    try:
        space = PruningSpace(model, inputs)
    except NothingToPruneError:
        pytest.skip("nothing can go")
    done = expect_all_that_the_dense_network_can(model, space.prune(half(space)).eval(), inputs, tmp_path)
    print(network.name, done)
    # What PyTorch exports has a property `code` of its own, which hides a submodule of that name.
    assert done["export"] or "code" in dict(model.named_children())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, *MORE_FAMILIES])
def test_what_dense_families_can_be_made_into_smaller_ones_can(name: str, tmp_path: Path) -> None:
    build: dict[str, Any] = {}
    exec(BUILD_FAMILY, build)
    side = 224 if name.startswith("vit") else 64
    images = torch.randn(2 if name.startswith("vit") else 32, 3, side, side, generator=torch.Generator().manual_seed(0))
    inputs = (images[:2],)
    model = settled(randomise(build["build"](name)), images)
    space = PruningSpace(model, inputs)
    small = settled(space.prune(half(space)), images)
    double = copy.deepcopy(small).double()
    # Float32 itself is 1e-5 from what is exact in the deepest of these: others may be twice as far from it as PyTorch.
    with torch.no_grad():
        exact = double(images[:2].double())
        rounding = distance(small(images[:2]), exact)
    tolerance = max(1e-5, 2 * rounding)
    assert tolerance < 5e-5
    done = expect_all_that_the_dense_network_can(
        model, small, inputs, tmp_path, lambda images: double(images.double()), tolerance
    )
    to_onnx(small, inputs, tmp_path / "small.onnx", dynamic=True)
    onnx = distance(onnx_outputs(tmp_path / "small.onnx", inputs)[0], exact)
    print(name, done, f"relative to float64: PyTorch {rounding:.1e}, ONNX {onnx:.1e}")
    assert done["export"]
    assert done["onnx, dynamic batch"]
