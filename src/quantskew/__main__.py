"""``python -m quantskew`` is the command ``quantskew``."""

from quantskew.cli import main

main()
