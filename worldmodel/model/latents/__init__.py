"""Stochastic latents: `num_params`, then `dist`, `sample` and `mode` of parameters, `kl(post,
prior)`, `flat(stoch)`, and `compute_mean(dist)`, the mean of `flat`.

`centre(dist)` of many distributions (N,...) is the single one (...) from which their mean KL is
least: the best constant prediction. `tabulate_log_probs(stoch (N,...), dist (M,...))` is a table
(N,M): the log-probability of each sample in each distribution. Free nats apply to the KL of
`noisy` latents only.
"""
