"""What a trained encoder is for."""
