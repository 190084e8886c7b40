"""Make a detector smaller: how it chooses boxes cannot be exported, what computes them can, and is what has weights."""

import copy
import itertools

import optuna
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

import optuna_softprune as sp
from optuna_softprune.samplers import FiniteDifferenceSampler

torch.set_num_threads(1)
torch.manual_seed(0)
optuna.logging.set_verbosity(optuna.logging.WARNING)


def pictures(count: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return noisy images (3, 64, 64) with a bright square each, and where it is."""
    corners, sizes = torch.randint(4, 36, (count, 2)), torch.randint(12, 24, (count, 1))
    boxes, images = torch.cat([corners, corners + sizes], 1), 0.3 * torch.rand(count, 3, 64, 64)
    for image, (left, top, right, bottom) in zip(images, boxes.tolist(), strict=True):
        image[:, top:bottom, left:right] += 0.6
    return list(images), [{"boxes": box[None].float(), "labels": torch.tensor([1])} for box in boxes]


class Predictions(nn.Module):
    """The parts of a detector that have weights: all but the anchors and the choice of boxes."""

    def __init__(self, detector: RetinaNet) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (batch, 3, height, width) to logits and boxes of all anchors."""
        predicted: dict[str, Tensor] = self.head([self.backbone(images)])
        return predicted


def quality(network: nn.Module) -> float:
    """Return the mean overlap (intersection over union) of the surest box with the square."""
    smaller = copy.copy(detector)  # the same detector around other parts
    smaller._modules = {**detector._modules, "backbone": network.backbone, "head": network.head}
    with torch.no_grad():
        found = smaller(images)
    overlaps = [box_iou(one["boxes"][:1], other["boxes"]).sum() for one, other in zip(found, targets, strict=True)]
    return float(torch.stack(overlaps).mean())


widths = [3, 16, 32, 32]
layers = [(nn.Conv2d(*pair, 3, 2, 1), nn.ReLU()) for pair in itertools.pairwise(widths)]
backbone = nn.Sequential(*itertools.chain(*layers))
backbone.out_channels = 32  # type: ignore[assignment]  # a number that the detector asks for
anchors = AnchorGenerator(sizes=((16, 24),), aspect_ratios=((1.0,),))
detector = RetinaNet(backbone, 2, min_size=64, max_size=64, anchor_generator=anchors, score_thresh=0.0)
for module in detector.modules():
    if isinstance(module, nn.Conv2d):
        module.reset_parameters()  # learns faster than what suits large detectors
optimizer = torch.optim.Adam(detector.parameters(), lr=3e-3)
for _ in range(120):
    images, targets = pictures(8)
    optimizer.zero_grad()
    sum(detector(images, targets).values()).backward()
    optimizer.step()
detector.eval()

images, targets = pictures(32)
whole = Predictions(detector)
refit = sp.LeastSquares(sp.Calibration([(detector.transform(pictures(64)[0])[0].tensors,)]))
space = sp.PruningSpace(whole.eval(), (torch.rand(1, 3, 64, 64),), reconstruction=refit)
constraint = sp.SparsityConstraint(space, 0.7)
objective = sp.PruningObjective(space, quality, constraint)
study = optuna.create_study(direction="maximize", sampler=FiniteDifferenceSampler(constraint))
study.optimize(objective, n_trials=30)
small = objective.best_model(study)
images, targets = pictures(64)
print(f"overlap with new squares: dense {quality(whole):.3f}, {constraint.target:.0%} removed {quality(small):.3f}")
