"""What a training step computes with."""

from torch import Tensor

Batch = dict[str, Tensor]
"""Tensors on the device, by name: ``images`` ``[B, 3, H, W]`` (of video, clips ``[B, T, 3, H, W]``) and ``labels``
``[B]`` (class indices), and whatever else a method's ``parse_batch_train`` adds. All that a step draws at random is
among them, so that the step itself is a function of its batch and the learnables: it can be recorded and replayed.
"""
