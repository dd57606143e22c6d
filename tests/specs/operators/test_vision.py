"""Rules for torchvision's operators, tested on stand-ins because torchvision is not a dependency."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core import check_spec, trace_spec
from rebasin_core.specs.operators.catalogue import BUILT_IN_RULES


@torch.library.custom_op("stand_in::roi_align", mutates_args=())
def roi_align(input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int) -> Tensor:  # ruff: ignore[builtin-argument-shadowing]
    rows = [input[int(roi[0]), :, int(roi[1]) :, int(roi[2]) :] for roi in rois]
    return torch.stack([nn.functional.adaptive_avg_pool2d(row, (pooled_height, pooled_width)) for row in rows])


@torch.library.custom_op("stand_in::nms", mutates_args=())
def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    del dets
    return scores.argsort(descending=True)[: int(1 / iou_threshold)].clone()


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.boxes, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 1, 1), nn.Linear(6 * 4, 2)

    @override
    def forward(self, image: Tensor) -> Tensor:
        features = self.backbone(image).relu()
        scores = self.boxes(features).flatten()
        rois = torch.zeros(len(scores), 5)
        kept = torch.ops.stand_in.nms(rois[:, 1:], scores, 0.5)
        regions = torch.ops.stand_in.roi_align(features, rois[kept], 2, 2)
        output: Tensor = self.head(regions.flatten(1))
        return output


def test_regions_keep_the_channels_free() -> None:
    rules = {
        **BUILT_IN_RULES,
        **{f"stand_in.{name}": BUILT_IN_RULES[f"torchvision.{name}"] for name in ("roi_align", "nms")},
    }
    model, image = Detector(), torch.randn(1, 3, 8, 8)
    spec = trace_spec(model, image, method="execution", rules=rules)
    axes = spec.layout.as_json()["axes"]
    assert axes["backbone.weight"] == "backbone, 3, 3, 3"
    assert axes["head.weight"] == "2, backbone*4"
    assert not spec.coverage.without_rule
    assert check_spec(spec, model, image).passed
