"""What traits are learned by: one context distilled into the other."""
