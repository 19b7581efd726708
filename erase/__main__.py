"""``python -m erase``, which is what ``torchrun -m erase`` and ``accelerate launch -m erase`` start."""

from erase.cli.main import main


if __name__ == "__main__":
    main()
