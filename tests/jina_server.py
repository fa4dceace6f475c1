"""A small HTTP server that plays Jina AI's embeddings endpoint: it checks requests as the real one
does, and answers the next ones with the faults that a test asks for.

    with JinaServer() as server:
        server.faults = [status(429, {"Retry-After": "1"}), drop]   # then it answers properly
        server.limit(tokens=1000, at_once=2)                        # as for a free key
        ... JINAAI_API_URL=server.url, JINAAI_API_KEY=server.key ...
        server.requests                                             # what it was sent
"""

import functools
import hashlib
import json
import math
import random
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What the service's published interface says of each model: its native dimensions, the fields it
# takes beside COMMON_FIELDS, and the most texts a request.
MODELS = {
    "jina-embeddings-v2-base-en": (768, (), 2048),
    "jina-embeddings-v2-base-zh": (768, (), 2048),
    "jina-embeddings-v2-small-en": (512, (), 2048),
    "jina-embeddings-v3": (1024, ("task", "dimensions", "late_chunking"), 2048),
    "jina-embeddings-v4": (2048, ("task", "dimensions", "late_chunking"), 512),
    "jina-embeddings-v5-text-small": (1024, ("task", "dimensions"), 512),
    "jina-embeddings-v5-text-nano": (768, ("task", "dimensions"), 512),
}
COMMON_FIELDS = ("model", "input", "embedding_type", "normalized", "truncate")
TASKS = ("retrieval.query", "retrieval.passage", "text-matching")


@functools.cache
def _direction(seed, dimensions):
    numbers = random.Random(int(hashlib.sha256(seed.encode("utf-8", "replace")).hexdigest(), 16))
    return [numbers.uniform(-1, 1) for _ in range(dimensions)]


@functools.cache
def embedding_of(text, model="jina-embeddings-v2-base-en", dimensions=768, task=None):
    """Return the unit vector that the server gives for *text*: near for texts that share words,
    but never the same for two texts, models or tasks."""
    parts = [(1.0, "word " + word) for word in re.findall(r"\w+", text.lower())]
    parts.append((0.2, json.dumps([text, model, task])))
    vector = [0.0] * dimensions
    for weight, seed in parts:
        for index, number in enumerate(_direction(seed, dimensions)):
            vector[index] += weight * number
    length = math.sqrt(sum(number * number for number in vector))
    return [round(number / length, 8) for number in vector]


def cosine_distance(a, b):
    """Return the cosine distance of two vectors, worked out without the demo or a database."""
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return 1 - sum(x * y for x, y in zip(a, b)) / lengths


# Faults: functions of (handler, answer), where *answer* is the proper one as a dictionary.

def status(code, headers=None, body=None):
    """Answer with a status; the body has the service's form unless another one is given."""
    def fault(handler, answer):
        handler.reply(code, body if body is not None else {
            "detail": f"test fault {code}", "code": "TEST", "request_id": "0"}, headers)
    return fault


def body(content, code=200, content_type="application/json"):
    """Answer with *content*: bytes as they are, anything else as JSON."""
    def fault(handler, answer):
        handler.reply(code, content, {"Content-Type": content_type})
    return fault


def changed(change):
    """Answer what *change* makes of the proper answer's data, a list of dictionaries."""
    def fault(handler, answer):
        data = change(answer["data"])
        handler.reply(200, dict(answer, data=answer["data"] if data is None else data))
    return fault


def drop(handler, answer):
    """Close the connection without an answer."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def hang(seconds):
    """Answer nothing for so long that the client gives up."""
    def fault(handler, answer):
        handler.server.owner.stopping.wait(seconds)
    return fault


def cut(handler, answer):
    """Announce the whole answer, send half of it and close the connection."""
    content = json.dumps(answer).encode()
    handler.start(200, len(content))
    handler.wfile.write(content[:len(content) // 2])
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_POST(self):
        owner = self.server.owner
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with owner.lock:
            owner.requests.append(Request(self.path, dict(self.headers), content))
            fault = owner.faults.pop(0) if owner.faults else None
            owner.open += 1
            owner.most_open = max(owner.most_open, owner.open)
        try:
            refusal, answer = self.check(content)
            admitted = fault is None and not refusal
            if admitted:
                refusal = owner.over_limit(answer["usage"]["total_tokens"])
            if owner.latency:
                time.sleep(owner.latency)
            if admitted and not refusal:
                with owner.lock:
                    owner.busy -= 1
            if fault is not None:
                fault(self, answer)
            elif refusal:
                self.reply(*refusal)
            else:
                self.reply(200, answer)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with owner.lock:
                owner.open -= 1
            if fault in (drop, cut):
                self.close_connection = True

    def check(self, content):
        """Return (what is refused, the proper answer)."""
        def refuse(code, detail, **more):
            return (code, dict({"detail": detail, "code": "TEST", "request_id": "0"}, **more)), None

        if self.path != "/v1/embeddings":
            return refuse(404, "Not Found")
        key = self.server.owner.key
        if key is not None and self.headers.get("Authorization") != "Bearer " + key:
            return refuse(401, "Invalid API key")
        if self.headers.get("Content-Type", "").split(";")[0] != "application/json":
            return refuse(415, "Unsupported media type")
        try:
            request = json.loads(content)
        except ValueError:
            return refuse(422, "Invalid JSON", errors=[])
        model, texts = request.get("model"), request.get("input")
        if model not in MODELS:
            return refuse(400, f"Model '{model}' not found")
        native, fields, most = MODELS[model]
        for field in request:
            if field not in COMMON_FIELDS + fields:
                return refuse(422, f"{model} does not take '{field}'", errors=[field])
        if not isinstance(texts, list) or not texts or len(texts) > most:
            return refuse(422, f"input takes 1 to {most} texts", errors=["input"])
        if not all(isinstance(text, str) and text for text in texts):
            return refuse(422, "input takes texts that are not empty", errors=["input"])
        task, dimensions = request.get("task"), request.get("dimensions", native)
        if task is not None and task not in TASKS:
            return refuse(422, f"no task '{task}'", errors=["task"])
        if not isinstance(dimensions, int) or not 32 <= dimensions <= native:
            return refuse(422, f"no {dimensions} dimensions", errors=["dimensions"])
        embed, tokens = self.server.owner.embed, sum(len(text.split()) for text in texts)
        return None, {
            "model": model, "object": "list",
            "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
            "data": [{"object": "embedding", "index": index,
                      "embedding": list(embed(text, model, dimensions, task))}
                     for index, text in enumerate(texts)]}

    def start(self, code, length, headers=None):
        self.send_response(code)
        for name, value in dict({"Content-Type": "application/json"}, **(headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def reply(self, code, content, headers=None):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.start(code, len(content), headers)
        self.wfile.write(content)

    def log_message(self, *args):
        pass


class Request:
    """A request that the server got: `path`, `headers`, and `json` or `content`."""

    def __init__(self, path, headers, content):
        self.path, self.headers, self.content = path, headers, content

    @property
    def json(self):
        return json.loads(self.content)

    @property
    def texts(self):
        return self.json["input"]


class JinaServer:
    """The endpoint at `url`, which takes `key`, or any request while that is None."""

    key = "jina_0123456789abcdef_test"

    def __init__(self, latency=0.0, embed=embedding_of):
        self.embed, self.open, self.busy = embed, 0, 0
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.reset()
        self.latency = latency

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.owner = True, self
        self.base_url = f"http://127.0.0.1:{self.server.server_address[1]}"
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
        self.requests, self.faults, self.latency, self.most_open = [], [], 0.0, 0
        self.key = JinaServer.key
        self.limit()

    def limit(self, tokens=math.inf, requests=math.inf, at_once=math.inf, minute=60.0):
        """Refuse more *tokens* (words) or *requests* in any *minute* seconds, or *at_once*."""
        self.limits, self.answered = (tokens, requests, at_once, minute), []

    def over_limit(self, tokens):
        """Admit a request of *tokens*, or return the refusal of the limit that it is beyond."""
        most_tokens, most_requests, at_once, minute = self.limits
        now = time.monotonic()
        with self.lock:
            self.answered = [past for past in self.answered if past[0] > now - minute]
            beyond = {"CONCURRENCY": self.busy >= at_once,
                      "REQUEST": len(self.answered) >= most_requests,
                      "TOKEN": sum(past[1] for past in self.answered) + tokens > most_tokens}
            for name in filter(beyond.get, beyond):
                return 429, {"detail": f"{name.title()} rate limit exceeded",
                             "code": f"RATE_{name}_LIMIT_EXCEEDED", "request_id": "0"}
            self.answered.append((now, tokens))
            self.busy += 1
