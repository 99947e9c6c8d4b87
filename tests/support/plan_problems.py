"""Scores of plans as plain functions, with what some planners ask of a score beside numbers."""

import torch


class Smooth:
    """A differentiable function of plans, (B,N,H,A) -> (B,N), and its gradient."""

    def __init__(self, function):
        self.function = function

    def __call__(self, plans):
        return self.function(plans)

    def score_with_gradient(self, plans):
        with torch.enable_grad():
            plans = plans.detach().requires_grad_()
            scores = self(plans)
            return scores.detach(), torch.autograd.grad(scores.sum(), plans)[0]
