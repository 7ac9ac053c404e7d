"""`python -m vectomy` is the command `vectomy`."""

from vectomy.cli import main

main()
