"""A small HTTP server that plays Jina AI's embeddings endpoint.

It checks requests as the real one does, and answers with the faults that a test asks for:

    with JinaServer() as server:
        server.faults = [status(429, {"Retry-After": "1"}), drop]  # for two requests
        server.limit(tokens=1000, at_once=2)                       # as for a free key
        ... JINAAI_API_URL=server.url, JINAAI_API_KEY=server.key ...
        server.requests, server.connections                        # what came, by how many
"""

import functools
import hashlib
import json
import math
import re
import ssl
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


# What Jina AI's published interface says of its models.
class Model(NamedTuple):
    dimensions: int  # of an embedding, unless the request asks for fewer
    fields: tuple  # that a request may have beside COMMON_FIELDS
    most_texts: int  # in a request


MODELS = {
    "jina-embeddings-v2-base-en": Model(768, (), 2048),
    "jina-embeddings-v2-base-zh": Model(768, (), 2048),
    "jina-embeddings-v2-small-en": Model(512, (), 2048),
    "jina-embeddings-v3": Model(1024, ("task", "dimensions", "late_chunking"), 2048),
    "jina-embeddings-v4": Model(2048, ("task", "dimensions", "late_chunking"), 512),
    "jina-embeddings-v5-text-small": Model(1024, ("task", "dimensions"), 512),
    "jina-embeddings-v5-text-nano": Model(768, ("task", "dimensions"), 512),
}
COMMON_FIELDS = ("model", "input", "embedding_type", "normalized", "truncate")
TASKS = ("retrieval.query", "retrieval.passage", "text-matching")


# %% Embeddings
@functools.cache
def embedding_of(text, model="jina-embeddings-v2-base-en", dimensions=768, task=None):
    """Return the unit vector that the server gives for a text.

    Texts that share words are near each other. Two texts, models or tasks never have the
    same vector.
    """
    vector = [0.2 * number for number in direction(json.dumps([text, model, task]), dimensions)]
    for word in re.findall(r"\w+", text.lower()):
        vector = [a + b for a, b in zip(vector, direction("word " + word, dimensions))]

    length = math.hypot(*vector)
    return [round(number / length, 8) for number in vector]


@functools.cache
def direction(seed, dimensions):
    """Return numbers from -1 to 1 that are always the same for a seed, and random otherwise."""
    digest = hashlib.shake_256(seed.encode("utf-8", "replace")).digest(dimensions)
    return [byte / 127.5 - 1 for byte in digest]


def cosine_distance(a, b):
    """Return the cosine distance of two vectors, worked out without the demo or a database."""
    product = sum(x * y for x, y in zip(a, b))
    return 1 - product / (math.hypot(*a) * math.hypot(*b))


# %% Faults: functions of the handler of a request and of the proper answer, a dict
def status(code, headers=None, body=None):
    """Answer with a status; the body has the service's form unless another one is given."""
    content = detail(f"test fault {code}") if body is None else body
    return lambda handler, answer: handler.reply(code, content, headers)


def body(content, code=200, content_type="application/json"):
    """Answer with *content*: bytes as they are, anything else as JSON."""
    return lambda handler, answer: handler.reply(code, content, {"Content-Type": content_type})


def changed(change):
    """Answer what *change* makes of the proper answer's data, a list of dicts.

    It may return other data, or change those that it gets and return None.
    """
    def fault(handler, answer):
        data = change(answer["data"])
        if data is not None:
            answer["data"] = data
        handler.reply(200, answer)
    return fault


def drop(handler, answer):
    """Close the connection without an answer."""
    handler.close_connection = True


def hang(seconds):
    """Answer nothing for so long that the client gives up."""
    return lambda handler, answer: handler.server.owner.stopping.wait(seconds)


def cut(handler, answer, announced=True):
    """Send half of an answer whose whole length is *announced*, and close the connection."""
    content = json.dumps(answer).encode()
    handler.start(200, len(content) if announced else None)
    handler.wfile.write(content[:len(content) // 2])
    handler.close_connection = True


half = functools.partial(cut, announced=False)


# %% Refusals: a status and the content of the answer, or None for a request that is right
def refusal_of(request, key):
    """Return how the service refuses a request, if it does."""
    return (
        refuse_sender(request, key)
        or refuse_fields(request.json)
        or refuse_texts(request.json)
        or refuse_options(request.json)
    )


def refuse_sender(request, key):
    if request.path != "/v1/embeddings":
        return 404, detail("Not Found")
    if key is not None and request.headers.get("Authorization") != "Bearer " + key:
        return 401, detail("Invalid API key")
    if not request.headers.get("Content-Type", "").startswith("application/json"):
        return 415, detail("Unsupported media type")
    return None


def refuse_fields(fields):
    name = fields.get("model")
    if name not in MODELS:
        return 400, detail(f"Model '{name}' not found")

    for field in fields:
        if field not in COMMON_FIELDS + MODELS[name].fields:
            return 422, detail(f"{name} does not take '{field}'", errors=[field])
    return None


def refuse_texts(fields):
    texts, most = fields.get("input"), MODELS[fields["model"]].most_texts
    if not isinstance(texts, list) or not 0 < len(texts) <= most:
        return 422, detail(f"input takes 1 to {most} texts", errors=["input"])
    if not all(isinstance(text, str) and text for text in texts):
        return 422, detail("input takes texts that are not empty", errors=["input"])
    return None


def refuse_options(fields):
    task = fields.get("task")
    if task is not None and task not in TASKS:
        return 422, detail(f"no task '{task}'", errors=["task"])

    native = MODELS[fields["model"]].dimensions
    dimensions = fields.get("dimensions", native)
    if not isinstance(dimensions, int) or not 32 <= dimensions <= native:
        return 422, detail(f"no {dimensions} dimensions", errors=["dimensions"])
    return None


def detail(words, code="TEST", **more):
    """Return the content of a refusal in the service's form."""
    return {"detail": words, "code": code, "request_id": "0", **more}


# %% The server
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer on an open connection takes 40 ms
    timeout = 60

    def setup(self):
        super().setup()
        with self.server.owner.lock:
            self.server.owner.connections += 1

    def do_POST(self):
        owner = self.server.owner
        request = self.read_request()
        fault = owner.receive(request)
        try:
            if fault is None:
                self.reply(*owner.respond(request))
            else:
                time.sleep(owner.latency)
                fault(self, owner.answer(request))
        finally:
            owner.leave()

    def read_request(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        fields = json.loads(content)
        return types.SimpleNamespace(
            path=self.path, headers=dict(self.headers), json=fields, texts=fields.get("input"))

    def start(self, code, length, headers=None):
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def reply(self, code, content, headers=None):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.start(code, len(content), headers)
        self.wfile.write(content)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # so that 20 clients can connect at once

    def handle_error(self, *connection):
        # A client may go, or trust no CA.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(*connection)


class JinaServer:
    """The endpoint at `url`, which takes `key`, or any request while that is None.

    With *tls*, a certificate that trustme issued for 127.0.0.1, it speaks HTTPS.
    """

    key = "jina_0123456789abcdef_test"
    handler = Handler

    def __init__(self, tls=None):
        self.tls = tls
        self.embed = embedding_of
        self.open = 0  # requests that are being answered
        self.busy = 0  # those of them that the limits have admitted
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.reset()

    def __enter__(self):
        self.server = Server(("127.0.0.1", 0), self.handler)
        self.server.owner = self
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.configure_cert(context)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False)

        scheme = "https" if self.tls else "http"
        self.base_url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}"
        self.url = self.base_url + "/v1/embeddings"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    def reset(self):
        """Forget requests, faults and limits, and end those that hang."""
        self.stopping.set()
        while self.open:
            time.sleep(0.01)
        self.stopping.clear()

        self.requests = []
        self.faults = []  # for the next requests; None answers properly
        self.latency = 0.0  # seconds that an answer takes
        self.most_open = 0  # requests at a time, at most
        self.connections = 0
        self.key = JinaServer.key
        self.limit()

    def limit(self, tokens=math.inf, requests=math.inf, at_once=math.inf, clock=time):
        """Refuse more *tokens* (words) or *requests* in any minute of *clock*, or *at_once*."""
        self.limits = (tokens, requests, at_once)
        self.answered = []  # the moment and the tokens of each request that was admitted
        self.clock = clock

    # What follows is called by the threads of the requests.

    def receive(self, request):
        """Note a request, and return the fault to answer it with, if there is one."""
        with self.lock:
            self.requests.append(request)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            return self.faults.pop(0) if self.faults else None

    def leave(self):
        with self.lock:
            self.open -= 1

    def respond(self, request):
        """Return a status and a content: the embeddings, or why there are none."""
        refusal = refusal_of(request, self.key)
        if refusal is None:
            refusal = self.over_limit(count_tokens(request.texts))
        if refusal is not None:
            return refusal

        answer = self.answer(request)
        time.sleep(self.latency)
        with self.lock:
            self.busy -= 1
        return 200, answer

    def answer(self, request):
        """Return the proper answer to a request, or None if it is not right."""
        if refusal_of(request, self.key):
            return None

        model = request.json["model"]
        dimensions = request.json.get("dimensions", MODELS[model].dimensions)
        task = request.json.get("task")
        data = []
        for index, text in enumerate(request.texts):
            embedding = list(self.embed(text, model, dimensions, task))
            data.append({"object": "embedding", "index": index, "embedding": embedding})
        tokens = count_tokens(request.texts)
        usage = {"total_tokens": tokens, "prompt_tokens": tokens}
        return {"model": model, "object": "list", "usage": usage, "data": data}

    def over_limit(self, tokens):
        """Admit a request of *tokens*, or return the refusal of the limit that it is beyond."""
        most_tokens, most_requests, at_once = self.limits
        now = self.clock.monotonic()
        with self.lock:
            self.answered = [past for past in self.answered if past[0] > now - 60]
            beyond = {
                "CONCURRENCY": self.busy >= at_once,
                "REQUEST": len(self.answered) >= most_requests,
                "TOKEN": sum(past[1] for past in self.answered) + tokens > most_tokens,
            }
            for name in filter(beyond.get, beyond):
                words = f"{name.title()} rate limit exceeded"
                return 429, detail(words, f"RATE_{name}_LIMIT_EXCEEDED")

            self.answered.append((now, tokens))
            self.busy += 1
            return None


def count_tokens(texts):
    """Return the number of tokens, which are words here."""
    return sum(len(text.split()) for text in texts)
