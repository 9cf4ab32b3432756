"""The run directory: its manifest, its checkpoints, and a trained model out of it in one call.

Here lives what knows the files of a run. Nothing here knows how a model is trained or measured.
"""

from genlab.errors import RunError
from genlab.files import on_disk, write_text
from genlab.runs.checkpoints import (
    AtomicCheckpointIO,
    checkpoint_path,
    read_checkpoint,
    read_resumable,
)
from genlab.runs.loading import load
from genlab.runs.manifest import Manifest, environment, held, save_config
from genlab.runs.reading import (
    check_layout,
    read_certificate,
    read_curves,
    read_manifest,
    read_results,
)

__all__ = [
    "AtomicCheckpointIO",
    "Manifest",
    "RunError",
    "check_layout",
    "checkpoint_path",
    "environment",
    "held",
    "load",
    "on_disk",
    "read_certificate",
    "read_checkpoint",
    "read_curves",
    "read_manifest",
    "read_results",
    "read_resumable",
    "save_config",
    "write_text",
]
