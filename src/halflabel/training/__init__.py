"""From a recipe and annotated pictures to a trained model."""
