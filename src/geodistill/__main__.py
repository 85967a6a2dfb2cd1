"""`python -m geodistill`, the same as the `geodistill` command."""

from geodistill.cli import main

main()
