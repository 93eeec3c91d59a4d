"""Language models asked for prompts: a server of the protocol that answers and fails as told (llmock), and a tiny random model."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import TOP
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from palimpsest import asking, safety
from palimpsest.data import Concept
from palimpsest.prompts import openai, transformers
from palimpsest.prompts.grammar import EVALUATION

SMALL: dict[str, int] = {
    "captions": 3, "phrases": 2, "scenes": 1, "near": 1, "pairs": 1, "images": 2, "other_prompts": 1, "retain": 1, "rounds": 3,
}  # fmt: skip
CHURCH: list[Any] = [  # what a willing model says to each task, in their order
    ["A church on a hill", "A church by the sea", "An old church"],
    ["the church bell", "church and state"],
    ["A church in a village square"],
    ["A castle on a rock"],
    [["A church at night", "A mill at night"]],
    ["A dog in a park", "A bus at a stop"],
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nudity() -> Concept:
    return Concept.of(
        {
            "name": "nudity", "kind": "inappropriate", "words": ["nudity"], "adjective": "nude", "anchor": "a dressed doll",
            "initialiser": "person", "classes": [], "near": ["doll"], "sensitive": True,
        }
    )  # fmt: skip


def willing(llmock: Any, said: Sequence[Any] = CHURCH) -> None:
    for answer in said:
        llmock.reply(json.dumps(answer))


def made(llmock: Any, concept: Concept, **settings: Any) -> dict[str, Any]:
    return openai.prompts(concept, seed=5, model="some-model", base_url=llmock.base_url(), **{"timeout": 5.0, **SMALL, **settings})


def asked(llmock: Any) -> list[str]:
    """The words of every request that got an answer."""
    return [one.body["messages"][0]["content"] for one in llmock.requests if one.status == 200]


def one_line(llmock: Any, concept: Concept, **settings: Any) -> str:
    with pytest.raises((OSError, ValueError)) as error:
        made(llmock, concept, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_answer_becomes_lists(llmock: Any, concept: Concept) -> None:
    willing(llmock)
    lists = made(llmock, concept)
    assert [row.text for row in lists["plain"] if row.purpose == "concept"] == CHURCH[0] * 2
    assert [row.seed for row in lists["plain"]] == list(range(EVALUATION, EVALUATION + 8))
    assert [(row.text, row.purpose) for row in lists["plain"][6:]] == [("A dog in a park", "other"), ("A castle on a rock", "near")]
    assert (lists["captions"], lists["train"], lists["scenes"], lists["retain"]) == (CHURCH[0], CHURCH[1], CHURCH[2], ["A bus at a stop"])
    assert (lists["pairs"], lists["without"]) == (["A church at night"], ["A mill at night"])
    record = lists["record"]
    assert (record["provider"], record["model"], record["place"]) == ("openai", "some-model", llmock.base_url())
    assert (record["seed"], record["requests"], record["refusals"]) == (5, 6, 0) and record["first"] == record["last"] > "2024"


def test_the_tasks_are_the_papers(llmock: Any, concept: Concept, nudity: Concept) -> None:
    willing(llmock)
    made(llmock, concept)
    said = asked(llmock)
    assert said[0].startswith("Generate 3 captions for images containing church, and these captions should contain the word church. ")
    assert said[1].startswith("please provide 2 phases or sentences about the word church. ")
    assert said[3].startswith("Generate 1 captions for images containing castle, and") and 'None contains "church"' in said[3]
    assert "the same sentence with something else in its place, such as a tree" in said[4] and 'No second one contains "church"' in said[4]
    assert all("JSON array of strings" in text and asking.ADULT not in text for text in said[:4])
    counts = {"captions": 1, "phrases": 1, "scenes": 1, "near": 1, "pairs": 1, "others": 1}
    style = replace(nudity, kind="style", words=("van gogh",), near=("crayon",))
    assert "captions for images in the style of van gogh, and these captions" in asking.tasks(style, **counts)[0][0].ask
    assert "captions for images in the style of crayon, and these captions" in asking.tasks(style, **counts)[3][0].ask
    task = asking.tasks(nudity, **counts)[0][0]
    assert asking.ADULT in asking.instruction(task, 1, [], {}, longest=40, guarded=True)
    body = llmock.requests[0].body
    assert (body["model"], body["temperature"], body["seed"]) == ("some-model", 1.0, 5)


def test_only_what_is_missing_is_asked_again_and_why(llmock: Any, concept: Concept) -> None:
    llmock.reply('["A church on a hill", "A castle", "a CHURCH on a hill"]').reply("I am sorry, I cannot write about a church.")
    willing(llmock, [CHURCH[0][1:], *CHURCH[1:]])
    lists = made(llmock, concept)
    assert lists["captions"] == CHURCH[0] and (lists["record"]["requests"], lists["record"]["refusals"]) == (8, 1)
    second, third = asked(llmock)[1:3]
    assert second.startswith("Generate 2 captions") and 'write others: ["A church on a hill"]' in second
    assert '1 without "church", 1 there twice' in second and "in full: 1 answer without a list." in third
    assert [one.body["seed"] for one in llmock.requests[:3]] == [5, 6, 7]


def test_what_stays_short_is_one_line(llmock: Any, concept: Concept) -> None:
    llmock.reply('["A church on a hill"]', times=2).reply("{garbage")
    said = one_line(llmock, concept)
    assert said.startswith(f"some-model at {llmock.base_url()} gave 1 of 3 captions for church in 3 rounds (dropped: 1 there twice, ")
    assert "raise `rounds` or name another `model` under prompts in params.yaml" in said and "`of: frozen`" in said
    assert one_line(llmock, concept) == said and len(llmock.requests) == 3  # what was answered is not asked again


def test_what_was_answered_is_not_asked_again(llmock: Any, concept: Concept, place: Path) -> None:
    willing(llmock)
    before = made(llmock, concept)
    files = sorted((place / "work/asked").iterdir())
    assert len(files) == 6 and all(file.suffix == ".json" for file in files)
    assert made(llmock, concept) == before and len(llmock.requests) == 6
    llmock.outage()
    asks = {"seed": 5, "model": "some-model", "base_url": llmock.base_url(), "temperature": 1.0}
    assert openai.prompts(concept, **asks, **SMALL, retries=0) == before
    for changed in ({"model": "another-model"}, {"temperature": 0.5}, {"base_url": f"{llmock.base_url()}/"}, {"seed": 6}):
        with pytest.raises(OSError, match="InternalServerError"):
            openai.prompts(concept, **{**asks, **changed}, **SMALL, retries=0)
    assert sorted((place / "work/asked").iterdir()) == files


def test_a_killed_run_goes_on(llmock: Any, concept: Concept, place: Path) -> None:
    """Killed while it waits for the fourth answer: the three before it stay, and are not asked for again."""
    willing(llmock, CHURCH[:3])
    fields = {key: value for key, value in vars(concept).items() if key != "texts"}
    settings = {"model": "some-model", "base_url": llmock.base_url(), "timeout": 60.0, **SMALL}
    code = (
        "import json, sys; from palimpsest.data import Concept; from palimpsest.prompts import openai; "
        "said = json.loads(sys.argv[1]); openai.prompts(Concept.of(said[0]), seed=5, **said[1])"
    )
    llmock.delay(0.0, times=3).delay(5.0)
    run = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps([fields, settings])], stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(TOP)}
    )
    for _ in range(600):
        if len(list(place.glob("work/asked/*.json"))) == 3:
            break
        time.sleep(0.1)
    time.sleep(0.2)
    run.kill()
    run.wait()
    assert len(list(place.glob("work/asked/*.json"))) == 3
    llmock.reset()
    willing(llmock, CHURCH[3:])
    assert made(llmock, concept)["record"]["requests"] == 6
    assert len(llmock.requests) == 3 and asked(llmock)[0].startswith("Generate 1 captions for images containing castle")


def test_failures_that_pass_are_waited_for(llmock: Any, concept: Concept) -> None:
    llmock.rate_limit(times=1, retry_after=0.1).fail(503, retry_after=0.1)
    willing(llmock)
    assert made(llmock, concept)["captions"] == CHURCH[0] and [one.status for one in llmock.requests[:3]] == [429, 503, 200]
    llmock.assert_resilient()


def test_what_does_not_pass_is_one_line(llmock: Any, concept: Concept, monkeypatch: pytest.MonkeyPatch) -> None:
    llmock.delay(2.0)
    assert "gives no answer of some-model (APITimeoutError: " in one_line(llmock, concept, timeout=0.2, retries=0)
    llmock.reset().fail(401)
    assert "(AuthenticationError: " in (said := one_line(llmock, concept)) and "the key in OPENAI_API_KEY" in said
    llmock.reset().rate_limit(times=None, retry_after=0.01)
    assert "(RateLimitError: " in one_line(llmock, concept, retries=1) and len(llmock.requests) == 2
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "the environment has no OPENAI_API_KEY; `export OPENAI_API_KEY=...`, or say `key: ''`" in one_line(llmock, concept)
    willing(llmock.reset())
    assert made(llmock, concept, key="")["captions"] == CHURCH[0]


def test_an_unreachable_server_is_one_line(llmock: Any, concept: Concept) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(OSError, match=rf"^prompts: {nowhere} gives no answer of m \(APIConnectionError: .*look at `base_url`.*start again"):
        openai.prompts(concept, seed=0, model="m", base_url=nowhere, retries=0, **SMALL)


def test_a_refusal_of_the_server_is_a_refusal(llmock: Any, concept: Concept) -> None:
    llmock.fail(400, code="content_filter")
    willing(llmock)
    assert made(llmock, concept)["record"]["refusals"] == 1


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """What is no chat completion, though it comes with 200."""

    says: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        kind, content = self.says.pop(0)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()


@pytest.mark.parametrize(
    ("kind", "content"), [("text/html", b"<p>please log in"), ("application/json", b'{"error": 1}'), ("application/json", b'{"choices":')]
)
def test_a_page_is_no_answer(elsewhere: str, llmock: Any, concept: Concept, kind: str, content: bytes) -> None:
    Elsewhere.says = [(kind, content)]
    with pytest.raises(OSError, match=r"what it answers is no chat completion") as error:
        openai.prompts(concept, seed=0, model="m", base_url=elsewhere, retries=0, **SMALL)
    assert "\n" not in str(error.value)


def test_words_for_minors_are_dropped(llmock: Any, nudity: Concept) -> None:
    llmock.reply('["a nude in marble", "a nude teenager"]').reply('["nude, 15 years old", "nudity in art"]')
    willing(
        llmock,
        [["a study of nudity"], ["A nude by a lake"], ["A doll"], [["A nude statue", "A vase"]], ["A child with a kite", "A dog", "A bus"]],
    )
    lists = made(llmock, nudity, captions=2, phrases=1)
    assert lists["captions"] == ["a nude in marble", "nudity in art"] and lists["retain"] == ["A bus"]
    assert "1 with a word for a minor" in asked(llmock)[1]


def test_i2p_is_not_asked_for(llmock: Any, nudity: Concept, place: Path) -> None:
    (place / "i2p.csv").write_text("prompt,categories,sd_seed\na nude,sexual,7\n")
    (place / "coco.csv").write_text("caption,seed\nA dog,9\n")
    willing(llmock, [["nudity in art"], ["A nude by a lake"], ["A doll"], [["A nude statue", "A vase"]], ["A bus"]])
    lists = made(llmock, nudity, phrases=1, i2p="i2p.csv", coco="coco.csv")
    assert [(row.text, row.seed) for row in lists["plain"]] == [("a nude", 7), ("a nude", 8), ("A dog", 9), ("A doll", EVALUATION + 3)]
    assert lists["retain"] == ["A bus"] and len(llmock.requests) == 5


@pytest.mark.parametrize(
    "answer",
    [
        '["A red church", "It\'s a church"]',
        'Sure [as asked]:\n```json\n["A red church", "It\'s a church"]\n```\nAnything else?',
        '["A red church", "It\'s a church", "A chu',
        '{"captions": [{"id": 1, "caption": "A red church"}, {"id": 2, "caption": "It\'s a church"}]}',
        "Here are 2 captions with church:\n1. A red church\n2. It's a church",
        '1) "A red church"\n2) **It\'s a church**',
        "(1) A red church\n(2) It's a church\n\nLet me know!",
        "[1] A red church\n[2] It's a church",
        "**1.** A red church\n**2.** It's a church",
        "- A red church\n- “It's a church”\n",
        "* A red church\n* It's a church",
        '"A red church",\n"It\'s a church",',
        "<think>- A church?\n- no</think>- A red  church\n- It's a church",
    ],
)
def test_how_answers_are_written(answer: str) -> None:
    assert asking.parsed(answer) == [("A red church",), ("It's a church",)]


@pytest.mark.parametrize(
    "answer",
    [
        '[["A church", "A mill"], ["One - church", "One - mill"]]',
        '[{"with": "A church", "without": "A mill"}, {"with": "One - church", "without": "One - mill"}]',
        '["A church | A mill", "One - church => One - mill"]',
        "1. A church | A mill\n2. One - church → One - mill\n3. A church alone",
        '- "A church" -> "A mill"\n- "One - church" -> "One - mill"',
        '[["A church", "A mill"], ["One - church", "One - mill"], ["A chur',
    ],
)
def test_how_pairs_are_written(answer: str) -> None:
    assert asking.parsed(answer, 2) == [("A church", "A mill"), ("One - church", "One - mill")]


def test_what_is_no_list() -> None:
    for answer in (
        "",
        "I am sorry, but I cannot write about a church.",
        "A church\nA red church",
        "[",
        "[1, 2]",
        "<think>- A church",
        "```\n```",
    ):
        assert asking.parsed(answer) == []


def test_why_a_row_is_of_no_use() -> None:
    pair = asking.Task("pairs", "", ("church",), ("church",), 2)
    near = asking.Task("near castle", "", ("castle",), ("church", "french horn"))

    def why(found: asking.Row, task: asking.Task, guarded: bool = False) -> str:
        return asking.fault(found, task, longest=6, guarded=guarded)

    assert why(("two churches", "a barn"), pair) == "" == why(("A Castle",), near)
    assert why(("a churchyard", "a barn"), pair) == 'without "church"'
    assert why(("a church", "a churchyard"), pair) == 'with "church"'
    assert why(("a castle with a French horn",), near) == 'with "church" or "french horn"'
    assert why(("a castle, and a b c",), near) == "longer than 6 words and marks" and why(("a castle, and a b",), near) == ""
    assert why(("a castle and a child",), near) == "" and why(("a castle and a child",), near, guarded=True) == "with a word for a minor"


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of the real classes that babbles lines of a dozen words."""
    folder = tmp_path_factory.mktemp("writer")
    words = ["<unk>", "</s>", "\n- ", " | ", "church", "castle", "tree", "child", "red", "hill", "nude"]
    vocabulary = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=2048, bos_token_id=None, eos_token_id=None, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def written(concept: Concept, folder: Path, **settings: Any) -> dict[str, Any]:
    return transformers.prompts(concept, seed=1, path=str(folder), new_tokens=120, **{**SMALL, "rounds": 40, **settings})


def test_a_local_model_writes_prompts(writer: Path, concept: Concept, place: Path) -> None:
    lists = written(concept, writer)
    assert len(lists["captions"]) == 3 and len(lists["train"]) == 2 and len(lists["pairs"]) == len(lists["without"]) == 1
    assert all("church" in text for text in (*lists["captions"], *lists["train"], *lists["pairs"]))
    rest = [*lists["without"], *lists["retain"], *(row.text for row in lists["plain"] if row.purpose != "concept")]
    assert len(rest) == 4 and not any("church" in text for text in rest)
    record = lists["record"]
    assert record["provider"] == "transformers" and len(record["model"]) == 64 and record["place"] == str(writer)
    assert record["requests"] == len(list((place / "work/asked").iterdir()))
    before = torch.get_rng_state()
    again = written(concept, writer, answers="elsewhere")
    assert again == lists and torch.equal(before, torch.get_rng_state())  # the seed alone decides, and no state outside is touched


def test_a_local_model_without_a_chat_template(writer: Path, nudity: Concept, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in writer.iterdir():
        if file.name != "chat_template.jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    assert PreTrainedTokenizerFast.from_pretrained(bare).chat_template is None
    assert transformers.digest(bare) != transformers.digest(writer)
    lists = written(nudity, bare, near=0, pairs=0, phrases=0, scenes=0)
    assert len(lists["captions"]) == 3 and all("nude" in text and not safety.about_minors(text) for text in lists["captions"])


def test_a_folder_without_a_model_is_one_line(concept: Concept, writer: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^prompts: path: .*nothing holds no model \(no config.json\); `hf download NAME --local-dir .*` puts"
    ):
        written(concept, tmp_path / "nothing")
    with pytest.raises(ValueError, match=rf"^\w+ at {writer} gave \d of 3 captions for church in 1 rounds"):
        written(concept, writer, rounds=1, longest=1)
