"""The loop between environments and a policy: one row of experience per step.

Training and evaluation use it. Environments are handed in; it never imports torch.nn.
"""
