"""The run directory: its manifest, its checkpoints, and a call that loads the trained model.

This package knows the files of a run. It does not know how a model is trained or measured.
"""

from genlab.errors import RunError
from genlab.files import report_full_disk, write_text
from genlab.runs.checkpoints import (
    AtomicCheckpointIO,
    checkpoint_path,
    read_checkpoint,
    read_resumable,
)
from genlab.runs.loading import load
from genlab.runs.manifest import Manifest, environment, lock, save_config
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
    "load",
    "lock",
    "read_certificate",
    "read_checkpoint",
    "read_curves",
    "read_manifest",
    "read_results",
    "read_resumable",
    "report_full_disk",
    "save_config",
    "write_text",
]
