"""Stochastic latents: `num_params`, `dist`, `sample` and `mode` of parameters, `kl(post, prior)`,
`flat(stoch)`, and `expected(dist)`, what `flat` is on average. `centre(dist)` of many (N,...) is
the single one (...) to which the mean of their KLs is least: the best of all guesses that never
change.

`draw_into` is `sample` of rows (N,P) in bf16 into flat rows of `out`, without a graph; `way_back`
takes the gradient by those rows and what `draw_into` returned to the gradient by the parameters.
`normal` ones are drawn by noise (N,S); those that are not `noisy` have no nats to be free of.
"""
