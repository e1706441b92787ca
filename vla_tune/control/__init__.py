"""From chunks of actions to a robot that moves: at a fixed rate, inside its limits, and held when anything fails."""
