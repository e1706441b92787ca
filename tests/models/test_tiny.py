import torch

from vla_tune.models.openvla import OpenVLA, OpenVLAConfig
from vla_tune.models.openvla.tiny import NUM_TEXT_IDS, PROMPT, VOCABULARY_SIZE, smooth_action_rows, tiny_config, train_tokenizer

SENTENCES = ["lift the red block", "push the green block left"]


def test_the_tiny_default_is_the_published_structure_at_its_size(tiny_model: OpenVLA):
    count = sum(weight.numel() for weight in tiny_model.parameters())
    assert 2.6e6 < count < 2.8e6
    assert tiny_model.config.vocabulary_size == VOCABULARY_SIZE
    assert tiny_model.language_model.lm_head.weight.shape == (VOCABULARY_SIZE + 64, 192)
    assert tiny_model.language_model.model.config.pad_token_id == VOCABULARY_SIZE
    assert len(tiny_model.vision_backbone.towers) == 1


def test_every_configuration_is_its_own():
    first, second = tiny_config(), tiny_config()
    first.timm_kwargs[0]["depth"] = 99
    first.text_config.num_hidden_layers = 99
    assert second.to_dict() == tiny_config().to_dict() != first.to_dict()
    assert isinstance(first, OpenVLAConfig)


def test_neighbouring_action_codes_begin_alike(tiny_model: OpenVLA):
    head = tiny_model.language_model.lm_head.weight
    before = head.detach().clone()
    torch.manual_seed(1)
    smooth_action_rows(tiny_model, size=0.07)
    rows = head[NUM_TEXT_IDS:VOCABULARY_SIZE].detach()
    assert torch.equal(head[:NUM_TEXT_IDS], before[:NUM_TEXT_IDS])
    assert torch.equal(head[VOCABULARY_SIZE:], before[VOCABULARY_SIZE:])
    assert rows.abs().max() <= 0.07 + 1e-6
    step = (rows[1:] - rows[:-1]).norm(dim=1).mean()
    far = (rows[128:] - rows[:128]).norm(dim=1).mean()
    assert step < 0.2 * far
    random = before[NUM_TEXT_IDS:VOCABULARY_SIZE]
    assert (random[1:] - random[:-1]).norm(dim=1).mean() > 0.8 * (random[128:] - random[:128]).norm(dim=1).mean()


def test_words_of_the_tasks_are_single_pieces(tiny_tokenizer):
    text = PROMPT.format(instruction="lift the red block")
    pieces = tiny_tokenizer.convert_ids_to_tokens(tiny_tokenizer.encode(text))
    assert pieces[0] == "<s>"
    assert {"▁lift", "▁the", "▁red", "▁block", "▁robot"} <= set(pieces)
    assert any("\n" in piece for piece in pieces)
    assert "<unk>" not in pieces


def test_text_keeps_clear_of_the_action_codes(tiny_tokenizer):
    printable = "".join(map(chr, range(32, 127))) + "\n"
    ids = tiny_tokenizer.encode(printable)
    assert tiny_tokenizer.unk_token_id not in ids
    assert max(ids) < NUM_TEXT_IDS
    assert tiny_tokenizer.bos_token_id == 1
    assert tiny_tokenizer.eos_token_id == 2
    assert tiny_tokenizer.pad_token_id == VOCABULARY_SIZE
    assert len(tiny_tokenizer) == VOCABULARY_SIZE + 1


def test_the_same_sentences_make_the_same_tokenizer():
    first, second = train_tokenizer(SENTENCES), train_tokenizer(iter(SENTENCES))
    assert first.get_vocab() == second.get_vocab()
    assert first.encode("push the red block") == second.encode("push the red block")
