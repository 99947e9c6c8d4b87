"""Stochastic latents: `num_params`, then `dist`, `sample` and `mode` of parameters, `kl(post,
prior)`, `flat(stoch)`, and `expected(dist)`, the mean of `flat`.

`centre(dist)` of many distributions (N,...) is the single one (...) from which their mean KL is
least: the best constant prediction.

`sample_into` samples from parameters (N,P) in bf16 into flat rows of `out`, without a graph.
`backward_sample` turns the gradient by those rows into the gradient by the parameters, given what
`sample_into` returned. `normal` latents are sampled with noise (N,S). Free nats apply to the KL of
`noisy` latents only.
"""
