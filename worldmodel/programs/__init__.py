"""What a training and an evaluation are assembled from, and how a program ends.

train.py and eval.py use it and hand the environments in.
"""
