"""Training images on the GPU, augmented there: an option for machines whose few cores cannot feed it.

Batches and random numbers are those of Dassl's loader without workers. **The pixels are not bit-equal**: a resized
tensor differs from a resized PIL image by rounding, mostly within one of 255 steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import transforms as T

from anprompt.data.train_images import KeptImages, is_plain

# Transforms that do with a tensor what they do with a PIL image, and draw the same numbers for it.
SAME_FOR_TENSORS = (T.Resize, T.CenterCrop, T.RandomCrop, T.RandomResizedCrop, T.RandomHorizontalFlip, T.Normalize)


def for_tensors(transform: Any) -> T.Compose:
    """``transform`` for uint8 tensors ``[3, H, W]``.

    Raises:
        ValueError: it has a step that is not known to do the same with them.
    """
    steps = transform.transforms if type(transform) is T.Compose else [transform]
    unknown = [type(step).__name__ for step in steps if type(step) not in (*SAME_FOR_TENSORS, T.ToTensor)]
    if unknown:
        raise ValueError(f"it is not known for {', '.join(unknown)} (INPUT.TRANSFORMS)")
    return T.Compose([T.ConvertImageDtype(torch.float32) if type(step) is T.ToTensor else step for step in steps])


class DeviceImages(KeptImages):
    """Dassl's dataset with images kept on a device; where they cannot be, as Dassl's own, with one line that says why.

    ``DATALOADER.KEEP_TRAIN_GB`` is the limit here, too.
    """

    device = torch.device("cpu")
    on_device: dict[str, Tensor] | None = None  # path to uint8 [3, H, W]

    def prepare(self) -> None:
        if self.prepared:
            return
        super().prepare()
        if self.kept is not None:
            self.on_device = {
                path: torch.tensor(pixels).permute(2, 0, 1).to(self.device) for path, pixels in self.kept.items()
            }
            self.kept = None
        else:
            print("DATALOADER.AUGMENT_ON_GPU has no effect: training images are augmented on the CPU")

    def _is_worth_it(self) -> bool:
        try:
            self.tensor_transform = for_tensors(self.transform)
        except ValueError as error:
            print(f"Augmentation on the GPU: {error}")
            return False
        return is_plain(self)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.on_device is None:
            return super().__getitem__(index)
        return self.sample(index, self.tensor_transform(self.on_device[self.data_source[index].impath]))
