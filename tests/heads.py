"""Plain requests, good and hostile, with the status that each must get.

The target is a page that answers GET with 200 and POST with 405: so 405 is "taken".
"""

_TOO_LONG = b"/" + b"x" * 8200


def request(
    target=b"/livez", *lines, method=b"GET", version=b"HTTP/1.1", host=b"Host: x", body=b""
):
    """A request, one part of which is wrong as a rule."""
    head = [b"%b %b %b" % (method, target, version), *([host] if host else []), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def post(*lines, body=b""):
    return request(b"/livez", *lines, method=b"POST", body=body)


def _chunked(*lines, body=b"0\r\n\r\n"):
    return post(b"Transfer-Encoding: chunked", *lines, body=body)


HEADS = (
    # what is taken
    (200, request()),
    (200, request(version=b"HTTP/1.0")),
    (200, request(version=b"HTTP/1.0", host=b"")),
    (200, request(b"/livez", b"Connection: keep-alive", version=b"HTTP/1.0", host=b"")),
    (200, request(b"/livez?" + b"a=1&" * 63 + b"a=1")),
    (200, request(b"/livez", b"User-Agent: caf\xe9\ta")),
    (200, request(b"/livez", b"Cookie: a=b; \xff=\xfe; ;;=")),
    (200, request(b"/livez", b"Content-Type: text/html; charset=\xff")),
    (200, request(b"/livez", b"Content-Length: 0")),
    (200, request(b"/livez", b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings")),
    (200, request(b"/livez", *(b"X-%d: y" % n for n in range(90)))),
    (200, request(b"/livez", b"Content-Length: 2", body=b"{}")),
    (405, post()),
    (405, post(b"Content-Length: 3", body=b"abc")),
    (405, post(b"Content-Length: 000003", body=b"abc")),
    (405, post(b"Content-Length: 3", b"Expect: the unexpected", body=b"abc")),
    (405, _chunked(body=b"3\r\nabc\r\n0\r\n\r\n")),
    (405, _chunked(body=b"3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")),
    (405, post(b"Content-Type: multipart/form-data", b"Content-Length: 3", body=b"abc")),
    (405, post(b"Content-Type: a\x85b", b"Content-Length: 1", body=b"x")),
    (405, post(b"Content-Type: application/x-www-form-urlencoded; \xa0",
               b"Content-Length: 3", body=b"a&b")),
    (405, request(method=b"BREW")),
    (405, request(method=b"OPTIONS")),
    (405, request(method=b"render_GET")),
    (405, request(method=b"x" * 1000)),
    # the request line
    (400, request(b"http://x/livez")),
    (400, request(b"*", method=b"OPTIONS")),
    (400, request(b"x:80", method=b"CONNECT")),
    (400, request(b"/livez#x")),
    (400, request(b"/live\xc3\xa9")),
    (400, request(b"/livez\x00")),
    (400, request(b"/livez\x7f")),
    (400, request(b"livez")),
    (400, request(b"")),
    (400, b"GET  /livez HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /livez  HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET\t/livez\tHTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b" GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /livez\r\nHost: x\r\n\r\n"),
    (400, b"G\xcbT /livez HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /livez HTTP/1.1\nHost: x\n\nX: y\r\n\r\n"),
    (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    (400, request(b"/livez?" + b"a&" * 64)),
    (414, request(_TOO_LONG)),
    (505, request(version=b"HTTP/1.2")),
    (505, request(version=b"HTTP/2.0")),
    (505, request(version=b"HTTP/0.9")),
    (505, request(version=b"http/1.1")),
    (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    # Host
    (400, request(host=b"")),
    (400, request(host=b"Host:")),
    (400, request(host=b"Host: a\r\nHost: a")),
    (400, request(host=b"Host: a\r\nhost: b", version=b"HTTP/1.0")),
    (400, request(host=b"Host: a\xffb")),
    (400, request(host=b"Host: a\xffb", version=b"HTTP/1.0")),
    # other headers
    (400, request(b"/livez", b"X: y\r\n folded")),
    (400, request(b"/livez", b"X: y\r\n\tfolded")),
    (400, request(b"/livez", b"X : y")),
    (400, request(b"/livez", b"no colon")),
    (400, request(b"/livez", b": no name")),
    (400, request(b"/livez", b"X\x00: y")),
    (400, request(b"/livez", b"X\xe9: y")),
    (400, request(b"/livez", b"X: a\x00b")),
    (400, request(b"/livez", b"X: a\x0bb")),
    (400, request(b"/livez", b"X: a\x1bb")),
    (400, request(b"/livez", b"X: a\rb")),
    (400, request(b"/livez", b"X: a\nb: c")),
    (400, request(b"/livez", b"Origin: \xff")),
    (400, request(b"/livez", b"Origin: a\r\nOrigin: b")),
    (400, request(b"/livez", b"Authorization: Bearer \xff")),
    (400, request(b"/livez", b"Authorization: a\r\nAuthorization: b")),
    (431, request(b"/livez", *(b"X-%d: y" % n for n in range(120)))),
    (431, request(b"/livez", b"X: " + b"y" * 9000)),
    (431, request(b"/livez", *(b"X-%d: %b" % (n, b"y" * 4000) for n in range(5)))),
    # the body's length
    (400, post(b"Content-Length: " + b"1" * 5000)),
    (400, post(b"Content-Length: 9999999999999999")),
    (400, post(b"Content-Length: +3", body=b"abc")),
    (400, post(b"Content-Length: -1")),
    (400, post(b"Content-Length: 0x3", body=b"abc")),
    (400, post(b"Content-Length: 3, 3", body=b"abc")),
    (400, post(b"Content-Length: 3\r\nContent-Length: 3", body=b"abc")),
    (400, post(b"Content-Length: 3\r\nContent-Length: 4", body=b"abc")),
    (400, post(b"Content-Length: \xb2", body=b"ab")),
    (400, post(b"Content-Length: 1_0")),
    (400, post(b"Content-Length: 1 0")),
    (400, post(b"Content-Length:")),
    (400, _chunked(b"Content-Length: 3")),
    (400, post(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    (400, post(b"Transfer-Encoding: identity")),
    (400, post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    (400, post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    (400, post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n")),
    (400, _chunked(b"Transfer-Encoding: chunked")),
    (400, request(b"/livez", b"Transfer-Encoding: chunked", version=b"HTTP/1.0", body=b"0\r\n\r\n")),
    (400, _chunked(body=b"x\r\n")),
    (400, _chunked(body=b"-1\r\n")),
    (400, _chunked(body=b"1\r\nabc\r\n")),
    (400, _chunked(body=b"0\r\nno trailer\r\n\r\n")),
    (413, post(b"Content-Length: 999999999")),
    (413, _chunked(body=b"fffffff\r\n")),
)  # fmt: skip
