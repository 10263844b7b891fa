"""Every GPU figure of RESULTS.md in one command: measures, and writes the tables between the marks in that file.

pip install -e '.[parity]'
python benchmarks/gpu.py            # --only training leaves PyTorch out
"""

import argparse
import datetime
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TRAINING = [  # config, size, classes, batch
    ("cifar10_ddpm", 32, None, 512),
    ("imagenet64_adm", 64, 1000, 128),
    ("imagenet32_dit_b2", 32, 1000, 256),
]
ATTENTION = ("imagenet64_adm", "imagenet32_dit_b2")  # whose heads cuDNN takes: with it and without
VERSUS = [("ddpm_cifar", 512), ("adm_64", 128), ("dit_b_2", 256)]
MARKS = ("<!-- written by benchmarks/gpu.py -->", "<!-- end -->")


def run(*words: str | int, **environment: str) -> tuple[str, str]:
    """A script beside this one: its command, and what it printed, which is shown as well."""
    command = " ".join([*(f"{name}={value}" for name, value in environment.items()), "python", *map(str, words)])
    print("$", command, flush=True)
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=HERE.parent, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    print(done.stdout, flush=True)
    return command, done.stdout if done.returncode == 0 else f"failed with exit code {done.returncode}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["training", "versus"])
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    args = parser.parse_args()

    said = []
    if args.only != "versus":
        for name, size, classes, batch in TRAINING:
            labels = [] if classes is None else ["--classes", classes]
            config = f"configs/{name}.py"
            options = ["--size", size, *labels, "--batch", batch, "--dtype", args.dtype]
            command = ["benchmarks/throughput.py", "--config", config, *options]
            said.append(run(*command))
            if name in ATTENTION and args.dtype == "bfloat16":
                said.append(run(*command, JAXDIFF_ATTENTION="xla"))
            said += [run(*command, "--remat", remat) for remat in ("products", "blocks")]
    if args.only != "training":
        for name, batch in VERSUS:
            options = ["--network", name, "--batch", batch, "--dtype", args.dtype, "--compile"]
            said.append(run("benchmarks/versus.py", *options))
    blocks = [f"    $ {command}\n" + "".join(f"    {line}\n" for line in out.splitlines()) for command, out in said]
    text = f"{datetime.date.today()}, what each command printed (it names the device, the versions and the load):\n\n"
    results = HERE / "RESULTS.md"
    page = results.read_text()
    start, end = map(re.escape, MARKS)
    found = f"{MARKS[0]}\n\n{text}{chr(10).join(blocks)}\n{MARKS[1]}"
    results.write_text(re.sub(f"{start}.*{end}", lambda _: found, page, flags=re.DOTALL))
    print(f"written to {results}")


if __name__ == "__main__":
    main()
