"""python sample.py --run runs/digits --num 64 --labels 3 --out threes.png; --help lists every option."""

from jaxdiff.cli import sample_main

if __name__ == "__main__":
    sample_main()
