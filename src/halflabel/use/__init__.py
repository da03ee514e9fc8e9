"""What a trained model is good for: predict, evaluate, calibrate, review and explain."""
