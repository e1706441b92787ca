"""Runs in an environment of its own, with the public openpi-client: prints what a server answered it, as JSON."""

import json
import sys

import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def observation(size: int = 64) -> dict:
    image = np.arange(size * size * 3, dtype=np.uint32).astype(np.uint8).reshape(size, size, 3)
    return {"observation/front": image, "observation/state": np.array([0.5, -0.25, 0.125, 1.0]), "prompt": "lift the red block"}


def main(host: str, port: str, key: str, case: str) -> dict:
    client = WebsocketClientPolicy(host=host, port=int(port), api_key=key or None)
    metadata = client.get_server_metadata()
    said = {"action_horizon": metadata["action_horizon"], "numpy": np.__version__}
    if case == "infer":
        client.reset()
        reply = client.infer(observation())
        return said | {"actions": reply["actions"].tolist(), "timing": sorted(reply["server_timing"])}
    if case == "large":
        client.infer(observation(2500))
    if case == "wrong":
        client.infer(observation() | {"prompt": 3})
    if case == "reset":
        return said | client.infer({"endpoint": "reset"})
    return said


try:
    answer = main(*sys.argv[1:])
except Exception as error:  # what a client is told is what is tested
    answer = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(answer))
