"""What a person sees: of a run a progress bar, metrics.jsonl, TensorBoard, Weights & Biases, the loss curve; `figures`
of much else."""

from jaxdiff.report.plot import plot_loss
from jaxdiff.report.report import Report
from jaxdiff.report.writers import Lines, TensorBoard, WeightsAndBiases, Writer, check_wandb, read_metrics

__all__ = [
    "Lines", "Report", "TensorBoard", "WeightsAndBiases", "Writer", "check_wandb", "plot_loss", "read_metrics",
]  # fmt: skip
