"""The demo as a user starts it: its output, its settings, and how it ends."""

import re
import runpy
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers import (
    KEY_NAMES,
    QUESTION,
    ROOT,
    SCRIPT,
    SETTINGS,
    TABLE,
    TEXTS,
    TIDB_TEXT,
    assert_one_line_error,
    demo_command,
    demo_environment,
    distances,
    sql,
    tutorial_output,
    unset_environment,
    without_distances,
)
from jina_server import JinaServer, cosine_distance, drop, embedding_of, hang, status
from sqlalchemy.exc import OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

KEY = JinaServer.key


def first_words(lines):
    """The words before the colon of each line on stderr."""
    return [line.partition(":")[0] for line in lines.splitlines()]


# %% What it prints
NO_SETTINGS = {
    "nothing is set": {},
    "blanks and quotes": {"JINAAI_API_KEY": " \n", "TIDB_DATABASE_URL": '""'},
}


@pytest.mark.parametrize("settings", NO_SETTINGS.values(), ids=NO_SETTINGS)
def test_without_settings_the_stand_ins_print_the_tutorials_output(run_demo, settings):
    done = run_demo(env=settings)

    assert done.returncode == 0
    assert without_distances(done.stdout) == tutorial_output()
    assert first_words(done.stderr) == ["no TIDB_DATABASE_URL", "no JINAAI_API_KEY"]


def test_a_real_run_prints_the_distances_of_the_embeddings(run_demo, real_settings):
    done = run_demo(env=real_settings)

    database = "TiDB" if real_settings["TIDB_DATABASE_URL"] else "In-Memory SQLite"
    assert without_distances(done.stdout) == tutorial_output(database)
    question = embedding_of(QUESTION)
    first, second = [cosine_distance(question, embedding_of(text)) for text in TEXTS]
    assert distances(done.stdout) == pytest.approx([first, second, second], abs=1e-6)


def test_the_question_is_asked_before_the_texts(run_main, tidb, jina):
    run_main(TIDB_DATABASE_URL=tidb)

    assert [request.texts for request in jina.requests] == [[QUESTION], TEXTS]


def test_a_newer_model_is_told_which_text_is_a_question(run_main, jina):
    run_main(JINAAI_MODEL="jina-embeddings-v3")

    tasks = [request.json["task"] for request in jina.requests]
    assert tasks == ["retrieval.query", "retrieval.passage"]


def test_a_second_run_says_that_the_texts_are_stored(run_main, tidb, capsys):
    run_main(TIDB_DATABASE_URL=tidb)
    first = capsys.readouterr()
    run_main(TIDB_DATABASE_URL=tidb)
    second = capsys.readouterr()

    assert without_distances(first.out) == tutorial_output("TiDB", "Inserting")
    assert without_distances(second.out) == tutorial_output("TiDB", "Already stored")
    assert distances(second.out) == distances(first.out)
    assert first.err == second.err == ""


def test_a_second_run_embeds_only_the_question_and_stores_nothing(run_main, tidb, jina):
    run_main(TIDB_DATABASE_URL=tidb)
    jina.requests.clear()
    run_main(TIDB_DATABASE_URL=tidb)

    assert [request.texts for request in jina.requests] == [[QUESTION]]
    stored = sql(tidb, f"SELECT content FROM {TABLE} ORDER BY id")
    assert stored == [(text,) for text in TEXTS]


@pytest.fixture
def stored(jina_demo, tidb):
    """Store texts in the demo's table on TiDB, as another run did."""
    engine = jina_demo.create_tidb_engine(tidb)

    def store(texts):
        jina_demo.create_table(engine)
        jina_demo.insert_documents(engine, texts, jina_demo.embed_texts(texts))

    yield store
    engine.dispose()


def test_a_run_completes_what_another_one_left(run_main, stored, tidb, capsys):
    stored([TIDB_TEXT])

    run_main(TIDB_DATABASE_URL=tidb)

    output = capsys.readouterr().out
    states = re.findall("  - (Inserting|Already stored): ", output)
    assert states == ["Inserting", "Already stored"]
    assert output.count("distance: ") == 3


def test_the_list_stops_at_20_documents_and_shows_it(run_main, stored, tidb, capsys):
    texts = [f"text {number}" for number in range(21)]
    stored(texts)

    run_main(TIDB_DATABASE_URL=tidb)

    listed, nearest = capsys.readouterr().out.split("- The Most Relevant")
    assert re.findall("content: (.*)", listed) == texts[:20]
    assert listed.endswith("\n  ...\n")
    assert TIDB_TEXT in nearest


def test_help_names_the_settings_and_the_script_for_texts_of_ones_own(run_demo):
    done = run_demo("--help")

    assert done.returncode == 0
    for word in "JINAAI_API_KEY", "TIDB_DATABASE_URL", "examples/own_texts.py":
        assert word in done.stdout


def test_an_argument_changes_nothing(run_demo):
    done = run_demo("--texts", "notes.txt", "argument", "-f")

    assert done.returncode == 0
    assert without_distances(done.stdout) == tutorial_output()


# %% Where it runs
def run_python(folder, *arguments, env=None, input=None):
    """Run Python in a folder, with no settings but *env*; return its completed process."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=folder,
        env=unset_environment(env),
        input=input,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_python_can_read_the_script_from_its_input(clone):
    source = SCRIPT.read_text(encoding="utf-8")

    done = run_python(clone, "-", input=source)

    assert done.returncode == 0
    assert without_distances(done.stdout) == tutorial_output()
    lines = [line for line in done.stderr.splitlines() if not line.startswith("no ")]
    assert len(lines) <= 1
    assert all(".env" in line for line in lines)


@pytest.fixture
def alone(tmp_path):
    """A folder with the script alone, without examples/."""
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(SCRIPT, folder)
    return folder


def test_the_file_alone_says_what_to_set_and_where_the_stand_ins_are(alone):
    done = run_python(alone, SCRIPT.name)

    assert_one_line_error(done, "TIDB_DATABASE_URL", "examples/")
    assert done.stdout == ""


def test_the_file_alone_works_on_tidb(alone, on_tidb):
    done = run_python(alone, SCRIPT.name, env=on_tidb)

    assert done.stderr == ""
    assert without_distances(done.stdout) == tutorial_output("TiDB")


def test_another_package_named_examples_is_not_taken_for_the_stand_ins(clone, tmp_path):
    other = tmp_path / "site-packages" / "examples"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise RuntimeError('another package')\n")

    done = run_python(clone, SCRIPT.name, env={"PYTHONPATH": str(other.parent)})

    assert done.returncode == 0, done.stderr
    assert without_distances(done.stdout) == tutorial_output()


# %% Settings
def settings_read(monkeypatch, **environment):
    """The names and values that the script has with these environment variables."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(SCRIPT), run_name="imported")


@pytest.mark.parametrize("name", KEY_NAMES)
def test_the_key_is_read_under_each_of_its_names(monkeypatch, name):
    settings = settings_read(monkeypatch, **{name: KEY})

    assert settings["JINAAI_API_KEY"] == KEY


def test_the_tutorials_name_of_the_key_comes_first(monkeypatch):
    others = dict.fromkeys(KEY_NAMES, "another")

    settings = settings_read(monkeypatch, **{**others, "JINAAI_API_KEY": KEY})

    assert settings["JINAAI_API_KEY"] == KEY


def test_what_is_not_set_has_the_tutorials_values(monkeypatch):
    settings = settings_read(monkeypatch)

    assert settings["JINAAI_API_URL"] == "https://api.jina.ai/v1/embeddings"
    assert settings["JINAAI_MODEL"] == "jina-embeddings-v2-base-en"
    assert settings["DIMENSIONS"] == 768


def test_an_endpoint_of_ones_own_may_need_no_key(run_demo, jina):
    jina.key = None

    done = run_demo(env={"JINAAI_API_URL": jina.url})

    assert without_distances(done.stdout) == tutorial_output()
    assert first_words(done.stderr) == ["no TIDB_DATABASE_URL"]
    assert len(jina.requests) == 2


VALUES = {  # of a variable, and what is read
    "a value": ("jina_1", "jina_1"),
    "blanks around it": (" jina_1\r\n", "jina_1"),
    "double quotes": ('"jina_1"', "jina_1"),
    "single quotes": ("'jina_1'", "jina_1"),
    "blanks around quotes": (' "jina_1" ', "jina_1"),
    "quotes and blanks within": ("ji'na' 1", "ji'na' 1"),
    "nothing": ("", ""),
    "blanks alone": (" \t", ""),
    "quotes alone": ("''", ""),
}


@pytest.mark.parametrize(("value", "expected"), VALUES.values(), ids=VALUES)
def test_a_setting_is_read_without_blanks_and_a_pair_of_quotes(
        demo, monkeypatch, value, expected):
    monkeypatch.setenv("SETTING", value)

    assert demo.read_setting("SETTING") == expected


def test_a_setting_that_is_not_set_is_empty(demo, monkeypatch):
    monkeypatch.delenv("SETTING", raising=False)

    assert demo.read_setting("SETTING") == ""


def test_the_quotes_that_docker_keeps_are_no_part_of_any_setting(run_demo, on_tidb):
    quoted = {name: f'"{value}"' for name, value in on_tidb.items()}

    done = run_demo(env={**quoted, "JINAAI_MODEL": "'jina-embeddings-v3'"})

    assert done.stderr == ""
    assert without_distances(done.stdout) == tutorial_output("TiDB")


ENCODINGS = {"UTF-8": "utf-8", "UTF-8 with a mark (BOM)": "utf-8-sig"}


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
def test_settings_come_from_an_env_file_beside_the_script(clone, jina, tmp_path, encoding):
    content = f"JINAAI_API_KEY='{KEY}'\nJINAAI_API_URL={jina.url}\n"
    (clone / ".env").write_text(content, encoding=encoding)
    (tmp_path / ".env").write_text("JINAAI_API_KEY=of the current folder\n")

    done = run_python(tmp_path, clone / SCRIPT.name)

    assert done.returncode == 0, done.stderr
    assert len(jina.requests) == 2


def test_the_env_file_may_be_in_a_folder_above_the_script(clone, jina, tmp_path):
    content = f"JINAAI_API_KEY={KEY}\nJINAAI_API_URL={jina.url}\n"
    (tmp_path / ".env").write_text(content)

    done = run_python(clone, SCRIPT.name)

    assert done.returncode == 0, done.stderr
    assert len(jina.requests) == 2


def test_the_environment_wins_over_the_env_file(clone, jina):
    (clone / ".env").write_text(f"JINAAI_API_KEY=of the file\nJINAAI_API_URL={jina.url}\n")

    done = run_python(clone, SCRIPT.name, env={"JINAAI_API_KEY": KEY})

    assert done.returncode == 0, done.stderr
    assert len(jina.requests) == 2


WAYS = {
    "a run": ([SCRIPT.name], tutorial_output()),
    "an import": (["-c", "import jina_ai_embeddings_demo"], ""),
}


@pytest.mark.parametrize(("arguments", "output"), WAYS.values(), ids=WAYS)
def test_an_env_file_that_cannot_be_read_is_a_warning(clone, arguments, output):
    (clone / ".env").write_text("A=1", encoding="utf-16")

    done = run_python(clone, *arguments)

    assert done.returncode == 0
    assert without_distances(done.stdout) == output
    warning = done.stderr.splitlines()[0]
    assert ".env" in warning
    assert "UTF-8" in warning


def test_the_env_example_names_every_setting():
    example = (ROOT / ".env.example").read_text(encoding="utf-8")

    assert [name for name in SETTINGS if name not in example] == []
    assert "tidbcloud.com:4000" in example
    assert "root@127.0.0.1:4000" in example


# %% How it ends when something is wrong
def test_a_tidb_url_without_a_key_is_an_error_and_stores_nothing(run_demo, tidb):
    done = run_demo(env={"TIDB_DATABASE_URL": tidb})

    assert_one_line_error(done, "JINAAI_API_KEY", "https://jina.ai/embeddings/")
    assert done.stdout == ""
    assert sql(tidb, "SHOW TABLES") == []


WRONG = {  # a setting, and a value that cannot work and has a secret in it
    "a key with a line break": ("JINAAI_API_KEY", "secret\n-"),
    "a key with a letter that no key has": ("JINAAI_API_KEY", "secret키"),
    "no URL of an endpoint": ("JINAAI_API_URL", "nonsense"),
    "another database": ("TIDB_DATABASE_URL", "postgresql://root:secret@127.0.0.1/test"),
    "a key that is refused": ("JINAAI_API_KEY", "secret"),
    "a model of other dimensions": ("JINAAI_MODEL", "jina-embeddings-v2-small-en"),
}


@pytest.mark.parametrize(("name", "value"), WRONG.values(), ids=WRONG)
def test_a_setting_that_cannot_work_is_named_and_leaves_no_table(
        run_main, tidb, capsys, name, value):
    error = run_main(**{"TIDB_DATABASE_URL": tidb, name: value})

    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert name in error
    assert "secret" not in error
    assert capsys.readouterr().out == ""
    assert sql(tidb, "SHOW TABLES") == []


def test_an_answer_without_embeddings_stores_nothing_and_the_next_run_works(
        run_main, tidb, jina, capsys):
    jina.faults = [None, status(200, body={"data": []})]

    error = run_main(TIDB_DATABASE_URL=tidb)
    stored = sql(tidb, f"SELECT content FROM {TABLE}")
    capsys.readouterr()
    run_main(TIDB_DATABASE_URL=tidb)

    assert "not 2 embeddings" in error
    assert stored == []
    assert without_distances(capsys.readouterr().out) == tutorial_output("TiDB")


def test_a_wait_before_another_try_is_told(run_demo, on_tidb, jina):
    jina.faults = [drop, None, status(503, {"Retry-After": "1"})]

    done = run_demo(env=on_tidb)

    first, second = done.stderr.splitlines()
    assert done.returncode == 0
    assert "no answer" in first
    assert "503" in second
    assert second.endswith("(next try in 1 s)")


def test_ctrl_c_ends_with_status_130_and_no_traceback(on_tidb, jina):
    jina.faults = [None, hang(30)]
    process = subprocess.Popen(
        demo_command(), env=demo_environment(on_tidb), stderr=subprocess.PIPE, text=True)
    while len(jina.requests) < 2:
        time.sleep(0.01)

    process.send_signal(signal.SIGINT)

    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert errors == ""


DATABASE_ERROR = OperationalError("SELECT 1", {}, Exception(1045, "Access denied"))
WORDED = {  # an error, and its line
    "the words of a ValueError": (ValueError("a"), "a"),
    "words of several lines": (ValueError("a\n\r b"), "a b"),
    "no words": (MemoryError(), "MemoryError"),
    "the number and words of TiDB": (
        DATABASE_ERROR, "(1045, 'Access denied'); see Troubleshooting in README.md"),
    "a vector of another length": (
        StatementError("statement", "INSERT", {}, ValueError("expected 768 dimensions")),
        "expected 768 dimensions; see Troubleshooting in README.md"),
    "all connections in use": (
        PoolTimeoutError("QueuePool limit"), "QueuePool limit"),
}


@pytest.mark.parametrize(("error", "line"), WORDED.values(), ids=WORDED)
def test_an_error_is_worded_in_one_line(demo, error, line):
    assert demo.one_line(error) == line


def test_an_embedding_error_needs_no_name_of_its_kind(demo):
    assert demo.one_line(demo.EmbeddingError("no answer")) == "no answer"


def test_a_long_error_is_cut(demo):
    line = demo.one_line(ValueError("word " * 999))

    assert line.startswith("word word")
    assert line.endswith("...")
    assert len(line) <= 500
