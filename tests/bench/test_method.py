import pytest

from vllm_specflash.lab.bench.method import parse_method


def test_known_names():
    assert parse_method("plain").speculative_config is None
    assert parse_method("ngram").speculative_config["method"] == "ngram"
    assert parse_method("suffix").speculative_config == {"method": "suffix"}


def test_specflash_takes_the_draft_it_is_given():
    assert parse_method("specflash").speculative_config == {"method": "specflash"}
    assert parse_method("specflash", "d").speculative_config == {"method": "specflash", "model": "d"}
    named = parse_method('short={"method": "specflash", "num_speculative_tokens": 2}', "d")
    assert named.name == "short" and named.is_specflash
    assert named.speculative_config == {"method": "specflash", "num_speculative_tokens": 2, "model": "d"}


def test_an_eagle3_draft_is_named_by_its_folder():
    method = parse_method("eagle3=peers/one", "d")
    assert method.name == "eagle3" and not method.is_specflash
    assert method.speculative_config == {"method": "eagle3", "model": "peers/one", "num_speculative_tokens": 5}
    assert parse_method('eagle3={"method": "eagle3", "model": "m"}').speculative_config == {"method": "eagle3", "model": "m"}


def test_a_folder_of_eagle3_drafts_has_one_for_each_target_called_like_it(tmp_path):
    for name in ("scenes", "smollm2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    method = parse_method(f"eagle3={tmp_path}")
    assert method.on("smollm2").speculative_config == {"method": "eagle3", "model": str(tmp_path / "smollm2"), "num_speculative_tokens": 5}
    assert method.on("sheets") is None
    alone = parse_method(f"eagle3={tmp_path / 'scenes'}")
    assert alone.on("smollm2") is alone
    for text in ("plain", "specflash", "ngram", "eagle3=hub/draft", 'eagle3={"method": "eagle3"}'):
        assert parse_method(text).on("smollm2") == parse_method(text)


def test_any_method_of_vllm_by_its_config():
    method = parse_method('three={"method": "ngram", "num_speculative_tokens": 3}', "d")
    assert method.speculative_config == {"method": "ngram", "num_speculative_tokens": 3}


@pytest.mark.parametrize(
    ("text", "says"),
    [("medusa", "no method 'medusa'"), ("eagle3=missing", "no folder 'missing': train a draft with `specflash eagle3`"), ("x={", "is not JSON"), ("x=[1]", 'with a "method"'), ("x={}", 'with a "method"')],
)
def test_what_is_wrong_is_said(text, says):
    with pytest.raises(ValueError, match=says):
        parse_method(text)
