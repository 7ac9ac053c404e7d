"""Inline SVG figures, one file a chart."""
