"""The run directory: its manifest, its checkpoints, and a trained model out of it in one call.

Here lives what knows the files of a run. Nothing here knows how a model is trained or measured.
"""

from genlab.errors import RunError
from genlab.files import on_disk, write_text
from genlab.runs.checkpoints import AtomicCheckpointIO, checkpoint_path, read_checkpoint, read_safetensors
from genlab.runs.loading import load
from genlab.runs.manifest import Manifest, environment, held, save_config

__all__ = [
    "AtomicCheckpointIO",
    "Manifest",
    "RunError",
    "checkpoint_path",
    "environment",
    "held",
    "load",
    "on_disk",
    "read_checkpoint",
    "read_safetensors",
    "save_config",
    "write_text",
]
