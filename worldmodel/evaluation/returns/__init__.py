"""Returns over whole episodes: playing a saved run, its drivers, statistics over seeds.

The other rooms of evaluation use it; it imports only results and plotting among them.
"""
