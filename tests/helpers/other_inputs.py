"""What a run may read in place of what it has read: another weights file, another data list."""

from safetensors import safe_open
from safetensors.torch import save_file

from anprompt.clip.backbone import TINY_FILE


def other_weights(path, change=0.01):
    """A tiny CLIP with one tensor changed, in a file of the same size."""
    with safe_open(TINY_FILE, "pt") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    state["text_projection"] = state["text_projection"] + change
    save_file(state, path, metadata)
    return str(path)
