"""What a trained model is good for: predict, evaluate, calibrate, review and explain.

Others use `loading.load`, which gives a `Loaded` with all of these as methods, or the function of each file by name.
"""
