"""From logits to calibrated scores and thresholds."""
