"""DPM-Solver, DPM-Solver++ (multistep, SDE, singlestep) and UniPC against diffusers."""

import numpy as np
import pytest
from trajectories import LATE, assert_agree, difference, diffusers, make, make_flow, ours, theirs, torch

from jaxdiff.samplers import DPMSolverMultistep, DPMSolverSinglestep, UniPC

ORDERS_AND_TABLES = [(1, "linear"), (2, "quadratic"), (3, "linear"), (3, "cosine")]
GRIDS = {
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "sigma_min": {"final_sigmas_type": "sigma_min"},
    "late": LATE,
}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


class ThirdOrder(diffusers.DPMSolverMultistepScheduler):
    """diffusers with its third-order step put right, in the weight of the curvature.

    With m = x0 as a function of lambda, tau = lambda - lambda_t, h the step and D2 the second divided difference in units
    of h, m'' / 2 is D2 / h^2 (it is a *divided* difference: no factorial). The ODE's term of it is

        alpha_s int_0^h e^{-(h - tau)} (tau / h)^2 D2 dtau = -2 alpha_s ((e^-h - 1 + h) / h^2 - 1/2) D2

    and that of the SDE, with e^{-2 (h - tau)} 2 dtau, is 2 alpha_s ((1 - e^{-2h} - 2h) / (2h)^2 + 1/2) D2. diffusers has
    half of the first, so that its third order is a second one (measured: 2.1, and with this class more than 3). Of the
    second it has half, and with -1/2 for +1/2, so that the term does not vanish with h as it must. The papers' formulas
    end at two steps. We integrate exactly, and so does this class.
    """

    def multistep_dpm_solver_third_order_update(self, outputs, *args, sample, noise=None, **kwargs):
        x = super().multistep_dpm_solver_third_order_update(outputs, *args, sample=sample, noise=noise, **kwargs)
        sigmas = self.sigmas[self.step_index - 2 : self.step_index + 2].double()
        alpha, sigma = self._sigma_to_alpha_sigma_t(sigmas)
        clock = torch.log(alpha / sigma)
        h1, h0, h = torch.diff(clock)
        m2, m1, m0 = outputs
        D2 = h * ((m0 - m1) / h0 - (m1 - m2) / h1) * h / (h0 + h1)
        if self.config.algorithm_type == "dpmsolver++":
            return x - alpha[-1] * ((torch.exp(-h) - 1 + h) / h**2 - 0.5) * D2
        if self.config.algorithm_type == "dpmsolver":
            return x - sigma[-1] * ((torch.exp(h) - 1 - h) / h**2 - 0.5) * D2
        right = 2 * ((1 - torch.exp(-2 * h) - 2 * h) / (2 * h) ** 2 + 0.5)
        return x + alpha[-1] * (right - ((1 - torch.exp(-2 * h) - 2 * h) / (2 * h) ** 2 - 0.5)) * D2


def multistep(order):
    return ThirdOrder if order == 3 else diffusers.DPMSolverMultistepScheduler


def name(eta):
    return "sde-dpmsolver++" if eta else "dpmsolver++"


@pytest.mark.parametrize(("order", "table"), ORDERS_AND_TABLES)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_dpm_solver_pp_multistep(order, table, eta):
    """Order 2 is the papers', which diffusers calls "midpoint"."""
    case = make(multistep(order), table=table, solver_order=order, algorithm_type=name(eta))
    assert_agree(ours(case, DPMSolverMultistep(case.schedule, order=order, eta=eta)), theirs(case))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_dpm_solver_pp_multistep_on_other_grids(grid, eta):
    case = make(ThirdOrder, solver_order=3, algorithm_type=name(eta), **GRIDS[grid])
    assert_agree(ours(case, DPMSolverMultistep(case.schedule, order=3, eta=eta)), theirs(case))


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_dpm_solver_pp_multistep_of_other_kinds(kind):
    case = make(ThirdOrder, solver_order=3, prediction_type=kind)
    assert_agree(ours(case, DPMSolverMultistep(case.schedule, order=3)), theirs(case, kind=kind))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_multistep(order):
    """In eps; diffusers refuses to end at sigma = 0 with it."""
    case = make(multistep(order), solver_order=order, algorithm_type="dpmsolver", final_sigmas_type="sigma_min")
    assert_agree(ours(case, DPMSolverMultistep(case.schedule, order=order, predict="eps")), theirs(case))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_dpm_solver_pp_multistep_flow(eta):
    case = make_flow(ThirdOrder, solver_order=3, algorithm_type=name(eta), **FLOW)
    other = theirs(case, kind="flow_prediction")
    assert_agree(ours(case, DPMSolverMultistep(case.schedule, order=3, eta=eta)), other)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_third_order_of_diffusers_differs(eta):
    """Without `ThirdOrder`: by 1 % of the state, with noise by most of it."""
    case = make(diffusers.DPMSolverMultistepScheduler, solver_order=3, algorithm_type=name(eta))
    mine = ours(case, DPMSolverMultistep(case.schedule, order=3, eta=eta))
    assert difference(mine, theirs(case)).max() > 0.01


@pytest.mark.parametrize(("order", "table"), [(2, "linear"), (3, "linear"), (3, "cosine")])
def test_dpm_solver_pp_singlestep(order, table):
    """diffusers makes one step of each `order` steps of its grid, with the calls where that grid has them; ours are at
    equal fractions of log-SNR, as the steps of a grid even in log sigma are.

    It deviates in the call at 2/3 of order 3: it goes there by the second-order rule that it calls "midpoint", where
    Algorithm 2 of DPM-Solver has the one that it calls "heun". We follow the paper, and tell diffusers to.
    """
    options = {"solver_order": order, "lower_order_final": True, "use_exponential_sigmas": True}
    case = make(diffusers.DPMSolverSinglestepScheduler, table=table, n=7 * order + 1, **options)
    assert case.scheduler.order_list == [*range(1, order + 1)] * 7 + [1]
    mine = ours(case, DPMSolverSinglestep(case.schedule, order=order), times=np.append(case.times[::order], 0.0))
    assert_agree(mine, theirs(case, each=stages_of_the_paper(case))[[*range(order - 1, 7 * order, order), -1]])


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_singlestep(order):
    """In eps. The grid's last step, which has length 0, is left out."""
    options = {"lower_order_final": True, "use_exponential_sigmas": True, "final_sigmas_type": "sigma_min"}
    options |= {"solver_order": order, "algorithm_type": "dpmsolver"}
    case = make(diffusers.DPMSolverSinglestepScheduler, n=7 * order + 1, **options)
    sampler = DPMSolverSinglestep(case.schedule, order=order, predict="eps")
    other = theirs(case, each=stages_of_the_paper(case))[order - 1 : -1 : order]
    assert_agree(ours(case, sampler, times=case.times[:-1:order]), other)


def stages_of_the_paper(case):
    """Before each of diffusers' steps: by which second-order rule to take it."""

    def each(i):
        inner = case.scheduler.config.solver_order == 3 and case.scheduler.order_list[i] == 2
        case.scheduler.register_to_config(solver_type="heun" if inner else "midpoint")
        return {}

    return each


@pytest.mark.parametrize(("order", "table"), ORDERS_AND_TABLES)
def test_unipc(order, table):
    case = make(diffusers.UniPCMultistepScheduler, table=table, solver_order=order)
    assert_agree(ours(case, UniPC(case.schedule, order=order)), theirs(case, each=full_order(case)))


def full_order(case):
    """Before each of diffusers' steps: whether its order is to fall. By default the last three have orders 3, 2 and 1,
    which UniPC's authors do in few steps only, for stability; it is in neither of the paper's algorithms. Ours falls only
    where it must, in a step to sigma = 0, and we tell diffusers to do the same."""

    def each(i):
        last = case.scheduler.config.final_sigmas_type == "zero" and i == len(case.scheduler.timesteps) - 1
        case.scheduler.register_to_config(lower_order_final=last)
        return {}

    return each


@pytest.mark.parametrize("predict", ["x0", "eps"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc_variants(variant, predict):
    options = {"solver_type": variant, "predict_x0": predict == "x0", "final_sigmas_type": "sigma_min"}
    case = make(diffusers.UniPCMultistepScheduler, solver_order=3, **options)
    sampler = UniPC(case.schedule, order=3, variant=variant, predict=predict)
    assert_agree(ours(case, sampler), theirs(case, each=full_order(case)))


@pytest.mark.parametrize("options", [*GRIDS.values(), {"prediction_type": "v_prediction"}], ids=str)
def test_unipc_on_other_grids_and_kinds(options):
    case = make(diffusers.UniPCMultistepScheduler, solver_order=3, **options)
    other = theirs(case, kind=options.get("prediction_type", "epsilon"), each=full_order(case))
    assert_agree(ours(case, UniPC(case.schedule, order=3)), other)


def test_unipc_flow():
    """Its first sigma is 1 - 1e-6: it does not start at alpha = 0."""
    case = make_flow(diffusers.UniPCMultistepScheduler, solver_order=3, **FLOW)
    other = theirs(case, kind="flow_prediction", each=full_order(case))
    assert_agree(ours(case, UniPC(case.schedule, order=3)), other)
