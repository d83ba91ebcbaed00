"""What a training step, the input pipeline and a whole run cost. From the checkout: ``python -m benchmarks.step``."""
