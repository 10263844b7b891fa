"""What diffusers' scheduler_config.json says of training and sampling, from and to."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxdiff import build
from jaxdiff.config import Diffusion, Sample
from jaxdiff.schedules import Discrete
from jaxdiff.typing import InputError

# Arguments of the schedulers with their defaults; the others say how to sample, not what was trained.
_SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "rescale_betas_zero_snr": False,
}
# Those whose defaults are these.
_SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
_KINDS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_TABLES = {"linear": "linear", "scaled_linear": "quadratic", "squaredcos_cap_v2": "cosine"}
_VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or an `InputError`."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a folder of diffusers' save_pretrained") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected names and values")
    return found


def scheduler_file(folder: Path) -> Path | None:
    """Where a scheduler_config.json is: of a pipeline's folder or its network's, of one by itself; None: nowhere."""
    places = [folder / "scheduler", folder]
    places += [folder.parent / "scheduler"] if folder.name in ("unet", "transformer") else []
    return next((p / "scheduler_config.json" for p in places if (p / "scheduler_config.json").is_file()), None)


def diffusion_of(folder: Path, *, learned: bool) -> tuple[Diffusion, Sample]:
    """How it was trained and sampled, from its scheduler."""
    path = scheduler_file(folder)
    described = {} if path is None else read_json(path)
    s = {name: described.get(name, default) for name, default in _SCHEDULER.items()}
    s["variance_type"] = described.get("variance_type") or ("learned_range" if learned else "fixed_small")
    checks = {
        "_class_name": described.get("_class_name", "DDPMScheduler") in _SCHEDULERS,
        "thresholding": not s["thresholding"],
        "clip_sample_range": not s["clip_sample"] or s["clip_sample_range"] == 1,
        "beta_schedule": s["beta_schedule"] in _TABLES,
        "trained_betas": s["trained_betas"] is None,
        "prediction_type": s["prediction_type"] in _KINDS,
        "variance_type": s["variance_type"] in _VARIANCES and (s["variance_type"] == "learned_range") == learned,
        "rescale_betas_zero_snr": not (s["rescale_betas_zero_snr"] and s["beta_schedule"] == "squaredcos_cap_v2"),
    }
    s["trained_betas"] = "given" if s["trained_betas"] is not None else None
    faults = [f"{name} {s.get(name, described.get(name))!r}" for name, fine in checks.items() if not fine]
    if faults:
        raise InputError(f"{path}: a scheduler that has no counterpart here: {', '.join(faults)}")
    table = _TABLES[s["beta_schedule"]]
    diffusion = Diffusion(
        schedule=table + ("_zero_snr" if s["rescale_betas_zero_snr"] else ""),
        schedule_options={} if table == "cosine" else {name: float(s[name]) for name in ("beta_start", "beta_end")},
        steps=s["num_train_timesteps"],
        kind=_KINDS[s["prediction_type"]],
        learned_variance=learned,
    )
    return diffusion, Sample(clip=s["clip_sample"], variance=_VARIANCES[s["variance_type"]])


def scheduler_of(diffusion: Diffusion, sample: Sample) -> dict[str, Any]:
    """Their scheduler's arguments from ours."""
    name = diffusion.schedule.removesuffix("_zero_snr")
    tables, kinds = ({ours: theirs for theirs, ours in table.items()} for table in (_TABLES, _KINDS))
    if name not in tables or diffusion.kind not in kinds or (name == "cosine" and diffusion.schedule_options):
        raise InputError(
            f"diffusers has no scheduler for the schedule {diffusion.schedule} {diffusion.schedule_options} with the "
            f"prediction of {diffusion.kind}; it has linear, quadratic and cosine tables and eps, x0 and v"
        )
    if diffusion.step_scale != 1:
        raise InputError(
            f"diffusers tells its networks the step's number; this one is told {diffusion.step_scale} of it"
        )
    if diffusion.preconditioning is not None:
        raise InputError(f"diffusers' UNet2DModel has no preconditioning; this network has {diffusion.preconditioning}")
    # Of a rescaled table the betas it was made from.
    table = build.schedule(dataclasses.replace(diffusion, schedule=name))
    ends = {}
    if isinstance(table, Discrete) and name != "cosine":
        ends = {"beta_start": table.betas[0], "beta_end": table.betas[-1]}
    variance = "learned_range" if diffusion.learned_variance else sample.variance or "fixed_small"
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": diffusion.steps,
        "beta_schedule": tables[name],
        **ends,
        "prediction_type": kinds[diffusion.kind],
        "variance_type": variance,
        "clip_sample": sample.clip,
        "rescale_betas_zero_snr": diffusion.schedule.endswith("_zero_snr"),
    }
