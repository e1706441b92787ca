"""Gymnasium environments of the project: `gymnasium.make("envs:vla_tune/Tabletop-v0", task="lift")`."""

import gymnasium

gymnasium.register("vla_tune/Tabletop-v0", entry_point="envs.tabletop:Tabletop", max_episode_steps=60)
gymnasium.register("vla_tune/MetaWorld-v0", entry_point="envs.meta_world.environment:MetaWorld", max_episode_steps=500)
gymnasium.register("vla_tune/Libero-v0", entry_point="envs.libero.environment:Libero", disable_env_checker=True)
