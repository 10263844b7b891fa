"""The ledger of experiments: what each paper reports, what we find, and the commands in between.

    python benchmarks/ledger/ledger.py list
    python benchmarks/ledger/ledger.py run fashion_v --fashion train-images-idx3-ubyte.gz --test t10k-...
    python benchmarks/ledger/ledger.py table                     # results.json -> README.md beside this file
    python benchmarks/ledger/ledger.py pictures --runs runs/ledger --out fashion.png     # side by side

`run` trains (or goes on with) an experiment and evaluates it; what is found goes to results.json, figures for each
evaluation, with hardware, time and date. It can be stopped and run again.
"""

import argparse
import dataclasses
import datetime
import fcntl
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.json"


@dataclasses.dataclass(frozen=True)
class Row:
    """An experiment.

    Attributes:
      what: in words.
      config: in configs/; None: nothing is trained.
      flags: of train.py.
      evaluations: by their names, the options of `jaxdiff evaluate`.
      paper: its numbers, with their source.
      differs: in what ours is not theirs.
      needs: what it takes, where it has not been run here.
    """

    what: str
    config: str | None
    flags: str = ""
    evaluations: dict[str, str] = dataclasses.field(default_factory=dict)
    paper: str = ""
    differs: str = ""
    needs: str = ""


CLASSIFIER = "--features classifier --metrics frechet kernel manifold"
WEIGHTS = "--features classifier:WEIGHTS --metrics frechet kernel manifold"  # of all training images
FASHION = {
    "moving average": f"--num 1000 {CLASSIFIER}",
    "parameters": f"--num 1000 --weights params {CLASSIFIER}",
}
SAMPLERS = {
    f"{name}, {steps} steps": f"--num 1000 --sampler {sampler} --steps {steps} {CLASSIFIER}"
    for name, sampler, calls in (
        ("DDPM", "ddpm", 1), ("DDIM", "ddim", 1), ("DPM-Solver++ 2M", "dpm_solver++", 1), ("UniPC", "unipc", 1),
        ("Heun", "heun", 2),
    )
    for steps in (6 // calls, 10 // calls, 20 // calls, 50 // calls)
}  # fmt: skip
BITS = {
    "bits/dim, vlb": "--reference TEST --reference-num 64 --metrics bits_per_dim_vlb",
    "bits/dim, ode": "--reference TEST --reference-num 64 --metrics bits_per_dim_ode",
}
INCEPTION = "--features inception:INCEPTION --metrics fid inception_score --num 50000"

ROWS: dict[str, Row] = {
    "fashion_floor": Row(
        "Fashion-MNIST's test images in place of samples: the floor",
        None,
        evaluations={
            f"{num:,} of them": f"--samples TEST --num {num} --reference TRAIN {CLASSIFIER}" for num in (1000, 10_000)
        },
    ),
    "fashion_halves": Row(
        "Fashion-MNIST: one half of the training images in place of samples, the other half the real ones; and noise",
        None,
        evaluations={
            "1,000 of one half": f"--samples HALF --num 1000 --reference REST {WEIGHTS}",
            "10,000 of one half": f"--samples HALF --num 10000 --reference REST {WEIGHTS}",
            "30,000, one half": f"--samples HALF --reference REST {WEIGHTS}",
            "1,000 of uniform noise": f"--samples NOISE --num 1000 --reference REST {WEIGHTS}",
        },
    ),
    "digits_halves": Row(
        "8x8 digits: one half in place of samples, the other half the real ones; and noise",
        None,
        evaluations={
            "898, one half": f"--samples HALF --reference REST {WEIGHTS}",
            "898 of uniform noise": f"--samples NOISE --reference REST {WEIGHTS}",
        },
    ),
    "fashion_v": Row("Fashion-MNIST, v", "fashion_mnist_small", evaluations=FASHION | SAMPLERS | BITS),
    "fashion_eps": Row("Fashion-MNIST, eps (DDPM)", "fashion_mnist_small", "--diffusion.kind eps", FASHION | BITS),
    "fashion_x0": Row("Fashion-MNIST, x0", "fashion_mnist_small", "--diffusion.kind x0", FASHION | BITS),
    "fashion_min_snr": Row(
        "Fashion-MNIST, v, min-SNR weight", "fashion_mnist_small", "--diffusion.weight min_snr", FASHION | BITS
    ),
    "fashion_hybrid": Row(
        "Fashion-MNIST, eps, learned variance (hybrid loss)",
        "fashion_mnist_small",
        "--diffusion.kind eps --diffusion.learned-variance True",
        FASHION | BITS,
    ),
    "fashion_edm": Row(
        "Fashion-MNIST, EDM",
        "fashion_mnist_small",
        "--diffusion.schedule edm --diffusion.kind F --diffusion.preconditioning edm --diffusion.times log_normal "
        "--diffusion.weight edm --sample.sampler heun --sample.steps 18 --sample.spacing karras",
        FASHION | BITS,
    ),
    "fashion_flow": Row(
        "Fashion-MNIST, flow",
        "fashion_mnist_small",
        "--diffusion.schedule flow --diffusion.kind velocity --sample.sampler heun --sample.steps 25",
        FASHION | BITS,
    ),
    "digits": Row("8x8 digits, the default run", "digits", evaluations={"moving average": f"{CLASSIFIER} accuracy"}),
    "cifar10_ddpm": Row(
        "CIFAR-10, DDPM",
        "cifar10_ddpm",
        "--model.dtype bfloat16",
        {
            "1,000 steps": INCEPTION,
            "bits/dim": "--reference tfds:cifar10 --reference-split test --metrics bits_per_dim_vlb",
        },
        "FID 3.17, at most 3.75 bits/dim (Ho et al. 2020, arXiv 2006.11239, tables 1 and 2)",
        "bfloat16; the moving average warms up",
        "800,000 steps of 128 images; the paper: 10.6 hours on a TPU v3-8. One H200: about 4 hours, if it reaches a "
        "third of what its multiply-adds allow",
    ),
    "cifar10_improved": Row(
        "CIFAR-10, improved DDPM, hybrid loss",
        "cifar10_improved",
        "--model.dtype bfloat16",
        {
            "4,000 steps": INCEPTION,
            "bits/dim": "--reference tfds:cifar10 --reference-split test --metrics bits_per_dim_vlb",
        },
        "FID 3.19, 3.17 bits/dim (Nichol & Dhariwal 2021, arXiv 2102.09672, table 2)",
        "bfloat16; the moving average warms up",
        "500,000 steps of 128 images, and 50,000 x 4,000 evaluations of the network",
    ),
    "cifar10_ddpmpp": Row(
        "CIFAR-10, DDPM++ cont. (VP)",
        "cifar10_ddpmpp",
        "--model.dtype bfloat16",
        {
            "1,000 steps": INCEPTION,
            "bits/dim": "--reference tfds:cifar10 --reference-split test --metrics bits_per_dim_ode",
        },
        "FID 2.55, 3.16 bits/dim (Song et al. 2021, arXiv 2011.13456, tables 3 and 2)",
        "bfloat16; the moving average warms up; FID of the last parameters, not of the best checkpoint",
        "1,300,000 steps of 128 images",
    ),
    "cifar10_edm": Row(
        "CIFAR-10, EDM",
        "cifar10_edm",
        "",
        {"35 evaluations": INCEPTION},
        "FID 1.97; without augmentation 2.05 (Karras et al. 2022, arXiv 2206.00364, table 2)",
        "no augmentation but flips; one FID, where the paper reports the least of three",
        "390,625 steps of 512 images",
    ),
    "cifar10_edm_conditional": Row(
        "CIFAR-10, EDM, conditional",
        "cifar10_edm",
        "--data.labels True",
        {"35 evaluations": INCEPTION},
        "FID 1.79; without augmentation 1.88 (Karras et al. 2022, arXiv 2206.00364, table 2)",
        "no augmentation but flips; one FID, where the paper reports the least of three",
        "390,625 steps of 512 images",
    ),
    "imagenet64_adm": Row(
        "ImageNet 64x64, ADM, conditional",
        "imagenet64_adm",
        "--model.dtype bfloat16",
        {"250 steps": INCEPTION},
        "FID 2.07 (Dhariwal & Nichol 2021, arXiv 2105.05233, section 5.1)",
        "bfloat16; the images of Chrabaszcz et al. 2017, as TFDS has them, resized by means of boxes",
        "540,000 steps of 2,048 images: about a month of one H200, 4 days of eight, by the same rule",
    ),
}


def run(name: str, args: argparse.Namespace) -> None:
    """Train and evaluate one experiment; what is there, of the same step, options and files, is not done again."""
    from jaxdiff.files import sha256

    row, folder = ROWS[name], args.runs / name
    files = {"TRAIN": args.fashion, "TEST": args.test, "INCEPTION": args.inception}
    trained = {} if row.config is None else train(name, folder, args, files)
    for title, options in row.evaluations.items():
        used = [what for what in files if what in options or (what == "TRAIN" and name.startswith("fashion"))]
        of = {what: sha256(path) for what in used if (path := files[what]) is not None}
        there, made = read().get(name, {}).get(title, {}), trained | {"options": options}
        if done(there, made, of) and not args.again:
            print(f"{name}, {title}: done on {there['date']}; --again does it again")
            continue
        if "INCEPTION" in options and args.inception is None:
            print(f"{name}, {title}: needs --inception FILE; left out")
            continue
        out = folder / "evaluations" / f"{title.replace('/', ' per ')}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        parts = {}
        if "WEIGHTS" in options:
            data = "digits" if name.startswith("digits") else given("TRAIN", files)
            parts = halves(folder / of.get("TRAIN", data)[:12], data)
        options = filled(options, files | parts)
        began = time.perf_counter()
        command = ["-m", "jaxdiff", "evaluate", *shlex.split(options), "--out", str(out)]
        command += [] if row.config is None else ["--run", str(folder)]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        found = json.loads(out.read_text())
        figures: dict[str, Any] = {"metrics": found["metrics"], **made, **hardware(time.perf_counter() - began)}
        figures |= {"files": of} if of else {}
        figures |= {"settings": found["options"]} if "options" in found else {}
        for likelihood in found.get("likelihood", {}).values():
            figures["images"] = likelihood["images"]
        if "features" in found:
            figures["features"] = {key: found["features"].get(key) for key in ("name", "sha256")}
            figures["samples"] = {
                key: found["samples"].get(key) for key in ("count", "sha256", "network_evaluations", "weights_sha256")
            }
            figures["reference"] = {key: found["reference"].get(key) for key in ("count", "sha256")}
        store(name, {title: figures})


def done(there: dict[str, Any], made: dict[str, Any], of: dict[str, str]) -> bool:
    """Whether figures that are there were made like that, from the same files as far as both are known.

    >>> there = {"step": 9, "options": "--num 5", "files": {"TRAIN": "ab"}}
    >>> done(there, {"step": 9, "options": "--num 5"}, {"TEST": "cd"}), done({}, {}, {})
    (True, False)
    >>> done(there, {"step": 9, "options": "--num 6"}, {}), done(there, {"step": 9}, {"TRAIN": "cd"})
    (False, False)
    """
    files = there.get("files", {})
    return bool(there) and made.items() <= there.items() and all(files.get(k, of[k]) == of[k] for k in of)


def halves(folder: Path, data: str) -> dict[str, Path | None]:
    """Two halves of a set, uniform noise, and the classifier of the whole set, in files; once, as a process of its own:
    a device is the evaluation's."""
    found: dict[str, Path | None] = {name: folder / f"{name}.npz" for name in ("HALF", "REST", "NOISE")}
    found["WEIGHTS"] = folder / "WEIGHTS.safetensors"  # the last to be written
    if not found["WEIGHTS"].exists():
        subprocess.run([sys.executable, __file__, "halves", data, "--out", str(folder)], check=True)
    return found


def write_halves(data: str, folder: Path) -> None:
    """What `halves` has."""
    from tqdm import tqdm

    from jaxdiff import build, evaluation
    from jaxdiff.config import Data
    from jaxdiff.files import write_atomically

    source = build.source(Data(name=data))
    order = np.random.default_rng(0).permutation(len(source))
    half = len(source) // 2
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "HALF.npz", images=source.gather(order[:half])["image"])
    np.savez(folder / "REST.npz", images=source.gather(order[half:])["image"])
    noise = np.random.default_rng(1).integers(0, 256, (half, *source.image_shape), np.uint8)
    np.savez(folder / "NOISE.npz", images=noise)
    weights = evaluation.trained_classifier(source, progress=tqdm).file
    assert weights is not None
    write_atomically(folder / "WEIGHTS.safetensors", weights.read_bytes())


def train(name: str, folder: Path, args: argparse.Namespace, files: dict[str, Path | None]) -> dict[str, Any]:
    """Train a row to its end; the step it came to, and options beyond the row's."""
    from jaxdiff.runs import last_step

    row, begun = ROWS[name], last_step(folder)
    flags = shlex.split(row.flags)
    if row.config is not None and row.config.startswith("fashion"):
        flags += ["--data.name", given("TRAIN", files)]
    command = ["train.py", "--config", f"configs/{row.config}.py", "--run", str(folder), *flags, *args.more]
    before = read().get(name, {}).get("training", {}) if begun else {}
    started = time.perf_counter()
    try:
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    finally:  # stopped, it goes on another time
        step = last_step(folder)
        if step > before.get("step", 0):
            seconds = before.get("seconds", 0) + time.perf_counter() - started
            store(name, {"training": {"step": step, "more": args.more, **hardware(seconds)}})
    return {"step": step, "more": args.more}


def given(what: str, files: dict[str, Path | None]) -> str:
    """A file by what the options call it, for the command line."""
    path = files[what]
    if path is None:
        print(
            "error: --fashion train-images-idx3-ubyte.gz --test t10k-images-idx3-ubyte.gz: where are the images? "
            "(Debian: dataset-fashion-mnist)",
            file=sys.stderr,
        )
        sys.exit(2)
    return str(path.resolve())


def hardware(seconds: float) -> dict[str, Any]:
    """Of now and here."""
    code = "import jax; d = jax.devices(); print(f'{len(d)} x {d[0].device_kind}, jax {jax.__version__}')"
    device = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    commit = git("describe", "--always")
    if git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{HERE.relative_to(ROOT)}"):
        commit += "-dirty"  # by more than what is written here
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {
        "hardware": f"{device}, {cores} cores {platform.machine()}",
        "seconds": round(seconds),
        "load": round(os.getloadavg()[0], 1),
        "date": datetime.date.today().isoformat(),
        "commit": commit or "unknown",
    }


def filled(options: str, files: dict[str, Path | None]) -> str:
    """With files in the place of what the options call them."""
    return re.sub("|".join(files), lambda found: shlex.quote(given(found[0], files)), options)


def git(*words: str) -> str:
    """What git says of this checkout; nothing where there is none."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def time_of(figures: dict[str, Any]) -> str:
    more = f", with {shlex.join(figures['more'])}" if figures.get("more") else ""
    return f"{figures['seconds']:,} s (load {figures['load']}), {figures['date']}, {figures['commit']}{more}"


def read() -> dict[str, Any]:
    """What was found, by experiment and evaluation."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def store(name: str, figures: dict[str, Any]) -> None:
    """Into results.json, whole or not at all, one process at a time."""
    folder = os.open(RESULTS.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        results = read()
        results.setdefault(name, {}).update(figures)
        part = RESULTS.with_suffix(".part")
        part.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        part.replace(RESULTS)
    finally:
        os.close(folder)


def table() -> str:
    """All of it, for people."""
    lines = [
        "# The ledger", "",
        "Made by `python benchmarks/ledger/ledger.py table` of `results.json`; a row's command is",
        "`python benchmarks/ledger/ledger.py run NAME`. Those of Fashion-MNIST want its images too, which Debian's",
        "package `dataset-fashion-mnist` has, `--fashion train-images-idx3-ubyte.gz --test t10k-images-idx3-ubyte.gz`;",
        "those of CIFAR-10 and ImageNet `--inception FILE`. Runs are left in `runs/ledger`. In other features than",
        "Inception's the distance is no FID. The load is the machine's at the end: above the cores, others had them",
        "too, and the seconds are too many. After ±: the deviation of kernel distances and scores over parts, the",
        "standard error of bits/dim. Every row is one run of one seed.", "",
        "| experiment | command | paper | ours | hardware, time, date, commit |", "|---|---|---|---|---|",
    ]  # fmt: skip
    results = read()
    for name, row in ROWS.items():
        found = results.get(name, {})
        command = f"`run {name}`"
        if row.config is not None:
            command += f": [{row.config}](../../configs/{row.config}.py)" + (f" `{row.flags}`" if row.flags else "")
        trained = found.get("training")
        first = next((found[title] for title in row.evaluations if title in found), None)
        when = "" if first is None else f"{first['hardware']}, {time_of(first)}"
        when = when if trained is None else f"{trained['step']:,} steps: {trained['hardware']}, {time_of(trained)}"
        if not found:
            when = f"not run: needs {row.needs}" if row.needs else "not run yet"
        paper = row.paper + (f". Ours differs: {row.differs}" if row.differs else "")
        lines.append(f"| {row.what} | {command} | {paper} | {headline(row, found)} | {when} |")
    lines += PICTURES.splitlines()
    for name, row in ROWS.items():
        found = {title: results[name][title] for title in row.evaluations if title in results.get(name, {})}
        if found:
            lines += ["", f"## {row.what}", ""]
        of_samples = {title: figures for title, figures in found.items() if "samples" in figures}
        columns = list(dict.fromkeys(key for figures in of_samples.values() for key in values(figures)))
        columns.sort(key=lambda key: ORDER.index(key) if key in ORDER else len(ORDER))
        if of_samples:
            space = features_of(next(iter(of_samples.values())))
            heads = ["evaluation", *columns, "samples", "network evaluations", "time", "`jaxdiff evaluate`"]
            lines += [f"In the features {space}:", ""]
            lines += [f"| {' | '.join(heads).replace('_', ' ')} |", "|---" * len(heads) + "|"]
        for title, figures in of_samples.items():
            counts = [figures["samples"].get(key) for key in ("count", "network_evaluations")]
            cells = [values(figures).get(key, "") for key in columns] + [f"{x:,}" if x else "" for x in counts]
            if features_of(figures) != space:  # which are not to be compared with the others
                title += f", in the features {features_of(figures)}"
            lines.append(f"| {' | '.join([title, *cells, time_of(figures), options_of(figures)])} |")
        rest = {title: figures for title, figures in found.items() if title not in of_samples}
        lines += [""] if rest and of_samples else []
        for title, figures in rest.items():
            how = f"; {options_of(figures)}" if "options" in figures else ""
            lines.append(f"* {title}: {', '.join(values(figures).values())}{how}; {time_of(figures)}")
    return "\n".join(lines) + "\n"


PICTURES = """
## Fashion-MNIST in pictures

Samples after 2,000 steps of training, the same noise in every row, by each run's own sampler: 50 steps of DDIM, but 18
of Heun's method for EDM and 25 for flow:

    python benchmarks/ledger/ledger.py pictures --out pictures.png

![a row of 16 samples for each experiment](pictures.png)

Five samplers of the network of v, 1,000 samples each:

    jaxdiff plot metric runs/ledger/fashion_v/evaluations/*steps.json \\
      --metric frechet --against network_evaluations --floor 1.15 --out samplers.png

![Frechet distance against network evaluations](samplers.png)

The terms of the variational bound of 16 training images:

    jaxdiff plot bits --run runs/ledger/fashion_{v,eps,hybrid,x0,min_snr,edm,flow} \\
      --against log_snr --num 16 --out bits.png

![terms of the bound against log-SNR](bits.png)

* eps and the hybrid (one curve), log-SNR below -9: their terms are three to four times those of v (whose curve lies
  under x0's). An error of eps is there sigma / alpha times as large in x0; many of their samples above are black and
  white, or specks.
* x0, on the right: where little noise is left its error does not fall, and counts with the SNR. 34 of its 55.7 bits/dim
  of these 16 images are the decoder's, the last of 1,000 steps.
* EDM, on the left: the larger of the fixed variances is too large where the noise exceeds the data, by exp(d) with the
  step d = 0.021 in log-SNR. It costs d^2 / 4 nats a step, 1.6e-4 bits.
"""

ORDER = ("fid", "frechet", "sfid", "kid", "kernel", "precision", "recall", "density", "coverage", "accuracy")
"""Of the columns; others after them."""


def features_of(figures: dict[str, Any]) -> str:
    """In words; of two classifiers other ones."""
    name, weights = figures["features"]["name"], figures["features"]["sha256"]
    return name + (f", sha256 {weights[:12]}" if weights else "")


def options_of(figures: dict[str, Any]) -> str:
    """Those that it was made with, but the run's; nothing where they were not written down."""
    return f"`{figures['options']}`" if "options" in figures else ""


def values(figures: dict[str, Any]) -> dict[str, str]:
    """The metrics without the name of their features, each with its deviation or error.

    >>> found = {"kernel_pixels": 0.51234, "kernel_std_pixels": 0.2, "bits": 3.0, "bits_error": 0.12}
    >>> values({"metrics": found, "features": {"name": "pixels"}})
    {'kernel': '0.5123 ± 0.2', 'bits': '3 ± 0.12'}
    """
    suffix = f"_{figures['features']['name']}" if "features" in figures else ""
    found = {key.removesuffix(suffix): value for key, value in figures["metrics"].items() if value is not None}
    spread = {key: value for key, value in found.items() if key.endswith(("_std", "_error"))}
    of = {re.sub("_(std|error)$", "", key): f" ± {value:.2g}" for key, value in spread.items()}
    return {key: f"{value:.4g}{of.get(key, '')}" for key, value in found.items() if key not in spread}


def headline(row: Row, found: dict[str, Any]) -> str:
    """What stands beside the paper's numbers: the distance of the first evaluation, and bits/dim."""
    there = {title: found[title] for title in row.evaluations if title in found}
    first = there.get(next(iter(row.evaluations)), {"metrics": {}})
    metrics = first["metrics"].items()
    said = [f"{key} {value:.4g}" for key, value in metrics if key == "fid" or key.startswith("frechet")]
    if said:
        said[0] += f" ({first['samples']['count']:,} samples; {features_of(first)})"
    of_all = [pair for figures in there.values() for pair in values(figures).items()]
    said += [f"{key} {text}" for key, text in of_all if key.startswith("bits")]
    return ", ".join(said).replace("_", " ")


def pictures(args: argparse.Namespace) -> None:
    """Of each experiment on Fashion-MNIST that has been trained: a row of the same noise, by the run's own sampler."""
    from matplotlib.figure import Figure

    found = {}
    for name, row in ROWS.items():
        if row.config == "fashion_mnist_small" and (args.runs / name / "loss.png").exists():
            out = args.runs / name / "evaluations" / "pictures.npz"
            made = ["sample.py", "--run", str(args.runs / name), "--num", "16", "--seed", "0", "--out", str(out)]
            subprocess.run([sys.executable, *made], cwd=ROOT, check=True)
            with np.load(out) as file:
                found[row.what] = np.concatenate(list(file["images"][..., 0]), axis=1)
    if not found:
        raise SystemExit(f"--runs {args.runs}: no experiment on Fashion-MNIST has been trained there")
    figure = Figure(figsize=(10, 0.85 * len(found)), layout="constrained")
    for axes, (what, strip) in zip(figure.subplots(len(found), squeeze=False)[:, 0], found.items(), strict=True):
        axes.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(what, fontsize="small", loc="left")
        axes.set_axis_off()
    figure.savefig(args.out, dpi=120)


def main() -> None:
    global RESULTS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the experiments, and how much of each there is")
    commands.add_parser("table", help="results.json -> README.md beside it")
    drawer = commands.add_parser("pictures", help="samples of what was trained, side by side")
    drawer.add_argument("--runs", type=Path, default=Path("runs/ledger"), help="where they were trained")
    drawer.add_argument("--out", type=Path, required=True, help="a .png file")
    writer = commands.add_parser("halves", help="for run: two halves of a set, noise and a classifier, in files")
    writer.add_argument("data", help="as --data.name of train.py")
    writer.add_argument("--out", type=Path, required=True, help="a folder")
    runner = commands.add_parser("run", help="train and evaluate")
    runner.add_argument("names", nargs="+", choices=list(ROWS), metavar="NAME", help="of `list`")
    runner.add_argument("--fashion", type=Path, help="Fashion-MNIST's training images, an IDX file")
    runner.add_argument("--test", type=Path, help="its test images, for the floor and bits/dim")
    runner.add_argument("--inception", type=Path, help="pytorch-fid's pt_inception-2015-12-05-6726825d.pth")
    runner.add_argument("--runs", type=Path, default=Path("runs/ledger"), help="where they are trained")
    runner.add_argument("--results", type=Path, default=RESULTS, help="where figures go; default the ledger's own")
    runner.epilog = "Other options are train.py's, such as --train.steps 1000; with them give --results FILE."
    runner.add_argument("--again", action="store_true", help="evaluate what was evaluated once more")
    args, more = parser.parse_known_args()
    if more and args.command != "run":
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    args.more = more
    if args.command == "list":
        results = read()
        for name, row in ROWS.items():
            found = sum(title in results.get(name, {}) for title in row.evaluations)
            there = f"{found} of {len(row.evaluations)} evaluations"
            print(f"{name:24} {row.what}; {there if found else f'needs {row.needs}' if row.needs else 'not run'}")
    elif args.command == "table":
        (HERE / "README.md").write_text(table())
    elif args.command == "halves":
        write_halves(args.data, args.out)
    elif args.command == "pictures":
        args.runs = args.runs.resolve()
        pictures(args)
    else:
        args.runs = args.runs.resolve()
        if more and args.results == RESULTS:
            parser.error(f"{shlex.join(more)}: the ledger's figures are of its rows as they stand; give --results FILE")
        RESULTS = args.results.resolve()
        try:
            for name in args.names:
                run(name, args)
        except subprocess.CalledProcessError as error:  # it has said what is wrong
            sys.exit(error.returncode)


if __name__ == "__main__":
    main()
