"""The world model: encoder, dynamics, heads, objectives and the losses that train them.

Policy, training and evaluation use it. It imports configuration and kernels, never a policy or a
run.
"""
