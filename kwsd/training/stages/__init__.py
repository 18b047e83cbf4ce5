"""The stages of the training pipeline."""
