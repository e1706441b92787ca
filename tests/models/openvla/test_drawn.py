"""OpenVLA models of sizes of one's own: drawn from a seed, learned in full, written and read again."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vla_tune.data import build_pipeline, make_contract
from vla_tune.data.collate import Batch, collate
from vla_tune.models.base import Checkpoint, Outlined, Wanted
from vla_tune.models.forward import Forward
from vla_tune.models.heads import ParallelTokenHead, RegressionHead
from vla_tune.models.liveness import check_liveness
from vla_tune.models.openvla import DrawnOpenVLA, OpenVLACheckpoint
from vla_tune.models.openvla.additions import Regression
from vla_tune.models.openvla.drawn import WORDS
from vla_tune.models.openvla.load import load_tokenizer
from vla_tune.run.objects import forward_context
from vla_tune.run.stored import checkpoint_in
from vla_tune.schema import Camera, Contract
from vla_tune.tokens import uniform_bins

TOWER = {"patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "class_token": False, "global_pool": "avg"}
LANGUAGE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64}
CONFIG = {
    "timm_model_ids": ["vit_tiny_patch16_224"],
    "image_sizes": [32],
    "timm_kwargs": [TOWER],
    "text_config": LANGUAGE,
    "proprio_dimension": 4,
}
FUSED = {"timm_model_ids": CONFIG["timm_model_ids"] * 2, "image_sizes": [32, 32], "timm_kwargs": [TOWER, TOWER]}
WRIST = Camera(role="wrist", key="observation.images.wrist", height=48, width=80)
HEADS = {
    "parallel": (partial(ParallelTokenHead, deviation=8.0), {}),
    "regression": (RegressionHead, {"head": Regression(action_dimension=4)}),
}


def drawn(**changed: Any) -> DrawnOpenVLA:
    given: dict[str, Any] = {"config": CONFIG} | changed
    return DrawnOpenVLA(**given)


@pytest.fixture
def contract_for(tiny_contract: Contract) -> Callable[..., Contract]:
    """Of the tabletop's robot with a second camera, as a run with the checkpoint begins."""
    body = replace(tiny_contract.embodiment, cameras=(*tiny_contract.embodiment.cameras, WRIST))

    def made(checkpoint: DrawnOpenVLA, head: Callable[..., Any]) -> Contract:
        unread: Any = SimpleNamespace(chunks=None, counted=None)  # by uniform bins
        wanted = Wanted(embodiment=body, horizon=4, actions=unread, tokens=partial(uniform_bins, 256), head=head)
        return make_contract(
            body,
            statistics=tiny_contract.statistics,
            horizon=4,
            execute_steps=4,
            precision="fp32",
            model=checkpoint.part(wanted),
        )

    return made


def batch_of(contract: Contract, interface: Any) -> Batch:
    """Eight samples; sentence and brightness decide the action."""
    noise, pipeline = np.random.default_rng(0), build_pipeline(contract, interface)
    samples = []
    for row in range(8):
        low = 100 * (row // 2 % 2)
        pictures = {
            camera.key: noise.integers(low, low + 100, (camera.height, camera.width, 3), dtype=np.uint8)
            for camera in contract.embodiment.cameras
        }
        value = 0.02 * (row % 2 - 0.5) * (1 + row // 2 % 2)
        actions = {"actions": np.full((4, 4), value, np.float32), "action_mask": np.ones((4, 4), bool), "index": np.array([0, row])}
        said = ("lift the red block", "push the block")[row % 2]
        samples.append(
            pipeline({contract.embodiment.state_key: np.zeros(4, np.float32), "instruction": said, **pictures, **actions})
        )
    return collate(samples, pad_id=interface.pad_id)


def test_a_seed_and_sizes_say_everything():
    assert isinstance(drawn(), Checkpoint)
    assert isinstance(drawn(), Outlined)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = (drawn(seed=seed) for seed in (0, 0, 1))
    weights = [dict(checkpoint.load(device="cpu").state_dict()) for checkpoint in (first, again, other)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["projector.fc1.weight"], weights[2]["projector.fc1.weight"])
    assert first.content_hash() == again.content_hash() != other.content_hash()
    wider = drawn(config=CONFIG | {"text_config": LANGUAGE | {"intermediate_size": 96}})
    assert wider.content_hash() != first.content_hash() != drawn(additions={"head": Regression(action_dimension=4)}).content_hash()


def test_pictures_and_state_come_into_the_language_model_as_large_as_words():
    """Drawn as for a width of thousands they are a hundredth of them, and nothing is learned for hundreds of steps."""
    model = drawn().load(device="cpu")
    with torch.no_grad():
        context = model.context(torch.randn(16, 1, 3, 32, 32), torch.randn(16, 4))
    for part in (context[:, :4], context[:, 4]):
        assert 0.1 < part.std(0).mean() < 3, "over samples"
    assert 0.05 < context[:, :4].std(1).mean() < 3, "over places"
    assert model.language_model.model.embed_tokens.weight.std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("head", HEADS)
def test_it_learns_with_two_cameras_and_is_written_as_an_openvla(head: str, contract_for, tmp_path: Path):
    make, additions = HEADS[head]
    checkpoint = drawn(additions=additions)
    contract = contract_for(checkpoint, make)
    interface, network = checkpoint.interface(contract, head=make), checkpoint.load(device="cpu")
    model, batch = interface.over(network), batch_of(contract, interface)
    check_liveness(
        Forward(model, interface.pad_id, forward_context("fp32", "cpu")), build_pipeline(contract, interface), contract.embodiment
    )
    optimizer, errors = torch.optim.AdamW(network.parameters(), lr=3e-3), []
    for _ in range(40):
        loss = model.loss(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(np.abs(model.act(batch) - batch.actions.numpy())[..., :3].mean())  # pyright: ignore[reportOptionalMemberAccess]
    assert np.mean(errors[-5:]) < 0.5 * np.mean(errors[:5])
    checkpoint.write(tmp_path, dict(network.state_dict()), contract)
    written = checkpoint_in(tmp_path)
    assert isinstance(written, OpenVLACheckpoint)
    again = written.interface(contract).over(written.load(device="cpu"))
    np.testing.assert_allclose(again.act(batch), model.act(batch), atol=1e-5)


def test_two_towers_are_fused():
    model = drawn(config=CONFIG | FUSED).load(device="cpu")
    assert type(model.projector).__name__ == "FusedProjector"
    assert model.context(torch.randn(2, 2, 6, 32, 32), torch.randn(2, 4)).shape == (2, 2 * 4 + 1, 32)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"folder": "runs/merged"}, "model=tiny model.folder=runs/merged"),
        ({"base": "nf4"}, "choose adapter=full"),
        ({"config": CONFIG | {"attn_implementation": "someone/kernel"}}, "code from elsewhere"),
        ({"config": CONFIG | {"timm_kwargs": [TOWER | {"embed_dim": 2**21}]}}, "more than any model has"),
    ],
)
def test_what_is_no_model_from_nothing_is_refused(changed: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        drawn(**changed)


def test_towers_of_different_sizes_are_refused(contract_for):
    with pytest.raises(ValueError, match="the same for all"):
        contract_for(drawn(config=CONFIG | FUSED | {"image_sizes": [32, 48]}), HEADS["parallel"][0])


def test_a_word_of_a_known_task_is_one_piece_and_any_other_is_spelled():
    tokenizer = load_tokenizer(WORDS)
    assert len(tokenizer.tokenize("pick up the alphabet soup and place it in the basket")) == 11
    ids = tokenizer.encode("".join(map(chr, range(32, 127))) + "\n")
    assert tokenizer.unk_token_id not in ids
    assert max(ids) < 768, "below the action codes"
    assert (len(tokenizer), tokenizer.pad_token_id) == (1025, 1024)
