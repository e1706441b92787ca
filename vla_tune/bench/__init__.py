"""How fast it is: each suite measures one thing and returns rows.

Nothing is imported here, so that `python -m vla_tune.bench` runs where neither LeRobot nor gymnasium is installed.
"""
