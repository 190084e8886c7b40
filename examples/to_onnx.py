"""From a smaller network's file to ONNX: the same outputs, any batch size, and what it is worth in milliseconds."""

import onnxruntime
import torch
from torch import Tensor, nn

import optuna_softprune as sp
from optuna_softprune.samplers import baselines

torch.set_num_threads(1)
torch.manual_seed(0)


def built() -> nn.Module:
    """Return the dense network, with any weights."""
    body: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2, 1)]
    for _ in range(4):
        body += [nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def session_of(network: nn.Module, file: str) -> onnxruntime.InferenceSession:
    """Write a network as ONNX, for batches of any size, and open it with one thread."""
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        network, (images,), file, dynamo=True, dynamic_shapes=shapes, input_names=["images"], verbose=False
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options)


images = torch.randn(4, 3, 64, 64)
model = built()  # a trained one, of course
space = sp.PruningSpace(model, (images,), round_to=8)  # widths that kernels like
c = baselines(space, sp.SparsityConstraint(space, 0.7, tolerance=0.05))["uniform"]  # or a search's best
sp.save_pruned(space.prune(c), "small.safetensors")

small = sp.load_pruned("small.safetensors", built())  # in another process, on another machine
dense_session, session = session_of(model, "dense.onnx"), session_of(small, "small.onnx")
more = torch.randn(9, 3, 64, 64)
with torch.no_grad():
    expected: Tensor = small(more)
error = (torch.tensor(session.run(None, {"images": more.numpy()})[0]) - expected).abs().max() / expected.abs().max()
print(sp.compare(model, small, (images,)))
dense_ms, small_ms = (
    sp.latency_ms(lambda each, runs=runs: runs.run(None, {"images": each}), (images.numpy(),))
    for runs in (dense_session, session)
)
print(f"ONNX Runtime: dense {dense_ms:.2f} ms, small {small_ms:.2f} ms; outputs differ by {error:.0e} of the largest")
