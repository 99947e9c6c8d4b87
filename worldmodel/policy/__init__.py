"""How actions are chosen: planners and their scores, the actor-critic, behaviors, the agent.

Training and evaluation use it. It imports the model and the replay's saved episodes, never a run.
"""
