# syntax=docker/dockerfile:1
FROM python:3.11-slim AS build
WORKDIR /src
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY odin odin
COPY twisted twisted
# the last command writes Twisted's plugin cache, which a non-root user could not
RUN python -m venv /opt/odin \
 && /opt/odin/bin/python -m pip install --no-cache-dir --disable-pip-version-check . \
 && /opt/odin/bin/twistd --help >/dev/null

FROM python:3.11-slim
COPY --from=build /opt/odin /opt/odin
COPY etc/odin.json /etc/odin/odin.json
RUN useradd --system --no-create-home --shell /usr/sbin/nologin odin
USER odin
WORKDIR /tmp
ENV PATH=/opt/odin/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 3002 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('SERVER_PORT', '3002') + '/livez', timeout=2)"]
CMD ["twistd", "-n", "--pidfile=", "--umask=022", "odin", "--config", "/etc/odin/odin.json"]
