"""From logits to calibrated scores and thresholds: `fit_decisions`, and what is said of the result in `report`."""
