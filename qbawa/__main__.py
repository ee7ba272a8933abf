"""`python -m qbawa` is the command `qbawa`."""

from qbawa.cli import main

main()
