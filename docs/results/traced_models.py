"""Trace all models of torchvision, and models of other libraries, and verify each specification.

    python traced_models.py torchvision RECORDS.jsonl [NAME ...]
    python traced_models.py transformers RECORDS.jsonl [NAME ...]
    python traced_models.py timm RECORDS.jsonl [NAME ...]
    python traced_models.py geometric RECORDS.jsonl [NAME ...]
    python traced_models.py table RECORDS.jsonl

Each model appends one line to RECORDS.jsonl. Models that already have a line are skipped, so an interrupted run can be
resumed. Torchvision models are traced on the meta device, except for detectors and RegNets (which do not export there).
All specifications are verified in float64 on the CPU with three random group elements. Inputs are small if the
architecture permits it.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from small_transformers import transformers_models
from tabulate import tabulate
from torch import Tensor, nn

import rebasin_core as rc

if TYPE_CHECKING:
    from collections.abc import Callable

DETECTORS = ("fasterrcnn", "fcos", "keypointrcnn", "maskrcnn", "retinanet", "ssd")
SEGMENTERS = ("deeplab", "fcn", "lraspp")
CODES = {
    "model input": "I",
    "model output": "O",
    "positions are mixed by a kernel": "K",
    "its entries are looked up by index": "T",
    "a buffer that training does not change": "B",
    "a buffer that is not saved": "B",
    "values vary along it": "C",
    "never used": "U",
    "its entries are used individually": "S",
    "a split isolates single units": "S",
    "slices are stacked along it": "S",
}


def torchvision_model(name: str, device: str) -> nn.Module:
    """Return a torchvision model with random weights."""
    from torchvision import models  # ruff: ignore[import-outside-top-level] - an optional package

    options: dict[str, object] = {}
    if name.endswith(("googlenet", "inception_v3")):
        options["init_weights"] = False
    if name.startswith((*SEGMENTERS, *DETECTORS)):
        options["weights_backbone"] = None
    if name.startswith("vit"):
        options["image_size"] = 32 if name.endswith(("16", "32")) else 28
    if name.startswith("mvit"):  # accepts one input size; there is no public option for another
        mvit = sys.modules["torchvision.models.video.mvit"]
        original = getattr(mvit, "_mvit")  # ruff: ignore[get-attr-with-constant]
        setattr(mvit, "_mvit", partial(_small_mvit, getattr(original, "args", [original])[0]))  # ruff: ignore[set-attr-with-constant]
    with torch.device(device):
        model: nn.Module = models.get_model(name, weights=None, **options).eval()
    return model


def _small_mvit(make: Callable[..., nn.Module], *arguments: object, **options: object) -> nn.Module:
    return make(*arguments, **{**options, "spatial_size": (64, 64), "temporal_size": 8})


def torchvision_inputs(name: str) -> object:
    """Return random inputs for a torchvision model."""
    size = 64
    if name.startswith("raft"):
        return torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128)
    if name.startswith(("r3d", "mc3", "r2plus1d", "swin3d", "mvit")):
        return torch.randn(1, 3, 8, 64, 64)
    if name == "s3d":
        return torch.randn(1, 3, 16, 224, 224)
    if name.startswith("vit"):
        size = 32 if name.endswith(("16", "32")) else 28
    if name.startswith(("maxvit", "alexnet")):
        size = 224
    if name.endswith("inception_v3"):
        size = 128
    return torch.randn(2, 3, size, size)


class Raw(nn.Module):
    """The outputs of a detector's heads, before boxes are selected: they depend continuously on the parameters."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        for name, child in detector.named_children():
            self.add_module(name, child)

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        """Return scores and boxes of the heads, for all regions or for two fixed regions."""
        batch, _ = self.transform(images, None)
        features = self.backbone(batch.tensors)
        maps = list(features.values()) if isinstance(features, dict) else [features]
        if hasattr(self, "head"):
            return list(self.head(maps).values())
        scores, boxes = self.rpn.head(maps)
        found, heads = [*scores, *boxes], self.roi_heads
        regions = [torch.tensor([[4.0, 4.0, 60.0, 60.0], [0.0, 10.0, 30.0, 50.0]], dtype=batch.tensors.dtype)]
        pooled = heads.box_roi_pool(features, regions, batch.image_sizes)
        found += heads.box_predictor(heads.box_head(pooled))
        for kind in ("mask", "keypoint"):
            if getattr(heads, f"{kind}_roi_pool", None) is not None:
                own = getattr(heads, f"{kind}_roi_pool")(features, regions, batch.image_sizes)
                found.append(getattr(heads, f"{kind}_predictor")(getattr(heads, f"{kind}_head")(own)))
        return found


def detector(name: str) -> tuple[nn.Module, tuple[list[Tensor]]]:
    """Return a detector that keeps a small number of boxes regardless of their scores, and a small image."""
    model = torchvision_model(name, "cpu")
    for owner in (model, getattr(model, "roi_heads", None)):
        if hasattr(owner, "score_thresh"):
            owner.score_thresh = 0.0
    if hasattr(model, "rpn"):
        few = {"training": 20, "testing": 20}
        model.rpn._pre_nms_top_n = model.rpn._post_nms_top_n = few  # ruff: ignore[private-member-access] - no other way
    if hasattr(model, "topk_candidates"):
        model.topk_candidates = 30
    if not name.startswith("ssd"):
        model.transform.min_size, model.transform.max_size = (96,), 128
    return model, ([torch.rand(3, 96, 96)],)


class Logits(nn.Module):
    """A model of transformers that returns only logits (for CLIP, also embeddings), without hidden states."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> object:
        """Return the logits, or the outputs of CLIP."""
        output = self.model(**inputs)
        return (
            output.logits if "logits" in output else (output.logits_per_image, output.text_embeds, output.image_embeds)
        )


def record(
    name: str, spec: rc.specs.TracedSpec, seconds: float, check: rc.specs.SpecCheck, parameters: int
) -> dict[str, object]:
    """Return the record of a model."""
    coverage, reasons = spec.coverage, dict[str, int]()
    for axis in coverage.frozen:
        for reason in dict.fromkeys(reason.why for reason in axis.reasons):
            code = CODES.get(reason, reason)
            reasons[code] = reasons.get(code, 0) + 1
    return {
        "name": name,
        "parameters": parameters,
        "seconds": round(seconds, 2),
        "groups": coverage.groups,
        "log10": round(coverage.log10_order, 1),
        "permuted": coverage.moved_axes,
        "axes": coverage.axes,
        "error": check.error,
        "preserved": check.kept,
        "untested": sorted(check.untested),
        "fixed": reasons,
        "without_rule": dict(coverage.without_rule),
    }


def run_torchvision(name: str) -> dict[str, object]:
    """Trace and verify a model of torchvision."""
    if name.startswith(DETECTORS):
        model, inputs = detector(name)
        start = time.perf_counter()
        spec = rc.trace_spec(model, inputs, method="execution")
        seconds = time.perf_counter() - start
        check = rc.check_spec(spec, Raw(model), inputs)
    else:
        inputs = torchvision_inputs(name)
        model = torchvision_model(name, "cpu" if name.startswith("regnet") else "meta")
        start = time.perf_counter()
        spec = rc.trace_spec(model, inputs)
        seconds = time.perf_counter() - start
        model = torchvision_model(name, "cpu")
        check = rc.check_spec(spec, model, inputs)
    return record(name, spec, seconds, check, sum(p.numel() for p in model.parameters()))


def run_transformers(name: str) -> dict[str, object]:
    """Trace and verify a model class of transformers."""
    kind, config, kwargs = transformers_models()[name]
    model = Logits(kind(config).eval())
    start = time.perf_counter()
    spec = rc.trace_spec(model, (), kwargs=kwargs)
    seconds = time.perf_counter() - start
    if "experts" in str(model):  # grouped products do not support float64: verify the loop over experts
        model.model.set_experts_implementation("eager")
    check = rc.check_spec(spec, model, (), kwargs=kwargs)
    return record(name, spec, seconds, check, sum(p.numel() for p in model.parameters()))


TIMM = (
    *("swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "coat_tiny", "coat_lite_tiny", "deit_tiny_patch16_224"),
    *("levit_128s", "efficientformer_l1", "xcit_nano_12_p16_224", "cait_xxs24_224", "mixer_s32_224"),
    *("resmlp_12_224", "poolformer_s12", "convmixer_768_32", "repvgg_a0", "ghostnet_050"),
    *("mobilevit_xxs", "edgenext_xx_small", "gcvit_xxtiny", "maxvit_pico_rw_256", "twins_svt_small"),
    *("pvt_v2_b0", "volo_d1_224", "visformer_tiny", "hardcorenas_a", "dla34"),
)
GEOMETRIC = ("GCN", "GAT", "GraphSAGE", "GIN", "EdgeCNN")


def run_timm(name: str) -> dict[str, object]:
    """Trace and verify a model of timm."""
    import timm  # ruff: ignore[import-outside-top-level] - an optional package

    model = timm.create_model(name).eval()
    return _run(name, model, torch.randn(1, *model.default_cfg["input_size"]))


def run_geometric(name: str) -> dict[str, object]:
    """Trace and verify a two-layer graph network on a random graph."""
    from torch_geometric.nn import models  # ruff: ignore[import-outside-top-level] - an optional package

    model = getattr(models, name)(5, 16, 2, 3).eval()
    return _run(name, model, (torch.randn(12, 5), torch.randint(0, 12, (2, 40))))


def _run(name: str, model: nn.Module, inputs: object) -> dict[str, object]:
    start = time.perf_counter()
    spec = rc.trace_spec(model, inputs)
    seconds = time.perf_counter() - start
    check = rc.check_spec(spec, model, inputs)
    return record(name, spec, seconds, check, sum(p.numel() for p in model.parameters()))


def table(records: list[dict[str, object]]) -> str:
    """Return the records as a Markdown table."""
    rows = [
        [
            f"`{r['name']}`",
            f"{r['parameters'] / 1e6:.2f}",
            f"{r['seconds']:.1f}",
            r["groups"],
            f"{r['log10']:.0f}",
            f"{r['permuted']} / {r['axes']}",
            f"{r['error']:.0e}",
            ", ".join(f"{code} {count}" for code, count in r["fixed"].items()),
        ]
        for r in records
    ]
    headers = [
        "model",
        "parameters (millions)",
        "time (s)",
        "groups",
        "log10 of the order",
        "permuted axes",
        "relative error",
        "fixed axes",
    ]
    return tabulate(rows, headers, tablefmt="github")


def main() -> None:
    """Run the command given by the arguments."""
    command, path, *names = sys.argv[1:]
    done = (
        [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        if Path(path).exists()
        else []
    )
    if command == "table":
        print(table(done))
        return
    if command == "torchvision":
        from torchvision import models  # ruff: ignore[import-outside-top-level]

        names = names or models.list_models()
    defaults = {"timm": TIMM, "geometric": GEOMETRIC}
    names = names or list(defaults[command] if command in defaults else transformers_models())
    runs = {"torchvision": run_torchvision, "timm": run_timm, "geometric": run_geometric}
    run = runs.get(command, run_transformers)
    for name in names:
        if name in {entry["name"] for entry in done}:
            continue
        torch.manual_seed(0)
        try:
            found = run(name)
        except rc.RebasinError as error:
            print(f"{name}: {error}", flush=True)
            continue
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        verdict = "function preserved" if found["preserved"] else "FUNCTION CHANGED"
        print(name, verdict, found["error"], "untested:", found["untested"] or "none", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
