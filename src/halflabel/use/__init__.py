"""What a trained model is good for: predict, evaluate, calibrate, review and explain, a function each.

Others take these by name, and open a model with `inference.open_model`; `share.trained.load` has them as methods.
"""
