"""python train.py --config configs/digits.py [--run DIR] [--section.field VALUE ...]; --help lists every field."""

from jaxdiff.cli import train_main

if __name__ == "__main__":
    train_main()
