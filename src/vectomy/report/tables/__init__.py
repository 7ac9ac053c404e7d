"""Rows and cells that pages and cards share."""
