"""One command, one module: stages meet in artifacts, and only here are two of them known."""
