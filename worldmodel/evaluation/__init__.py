"""What eval.py does with a saved run: returns, model quality, imagined rollouts, play, report.

The programs and the end of a training use it. Nothing else may import it.
"""
