"""What the commands print: typed results as tables, narrow enough for 80 columns."""
