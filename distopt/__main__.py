"""``python -m distopt``: the command ``distopt``, where it is not on PATH."""

from distopt.cli.main import main

if __name__ == "__main__":
    main()
