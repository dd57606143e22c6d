"""Functions for checkpoint files of any registered format."""

from rebasin_core.api.checkpoints.adapters import merge_lora, open_adapter
from rebasin_core.api.checkpoints.alignment import CheckpointAlignment, align_checkpoints
from rebasin_core.api.checkpoints.applying import apply_to_checkpoint
from rebasin_core.api.checkpoints.folding import CheckpointFolding, fold_checkpoint, unfold_checkpoint
from rebasin_core.api.checkpoints.merging import CheckpointMerge, merge_checkpoints
from rebasin_core.api.checkpoints.models import model_of, spec_of
from rebasin_core.api.checkpoints.recipes import RecipeResult, load_recipe, run_recipe
from rebasin_core.api.checkpoints.specification import CheckpointSpec, spec_of_checkpoint
from rebasin_core.api.checkpoints.verdict import Relation, Verdict
from rebasin_core.api.checkpoints.verification import verify_output
from rebasin_core.api.opening import open_checkpoint

__all__ = [
    "CheckpointAlignment",
    "CheckpointFolding",
    "CheckpointMerge",
    "CheckpointSpec",
    "RecipeResult",
    "Relation",
    "Verdict",
    "align_checkpoints",
    "apply_to_checkpoint",
    "fold_checkpoint",
    "load_recipe",
    "merge_checkpoints",
    "merge_lora",
    "model_of",
    "open_adapter",
    "open_checkpoint",
    "run_recipe",
    "spec_of",
    "spec_of_checkpoint",
    "unfold_checkpoint",
    "verify_output",
]
