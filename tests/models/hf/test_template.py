import json
import shutil
from pathlib import Path

import pytest

from vla_tune.models.hf.template import check_template

NESTED = "".join(f"{{% for a{depth} in messages %}}" for depth in range(5)) + "x" + "{% endfor %}" * 5
BOMBS = [
    "{{ 'a' * 10000000000 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ lipsum(n=100000) }}",
    "{{ 'a' | center(10000000000) }}",
    "{{ '%9999999999d' % 1 }}",
    NESTED,
    "x" * 100_000,
]


@pytest.mark.parametrize("template", BOMBS)
def test_a_template_without_end_is_not_run(template: str):
    for given in (template, {"default": "plain", "tools": template}):
        with pytest.raises(ValueError, match="there: its chat template"):
            check_template(given, "there")


def test_no_template_and_that_of_a_conversation_are_taken(checkpoint):
    check_template(None, "there")
    check_template(checkpoint.processor.chat_template, "there")
    check_template("{% for m in messages %}{{ m['content'] }}{% if loop.index0 % 2 %}{{ '|' }}{% endif %}{% endfor %}", "there")


def test_a_checkpoint_with_one_has_no_processor(family, folder_of, checkpoint_of, tmp_path: Path):
    folder = Path(shutil.copytree(folder_of(family), tmp_path / "copy"))
    (folder / "sha256.json").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(BOMBS[0])
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "chat_template"}))
    with pytest.raises(ValueError, match="its chat template multiplies"):
        _ = checkpoint_of(family, folder=str(folder)).processor
