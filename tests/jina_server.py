"""A small HTTP server that plays Jina AI's embeddings endpoint: it checks requests as the real one
does, and answers the next ones with the faults that a test asks for.

    with JinaServer() as server:
        server.faults = [status(429, {"Retry-After": "1"}), drop]   # then it answers properly
        server.limit(tokens=1000, at_once=2)                        # as for a free key
        ... JINAAI_API_URL=server.url, JINAAI_API_KEY=server.key ...
        server.requests, server.connections                         # what it was sent, by how many
"""

import functools
import hashlib
import json
import math
import random
import re
import ssl
import sys
import threading
import time
import types
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
    usual = {"detail": f"test fault {code}", "code": "TEST", "request_id": "0"}
    content = usual if body is None else body
    return lambda handler, answer: handler.reply(code, content, headers)


def body(content, code=200, content_type="application/json"):
    """Answer with *content*: bytes as they are, anything else as JSON."""
    return lambda handler, answer: handler.reply(code, content, {"Content-Type": content_type})


def changed(change):
    """Answer what *change* makes of the proper answer's data, a list of dictionaries."""
    def fault(handler, answer):
        data = change(answer["data"])
        handler.reply(200, dict(answer, data=answer["data"] if data is None else data))
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
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with owner.lock:
            owner.requests.append(types.SimpleNamespace(
                path=self.path, headers=dict(self.headers), json=request, texts=request["input"]))
            fault = owner.faults.pop(0) if owner.faults else None
            owner.open += 1
            owner.most_open = max(owner.most_open, owner.open)
        try:
            refusal, answer = self.check(request)
            admitted = fault is None and not refusal
            if admitted:
                refusal = owner.over_limit(answer["usage"]["total_tokens"])
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
        finally:
            with owner.lock:
                owner.open -= 1

    def check(self, request):
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
        model, texts = request.get("model"), request["input"]
        if model not in MODELS:
            return refuse(400, f"Model '{model}' not found")
        native, fields, most = MODELS[model]
        for field in request:
            if field not in COMMON_FIELDS + fields:
                return refuse(422, f"{model} does not take '{field}'", errors=[field])
        if not (isinstance(texts, list) and 0 < len(texts) <= most
                and all(isinstance(text, str) and text for text in texts)):
            return refuse(422, f"input takes 1 to {most} texts, none empty", errors=["input"])
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

    def handle_error(self, *connection):
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went, or that trusts no CA
            super().handle_error(*connection)


class JinaServer:
    """The endpoint at `url`, which takes `key`, or any request while that is None.
    With *tls*, a certificate that trustme issued for 127.0.0.1, it speaks HTTPS."""

    key = "jina_0123456789abcdef_test"

    def __init__(self, tls=None):
        self.tls, self.embed, self.open, self.busy = tls, embedding_of, 0, 0
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.reset()

    def __enter__(self):
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.owner, scheme = self, "http"
        if self.tls:
            context, scheme = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "https"
            self.tls.configure_cert(context)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False)
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
        self.requests, self.faults, self.latency = [], [], 0.0
        self.most_open, self.connections, self.key = 0, 0, JinaServer.key
        self.limit()

    def limit(self, tokens=math.inf, requests=math.inf, at_once=math.inf, clock=time):
        """Refuse more *tokens* (words) or *requests* in any minute of *clock*, or *at_once*."""
        self.limits, self.answered, self.clock = (tokens, requests, at_once), [], clock

    def over_limit(self, tokens):
        """Admit a request of *tokens*, or return the refusal of the limit that it is beyond."""
        most_tokens, most_requests, at_once = self.limits
        now = self.clock.monotonic()
        with self.lock:
            self.answered = [past for past in self.answered if past[0] > now - 60]
            beyond = {"CONCURRENCY": self.busy >= at_once,
                      "REQUEST": len(self.answered) >= most_requests,
                      "TOKEN": sum(past[1] for past in self.answered) + tokens > most_tokens}
            for name in filter(beyond.get, beyond):
                return 429, {"detail": f"{name.title()} rate limit exceeded",
                             "code": f"RATE_{name}_LIMIT_EXCEEDED", "request_id": "0"}
            self.answered.append((now, tokens))
            self.busy += 1
