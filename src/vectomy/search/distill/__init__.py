"""Learning of traits: one context is distilled into the other."""
